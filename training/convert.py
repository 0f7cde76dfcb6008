"""The command `python -m training.convert`, short for `elvsm_dataset convert`; data/conversion.py does the work."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .dataset import main as dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `elvsm_dataset convert`."""
    return dataset(["convert", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
