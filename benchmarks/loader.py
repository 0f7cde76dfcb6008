"""Measure how fast RealEstate10K's training samples are decoded, by the number of worker processes.

python benchmarks/loader.py --workers 1,2,4 --image-size 256

Without --data, chunks are written first: frames of 360x640 in JPEG as in the dataset, drawn as procedural walks; each
drawn frame is used several times, which makes no difference to decoding it. They lie in the page cache then, so what a
disk would add is not in the figures: about 0.4 MB for a sample of eight views.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

import numpy as np

from elvsm_training.data.conversion import chunk_entry, encode, write_chunk, write_index
from elvsm_training.data.readers.re10k import ChunkError, DatasetError, benchmark, open_store
from elvsm_training.procedural.scenes import make_texture_bank, render_views, walk

SIZE = (360, 640)
SCENES, DRAWN, FRAMES = 6, 12, 120


def write_data(folder: Path) -> None:
    """Write two chunks with index.json: SCENES scenes of FRAMES frames, DRAWN of them different pictures."""
    bank, (height, width) = make_texture_bank(48, 256), SIZE
    entries, sizes = [], []
    for seed in range(SCENES):
        path = walk(seed, FRAMES, bank, size=SIZE)
        some = slice(0, FRAMES, FRAMES // DRAWN)
        images, _ = render_views(
            path.room, bank, path.c2w[:, some], path.fxfycxcy[:, some], SIZE, supersampling=1, shadows=False
        )
        pictures = [encode(image) for image in images[0].permute(0, 2, 3, 1).numpy()]
        sizes += [len(picture) for picture in pictures]
        frames = [pictures[i * DRAWN // FRAMES] for i in range(FRAMES)]
        relative = path.fxfycxcy[0].double().numpy() / [width, height, width, height]
        entries.append(
            chunk_entry(f"scene{seed}", frames, np.linalg.inv(path.c2w[0].double().numpy()), relative)
        )
    write_chunk(folder / "000000.torch", entries[: SCENES // 2])
    write_chunk(folder / "000001.torch", entries[SCENES // 2 :])
    write_index(folder)
    print(f"{SCENES} scenes of {FRAMES} frames of {width}x{height}, {np.mean(sizes) / 1000:.0f} kB each")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="RealEstate10K, as training/data/readers/re10k.py reads it")
    parser.add_argument("--workers", default="1,2", help="numbers of processes to try")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=256)
    args = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, samples of eight views of {args.image_size}x{args.image_size}"
    )
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            write_data(Path(folder))
        try:
            store = open_store(args.data or folder)
            for workers in map(int, args.workers.split(",")):
                rate = benchmark(store, workers, args.samples, args.batch, args.image_size)
                print(f"{workers} workers: {rate}", flush=True)
        except (DatasetError, ChunkError) as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
