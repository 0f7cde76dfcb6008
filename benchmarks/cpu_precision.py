"""Time the bundled model on a CPU in float32 and bfloat16, in turn, and compare what they render.

python benchmarks/cpu_precision.py --repeats 12
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch

import elvsm_core as ec
from elvsm_core.benchmark.measure import FRAME, Stopwatch, pose


def camera(step: int, size: tuple[int, int]) -> ec.Camera:
    """Return a camera on the benchmark's path."""
    height, width = size
    return ec.Camera(width, width, width / 2, height / 2, width, height, pose(step))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--views", type=int, default=4)
    args = parser.parse_args()
    scenes = {}
    for dtype in ("float32", "bfloat16"):
        model = ec.load_model("demo", device="cpu", dtype=dtype)
        size = model.config.image_size
        rng = np.random.default_rng(0)
        scenes[dtype] = ec.Scene(model, args.views, frame=FRAME)
        for step in range(args.views):
            scenes[dtype].insert(rng.integers(0, 256, (*size, 3), dtype=np.uint8), camera(step, size))
    image, target = np.zeros((*size, 3), dtype=np.uint8), [camera(2, size)]
    renders = [scene.render_tensor(target) for scene in scenes.values()]
    print(f"bfloat16 against float32: {ec.metrics.psnr(*renders).item():.1f} dB")
    watch = Stopwatch(torch.device("cpu"), args.repeats)
    inserts = watch.in_turn([partial(s.replace, 0, image, camera(0, size)) for s in scenes.values()])
    timed = watch.in_turn([partial(s.render, target) for s in scenes.values()])
    for dtype, insert, render in zip(scenes, inserts, timed, strict=True):
        print(
            f"{dtype:9} insert {insert[0]:.1f} ms, render 1 from {args.views} views {render[0]:.1f} ms (medians)"
        )


if __name__ == "__main__":
    main()
