"""Count the views that requests find without a slot, by the number of slots: python benchmarks/slots.py

The requests, keyframes and places of mixed_requests.py, in this process and with a model too small to take time:
which views are encoded for a request depends on poses and slots, not on the model.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

# isort: split
from mixed_requests import ASIDE, KINDS, SHARES, place  # before rclpy

import elvsm_core as ec

SIDE = 16
"""Pixels of the images."""
FIRST = 100
"""Requests that are not counted: the slots are empty at first."""


def camera(x: float, y: float) -> ec.Camera:
    T = np.eye(4)
    T[:2, 3] = x, y
    return ec.Camera(12.0, 12.0, SIDE / 2, SIDE / 2, SIDE, SIDE, T)


def encoded(capacity: int, options: argparse.Namespace) -> np.ndarray:
    """Return how many views were encoded for each request."""
    torch.manual_seed(0)
    config = ec.ModelConfig(width=32, head_dim=32, layers=1, image_size=(SIDE, SIDE))
    scene = ec.Scene(ec.EfficientLVSM(config).eval(), capacity, max_keyframes=400)
    total, encode = 0, scene._engine.encode

    def counting(images: list, *rest: object) -> None:
        nonlocal total
        total += len(images)
        encode(images, *rest)

    scene._engine.encode = counting
    picture, rng, step, counts = np.zeros((SIDE, SIDE, 3), np.uint8), np.random.default_rng(0), 0, []
    for request in range(options.requests + FIRST):
        while step < options.keyframes + request // options.between:
            step += 1
            scene.insert(picture, camera(*place(step)))
        x, y = place(int(rng.integers(1, step + 1))) + rng.uniform(-ASIDE, ASIDE, 2)
        poses = KINDS[int(rng.choice(len(KINDS), p=SHARES))][2]
        total = 0
        scene.render([camera(x + 0.02 * i, y) for i in range(poses)], options.max_views)
        counts.append(total)
    return np.array(counts[FIRST:])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--between", type=int, default=25, help="requests between two keyframes (25)")
    parser.add_argument("--keyframes", type=int, default=32, help="in the scene at the start (32)")
    parser.add_argument("--max-views", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("slots | views encoded for a request: mean, p90 | requests that found all encoded")
    for capacity in options.slots:
        counts = encoded(capacity, options)
        print(
            f"{capacity} | {counts.mean():.2f}, {np.percentile(counts, 90):.0f} | {np.mean(counts == 0):.0%}"
        )


if __name__ == "__main__":
    main()
