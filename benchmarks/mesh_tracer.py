"""The ray caster for meshes: compile it, hold the GPU's pictures against the CPU's, and time both parts of drawing.

    python benchmarks/mesh_tracer.py --assets packed/ [--device cpu] [--pictures sheet.png]

Prints seconds for loading and planning, differences between GPU and CPU, milliseconds a view and rays a second. On a
machine without a GPU only the CPU is timed. Exits with 1 when the pictures differ.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from elvsm_training.assets.packed import load_packed
from elvsm_training.procedural.meshes.bank import MeshBank, make_mesh_bank
from elvsm_training.procedural.meshes.rooms import plan_mesh_scenes
from elvsm_training.procedural.meshes.scene import MeshConfig, MeshPlan, render_mesh_plan
from elvsm_training.procedural.meshes.tracer import device_module, host_library
from elvsm_training.procedural.scenes import SceneBatch, SceneConfig

PLAIN = SceneConfig(noise=0.0)


def timed(label: str, start: float, more: str = "") -> None:
    print(f"{label}: {time.perf_counter() - start:.2f} s{more}", flush=True)


def plan(bank: MeshBank, scenes: int, views: int, size: int, seed: int) -> MeshPlan:
    """Draw plans; the same for a seed."""
    return plan_mesh_scenes(
        PLAIN, bank.catalogue(), scenes, views, (size, size), torch.Generator().manual_seed(seed)
    )


def compare(cpu: SceneBatch, gpu: SceneBatch) -> bool:
    """Print how far two renderings are apart and return whether that is rounding alone.

    A ray along an edge may meet either side of it, so a few pixels may differ.
    """
    grey = (cpu.images.int() - gpu.images.cpu().int()).abs().amax(2)
    depth = (cpu.depth - gpu.depth.cpu()).abs() / cpu.depth
    far, differ = float((depth > 1e-3).float().mean()), float((grey > 4).float().mean())
    print(
        f"GPU against CPU: depth differs by more than 0.1 % in {far:.3%} of the pixels, "
        f"colour by more than 4 grey levels in {differ:.3%}, on average by {float(grey.float().mean()):.3f}"
    )
    return far < 0.005 and differ < 0.01


def time_render(bank: MeshBank, drawn: MeshPlan, config: MeshConfig, rounds: int) -> float:
    """Return milliseconds a view of the fastest of some rounds."""
    views = drawn.c2w.shape[0] * drawn.c2w.shape[1]
    best = float("inf")
    on_gpu = bank.device.type == "cuda"
    moved = drawn.to(bank.device)
    for _ in range(rounds):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        render_mesh_plan(bank, moved, config)
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 1000 * best / views


def sheet(scenes: SceneBatch, path: Path) -> None:
    """Write the pictures, a row a scene."""
    from PIL import Image

    b, v, _, h, w = scenes.images.shape
    pixels = scenes.images.cpu().permute(0, 3, 1, 4, 2).reshape(b * h, v * w, 3).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--assets", type=Path, help="packed assets; without them rooms hold plain solids alone"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--views", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    host_library()
    timed("compiled for the CPU", start)
    start = time.perf_counter()
    packed = load_packed(options.assets) if options.assets is not None else None
    timed("assets read", start)
    start = time.perf_counter()
    bank = make_mesh_bank(packed)
    megabytes = sum(t.numel() * 4 for t in bank.tables.values()) / 1e6
    timed(
        "bank built",
        start,
        f", {len(bank.shapes)} meshes, {len(bank.tables['triangles'])} triangles, {megabytes:.0f} MB",
    )
    start = time.perf_counter()
    drawn = plan(bank, options.scenes, options.views, options.size, options.seed)
    timed(
        f"{options.scenes} scenes planned",
        start,
        f", {len(drawn.instances) / options.scenes:.0f} pieces each",
    )
    good = True
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        start = time.perf_counter()
        device_module()
        timed("compiled for the GPU", start)
        start = time.perf_counter()
        fast = bank.to(device)
        torch.cuda.synchronize()
        timed("bank moved", start)
        small = plan(bank, 3, 2, 96, options.seed + 1)
        for config in (MeshConfig(), MeshConfig(rays=4, ambient=2)):
            good &= compare(render_mesh_plan(bank, small, config), render_mesh_plan(fast, small, config))
        bank = fast
    else:
        drawn = plan(bank, 2, 2, min(options.size, 128), options.seed)
    pixels = drawn.size[0] * drawn.size[1]
    for config in (
        MeshConfig(ambient=0, shadows=False), MeshConfig(ambient=0), MeshConfig(), MeshConfig(ambient=2),
        MeshConfig(rays=4), MeshConfig(rays=4, ambient=2),
    ):  # fmt: skip
        cost = time_render(bank, drawn, config, 3 if on_gpu else 1)
        each = config.rays * (1 + config.ambient + int(config.shadows))
        print(
            f"{config.rays} rays a pixel, each with {config.ambient} ambient and {int(config.shadows)} to a lamp: "
            f"{cost:.3f} ms a view of {drawn.size[1]}x{drawn.size[0]}, {each * pixels / cost / 1e3:.1f} Mrays/s",
            flush=True,
        )
    if options.pictures is not None:
        sheet(render_mesh_plan(bank, drawn), options.pictures)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
