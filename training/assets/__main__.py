"""Pack furniture, textures and panoramas: `python -m training.assets --furniture FILE.deb --pack FOLDER --out
packed/`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from .packer import Packer
from .sources import AssetError, Pack, open_libraries, scratch_folder


def main(arguments: list[str] | None = None) -> int:
    """Run the packer; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.assets", description=__doc__)
    parser.add_argument(
        "--furniture", type=Path, help="sweethome3d-furniture_*.deb, or a folder with *.sh3f files"
    )
    parser.add_argument("--pack", type=Path, help="folder with MANIFEST.csv, textures, panoramas and worlds")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    if options.furniture is None and options.pack is None:
        parser.error("give --furniture or --pack: there is nothing to pack otherwise")
    packer = Packer(lambda line: print(line, flush=True))
    try:
        if options.pack is not None:
            packer.add_pack(Pack(options.pack))
        if options.furniture is not None:
            with scratch_folder() as scratch:
                for library in open_libraries(options.furniture, Path(scratch)):
                    packer.add_library(library)
        packer.write(options.out)
    except AssetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    reasons = Counter(reason.split(":")[0] for reason in packer.skipped.values())
    size = sum(f.stat().st_size for f in options.out.iterdir()) / 1e6
    roles = Counter(m["role"] for m in packer.meshes)
    print(f"{options.out}: {len(packer.meshes)} meshes, {len(packer.images)} images, {size:.1f} MB")
    print("roles: " + ", ".join(f"{role} {n}" for role, n in sorted(roles.items())))
    print("skipped: " + (", ".join(f"{n} x {reason}" for reason, n in reasons.items()) or "nothing"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
