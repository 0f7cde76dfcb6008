"""Measure insertion and rendering against a plain baseline and the device's own ceilings.

python -m elvsm_core.benchmark                            full-size model, random weights, 256x256
python -m elvsm_core.benchmark --model demo --views 1 4   the bundled model, on whatever device there is
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .attention import attention, forced_backend
from .cameras import Camera
from .checkpoint import load_model, resolve_device, resolve_dtype
from .config import PRESETS, ModelConfig
from .frame import SceneFrame
from .images import to_uint8
from .model import EfficientLVSM, KeysValues
from .scene import Scene


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement: milliseconds, and what they compare with (None where it does not apply)."""

    what: str
    views: int
    targets: int
    median_ms: float
    p99_ms: float
    baseline_ms: float | None = None
    floor_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Rates that this device reached in this run, TFLOP/s: a large matrix product, and attention."""

    matmul: float
    attention: float


def flops(
    config: ModelConfig, size: tuple[int, int], views: int, targets: int, inserts: int
) -> tuple[float, float]:
    """Return floating-point operations of the linear layers and of attention.

    For `inserts` encoded views and `targets` views rendered from `views`.
    """
    p, d, layers = config.tokens(size), config.width, config.layers
    per_token = 2 * d * d * layers * (6 + 2 * config.mlp_ratio)
    patch = 2 * d * config.patch_size**2
    linear = p * (inserts * (per_token + 9 * patch) + targets * (per_token + (6 + 3) * patch))
    pairs = inserts * p * p + targets * p * p * (1 + views)
    return float(linear), float(4 * d * layers * pairs)


class Stopwatch:
    """Time calls on a device: warm up, then `repeats` calls, each waited for."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def __call__(self, call: Callable[[], object]) -> tuple[float, float]:
        """Return median and 99th percentile, milliseconds of wall clock."""
        for _ in range(3):
            call()
        times = []
        for _ in range(self.repeats):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            times.append(1e3 * (time.perf_counter() - start))
        return float(np.median(times)), float(np.percentile(times, 99))

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Baseline:
    """What one would write first: eager, the cache grown by concatenation, insert and render in one call."""

    def __init__(self, model: EfficientLVSM) -> None:
        self.model = model
        self.cache: KeysValues | None = None

    @torch.inference_mode()
    def append_and_render(
        self, view: Sequence[Tensor], targets: Sequence[Tensor], size: tuple[int, int]
    ) -> Tensor:
        with forced_backend("FLASH_ATTENTION" if self.model.dtype == torch.bfloat16 else "MATH"):
            new = self.model.encode_views(*view)
            if self.cache is None:
                self.cache = new
            else:
                self.cache = [
                    (torch.cat([k, k2], 1), torch.cat([v, v2], 1))
                    for (k, v), (k2, v2) in zip(self.cache, new, strict=True)
                ]
            return self.model.decode(self.cache, targets[0], targets[1], size)


def measure_ceilings(model: EfficientLVSM, watch: Stopwatch) -> Ceilings:
    device, dtype = model.device, model.dtype
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    matmul = 2 * n**3 / watch(lambda: a @ b)[0] / 1e9
    p, heads, head_dim = (
        model.config.tokens(model.config.image_size),
        model.config.heads,
        model.config.head_dim,
    )
    q = torch.randn(8, p, heads, head_dim, device=device, dtype=dtype)
    k, v = (torch.randn(8, 4 * p, heads, head_dim, device=device, dtype=dtype) for _ in range(2))
    attended = 4 * 8 * 4 * p * p * heads * head_dim / watch(lambda: attention(q, k, v))[0] / 1e9
    return Ceilings(matmul, attended)


def pose(step: int) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = [0.05 * (step % 16), 0.02 * (step // 16), 0.0]
    return T


class Benchmark:
    """Run the measurements of one model at one size; `rows` collects them."""

    def __init__(
        self, model: EfficientLVSM, size: tuple[int, int], repeats: int, with_baseline: bool = True
    ) -> None:
        self.model, self.size, self.with_baseline = model, size, with_baseline
        self.watch = Stopwatch(model.device, repeats)
        self.ceilings = measure_ceilings(model, self.watch)
        self.rows: list[Row] = []
        rng = np.random.default_rng(0)
        self.image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)

    def camera(self, step: int) -> Camera:
        height, width = self.size
        return Camera(width, width, width / 2, height / 2, width, height, pose(step))

    def scene(self, capacity: int) -> Scene:
        frame = SceneFrame(np.eye(4), 0.5)
        return Scene(self.model, capacity=capacity, image_size=self.size, frame=frame)

    def floor(self, views: int, targets: int, inserts: int) -> float:
        linear, attended = flops(self.model.config, self.size, views, targets, inserts)
        return linear / self.ceilings.matmul / 1e9 + attended / self.ceilings.attention / 1e9

    def insert_and_render(self, view_counts: Sequence[int], target_counts: Sequence[int]) -> None:
        """Time insertion, rendering, and both together, at growing numbers of views."""
        scene = self.scene(max(view_counts) + 1)
        baseline = Baseline(self.model)
        for views in sorted(view_counts):
            while len(scene) < views:
                scene.insert(self.image, self.camera(len(scene)))
            last = scene.views[-1]
            insert = self.watch(partial(scene.replace, last, self.image, self.camera(last)))
            self.rows.append(Row("insert", views, 0, *insert, floor_ms=self.floor(views, 0, 1)))
            for targets in target_counts:
                cameras = [self.camera(3 * i) for i in range(targets)]
                render = self.watch(partial(scene.render, cameras))
                self.rows.append(
                    Row("render", views, targets, *render, floor_ms=self.floor(views, targets, 0))
                )

                def both(cameras: list[Camera] = cameras, last: int = last) -> None:
                    scene.replace(last, self.image, self.camera(last))
                    scene.render(cameras)

                plain = self._baseline(baseline, views, targets) if self.with_baseline else None
                floor = self.floor(views, targets, 1)
                self.rows.append(Row("insert + render", views, targets, *self.watch(both), plain, floor))

    def _baseline(self, baseline: Baseline, views: int, targets: int) -> float:
        """Append the last of `views` views and render, including rays' upload and the image's way back."""
        device = self.model.device
        frame = SceneFrame(np.eye(4), 0.5)
        k = torch.tensor([self.camera(0).fxfycxcy], device=device)

        def poses(count: int) -> Tensor:
            return torch.from_numpy(frame.to_model([pose(3 * i) for i in range(count)])).to(device)

        def upload() -> list[Tensor]:
            image = torch.from_numpy(self.image).to(device).permute(2, 0, 1)[None].float() / 255
            return [image, poses(1), k]

        baseline.cache = None
        target = [poses(targets)[None], k.expand(targets, 4)[None]]
        for _ in range(views - 1):
            baseline.append_and_render(upload(), [target[0][:, :1], target[1][:, :1]], self.size)
        before = baseline.cache

        def call() -> None:
            baseline.cache = before
            to_uint8(baseline.append_and_render(upload(), target, self.size)).cpu()

        return self.watch(call)[0]

    def selection(self, counts: Sequence[int], max_views: int, targets: int) -> None:
        """Time renders from `max_views` of many stored keyframes that do not all fit on the device."""
        for count in counts:
            scene = self.scene(64)
            while len(scene) < count:
                scene.insert(self.image, self.camera(len(scene)))
            cameras = [self.camera(3 * i) for i in range(targets)]
            result = self.watch(partial(scene.render, cameras, max_views=max_views))
            floor = self.floor(max_views, targets, 0)
            self.rows.append(
                Row(f"render {max_views} of {count} keyframes", max_views, targets, *result, floor_ms=floor)
            )

    def memory(self, insertions: int, capacity: int) -> tuple[int, int]:
        """Insert and evict `insertions` views; return device bytes (0 on a CPU) before and after."""
        cuda = self.model.device.type == "cuda"
        scene = Scene(self.model, capacity, self.size, SceneFrame(np.eye(4), 0.5), max_keyframes=capacity)
        for i in range(2 * capacity):
            scene.insert(self.image, self.camera(i))
        before = torch.cuda.memory_allocated(self.model.device) if cuda else 0
        for i in range(insertions):
            scene.insert(self.image, self.camera(i))
        return before, torch.cuda.memory_allocated(self.model.device) if cuda else 0


def table(rows: Sequence[Row]) -> str:
    lines = [
        f"{'what':32} {'views':>5} {'targets':>7} {'median ms':>10} {'p99 ms':>8} {'baseline':>9} "
        f"{'ratio':>6} {'of floor':>8}"
    ]
    for row in rows:
        plain = f"{row.baseline_ms:9.2f}" if row.baseline_ms else f"{'':9}"
        ratio = f"{row.baseline_ms / row.median_ms:5.2f}x" if row.baseline_ms else f"{'':6}"
        share = f"{100 * row.floor_ms / row.median_ms:7.0f}%" if row.floor_ms else ""
        lines.append(
            f"{row.what:32} {row.views:5} {row.targets:7} {row.median_ms:10.2f} {row.p99_ms:8.2f} "
            f"{plain} {ratio} {share}"
        )
    return "\n".join(lines)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> EfficientLVSM:
    torch.manual_seed(0)
    return EfficientLVSM(config).to(device=device, dtype=dtype).eval().requires_grad_(False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="elvsm_core.benchmark", description="Measure insertion and rendering."
    )
    parser.add_argument(
        "--model", default="efficient-lvsm", help="preset with random weights, or weights to load"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="image size, pixels (the model's)"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--keyframes", type=int, nargs="*", default=[], help="scene sizes for selection, 1000 say"
    )
    parser.add_argument("--insertions", type=int, default=0, help="insertions for the memory test, 10000 say")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args(argv)

    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    if args.model in PRESETS and args.model != "demo":
        model = random_model(PRESETS[args.model], device, dtype)
    else:
        model = load_model(args.model, device, dtype)
    size = (args.size[0], args.size[1]) if args.size else model.config.image_size
    bench = Benchmark(model, size, args.repeats, not args.no_baseline)
    print(f"{args.model} {size[0]}x{size[1]} {dtype} on {device_name(device)}, torch {torch.__version__}")
    print(f"ceilings: matmul {bench.ceilings.matmul:.2f}, attention {bench.ceilings.attention:.2f} TFLOP/s")
    bench.insert_and_render(args.views, args.targets)
    if args.keyframes:
        bench.selection(args.keyframes, max_views=8, targets=max(args.targets))
    print(table(bench.rows))
    result = {
        "model": args.model,
        "size": size,
        "dtype": str(dtype),
        "device": device_name(device),
        "torch": torch.__version__,
        "ceilings": dataclasses.asdict(bench.ceilings),
        "rows": [dataclasses.asdict(row) for row in bench.rows],
    }
    if device.type == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated(device)
        print(f"peak device memory {result['peak_bytes'] / 1e9:.2f} GB")
    if args.insertions:
        before, after = bench.memory(args.insertions, 64)
        result["insertions"] = {"count": args.insertions, "bytes_before": before, "bytes_after": after}
        print(
            f"device memory over {args.insertions} insertions: {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB"
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in dataclasses.fields(Row)])
            writer.writeheader()
            writer.writerows(dataclasses.asdict(row) for row in bench.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
