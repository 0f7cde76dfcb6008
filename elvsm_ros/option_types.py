"""Types of command-line options, for argparse's `type=`."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def positive(text: str) -> float:
    """Return a finite number above zero. Raises argparse.ArgumentTypeError."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def at_least(low: int) -> Callable[[str], int]:
    """Return a type that takes whole numbers from `low` on and raises argparse.ArgumentTypeError for others."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {text}")
        return value

    return whole_number
