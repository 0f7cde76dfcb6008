"""Fill a scene with thousands of keyframes: python benchmarks/many_keyframes.py

Tells whether memory is what it should be by calculation, and what insertion, selection and eviction take when the
scene is full. Ends with status 1 when memory exceeds the calculation or selection its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

import elvsm_core as ec

OVERHEAD = 4096
"""Bytes that a keyframe may cost beside its picture: pose, intrinsics, Python's objects."""
RESERVE = 8_000_000
"""Bytes that the allocator may keep for itself, however many keyframes there are."""
SELECTION_LIMIT = 0.5
"""Milliseconds to choose the keyframes for a request of one view."""


def resident() -> float:
    """Return this process's memory that is not swapped out, bytes; what malloc keeps for later is given back."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc's own
        ctypes.CDLL(None).malloc_trim(0)
    text = Path("/proc/self/status").read_text()
    return 1024 * float(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))


def calculated(count: int, size: tuple[int, int]) -> int:
    """Return the bytes of host memory that keyframes of a size (height, width) take at most."""
    return RESERVE + count * (3 * size[0] * size[1] + OVERHEAD)


def pose(rng: np.random.Generator, extent: float) -> np.ndarray:
    """Return T_world_cam of a camera that stands anywhere in a square of `extent` metres, and looks any way."""
    yaw = rng.uniform(0, 2 * np.pi)
    T = np.eye(4)
    T[:3, :3] = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    T[[0, 2], 3] = rng.uniform(0, extent, 2)
    return T


class Filling:
    """A scene that is filled with noise from random places. size: (height, width) pixels of its pictures."""

    def __init__(self, model: ec.EfficientLVSM, size: tuple[int, int], keyframes: int, capacity: int = 64):
        self._rng = np.random.default_rng(0)
        self._extent = 0.25 * np.sqrt(keyframes)
        self.scene = ec.Scene(model, capacity=capacity, image_size=size, max_keyframes=keyframes)

    def camera(self) -> ec.Camera:
        height, width = self.scene.image_size
        return ec.Camera(
            0.8 * width, 0.8 * width, width / 2, height / 2, width, height, pose(self._rng, self._extent)
        )

    def insert(self, count: int) -> np.ndarray:
        """Insert keyframes, and return what each took, milliseconds."""
        height, width = self.scene.image_size
        times = []
        for _ in range(count):
            image = self._rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            camera = self.camera()
            start = time.perf_counter()
            self.scene.insert(image, camera)
            times.append((time.perf_counter() - start) * 1e3)
        return np.array(times)

    def select(self, count: int, targets: int, max_views: int = 4) -> np.ndarray:
        """Choose keyframes for requests of so many targets, and return what each took, milliseconds.

        Of this thread's time on a core, so that other work on the machine does not count.
        """
        times = []
        for _ in range(count):
            cameras = [self.camera() for _ in range(targets)]
            start = time.thread_time()
            self.scene.plan(cameras, max_views)
            times.append((time.thread_time() - start) * 1e3)
        return np.array(times)


def words(times: np.ndarray) -> str:
    return f"p50 {np.percentile(times, 50):7.3f} ms   p99 {np.percentile(times, 99):7.3f} ms"


def main() -> int:
    """Fill, measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="demo", help="weights (demo); 'random': a tiny model, when only selection counts"
    )
    parser.add_argument("--device", default="cpu", help="PyTorch device (cpu)")
    parser.add_argument("--size", type=int, default=32, help="side of the keyframes in pixels (32)")
    parser.add_argument("--keyframes", type=int, default=10_000, help="keyframes (10000)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = (options.size, options.size)
    if options.model == "random":
        config = ec.ModelConfig(width=64, head_dim=32, layers=1, patch_size=8)
        model = ec.EfficientLVSM(config).eval().to(options.device)
    else:
        model = ec.load_model(options.model, device=options.device)
    filling = Filling(model, size, options.keyframes)
    scene = filling.scene
    first = filling.insert(200)  # everything that is made once has been made by now
    before = resident()
    filling.insert(options.keyframes - 400)
    last = filling.insert(200)
    grown, allowed = resident() - before, calculated(options.keyframes - 200, size)
    chosen = {targets: filling.select(300, targets) for targets in (1, 8)}
    full = resident()
    evicting = filling.insert(300)
    kept = resident() - full
    print(f"{len(scene)} keyframes of {size[1]}x{size[0]} pixels, {scene.capacity} slots, {options.model}")
    print(f"{'memory':28} {grown / 1e6:7.1f} MB, by calculation {allowed / 1e6:.1f} MB at most")
    print(f"{'300 more, 300 evicted':28} {kept / 1e6:+7.1f} MB")
    print(f"{'insertion, the first 200':28} {words(first)}")
    print(f"{'insertion, the last 200':28} {words(last)}")
    print(f"{'insertion and eviction':28} {words(evicting)}")
    for targets, times in chosen.items():
        print(f"{f'selection, {targets} targets':28} {words(times)}")
    good = grown <= allowed and len(scene) == options.keyframes
    good = good and float(np.median(chosen[1])) <= SELECTION_LIMIT
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
