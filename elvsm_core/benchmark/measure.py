"""What `benchmark.py` measures: insertion and rendering, a plain baseline, and the device's own ceilings."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..attention import attention, forced_backend
from ..cameras import Camera
from ..checkpoint import load_model
from ..config import PRESETS, ModelConfig
from ..frame import SceneFrame
from ..images import to_uint8
from ..model import EfficientLVSM, KeysValues
from ..scene import Scene

log = logging.getLogger(__name__)

FRAME = SceneFrame(np.eye(4), 0.5)
TOGETHER = 8
"""Views that are moved and encoded again at once."""


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One measurement: milliseconds of wall clock, and what they compare with (None: does not apply)."""

    what: str
    height: int
    width: int
    views: int
    targets: int
    median_ms: float
    p99_ms: float
    baseline_ms: float | None = None
    floor_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Rates that this device reached in this run, TFLOP/s: a large matrix product, and attention by shape.

    attention: {(queries, keys): rate}, in tokens.
    """

    matmul: float
    attention: dict[tuple[int, int], float]

    @property
    def best_attention(self) -> float:
        return max(self.attention.values())


@dataclasses.dataclass(frozen=True)
class Memory:
    """Device memory over many insertions, bytes; all 0 on a CPU."""

    insertions: int
    weights: int
    slots: int
    before: int
    after: int
    peak: int


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

    def __call__(self, call: Callable[[], object], repeats: int | None = None) -> tuple[float, float]:
        """Return median and 99th percentile, milliseconds of wall clock."""
        return self.in_turn([call], repeats)[0]

    def in_turn(
        self, calls: Sequence[Callable[[], object]], repeats: int | None = None
    ) -> list[tuple[float, float]]:
        """Time several calls in turn, so that what else runs on the machine slows all of them alike."""
        times: list[list[float]] = [[] for _ in calls]
        for round_ in range(-3, repeats or self.repeats):
            for call, own in zip(calls, times, strict=True):
                self.wait()
                start = time.perf_counter()
                call()
                self.wait()
                if round_ >= 0:
                    own.append(1e3 * (time.perf_counter() - start))
        return [(float(np.median(own)), float(np.percentile(own, 99))) for own in times]

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


def measure_ceilings(
    model: EfficientLVSM, size: tuple[int, int], view_counts: Sequence[int], watch: Stopwatch
) -> Ceilings:
    """Measure a matrix product of 8192 (CPU: 1024) and attention between the numbers of tokens that occur."""
    device, dtype = model.device, model.dtype
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    matmul = 2 * n**3 / watch(lambda: a @ b, 10)[0] / 1e9
    p, heads, d = model.config.tokens(size), model.config.heads, model.config.head_dim
    rates = {}
    for targets, views in [(1, 1), *((8, views) for views in sorted({4, max(view_counts)}))]:
        q = torch.randn(1, targets * p, heads, d, device=device, dtype=dtype)
        k, v = (torch.randn(1, views * p, heads, d, device=device, dtype=dtype) for _ in range(2))
        ms = watch(partial(attention, q, k, v), 10)[0]
        rates[targets * p, views * p] = 4 * targets * views * p * p * heads * d / ms / 1e9
    return Ceilings(matmul, rates)


def pose(step: int) -> np.ndarray:
    """Return a pose on a path that goes to and fro, 5 cm a step."""
    T = np.eye(4)
    T[:3, 3] = [0.05 * (step % 16), 0.02 * (step // 16), 0.0]
    return T


class Benchmark:
    """Run the measurements of one model at one size; `rows` collects them."""

    def __init__(
        self,
        model: EfficientLVSM,
        size: tuple[int, int],
        view_counts: Sequence[int],
        target_counts: Sequence[int],
        repeats: int,
        *,
        with_baseline: bool = True,
        engine: str = "auto",
    ) -> None:
        self.model, self.size, self.with_baseline, self.engine = model, size, with_baseline, engine
        self.view_counts, self.target_counts = sorted(view_counts), sorted(target_counts)
        self.watch = Stopwatch(model.device, repeats)
        self.ceilings = measure_ceilings(model, size, view_counts, self.watch)
        self.rows: list[BenchmarkRow] = []
        rng = np.random.default_rng(0)
        self.image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)

    def camera(self, step: int) -> Camera:
        height, width = self.size
        return Camera(width, width, width / 2, height / 2, width, height, pose(step))

    def scene(self, capacity: int, view_counts: Sequence[int], max_keyframes: int | None = None) -> Scene:
        """Return a scene that is prepared for the requests to come; the time that takes is logged."""
        scene = Scene(self.model, capacity, self.size, FRAME, engine=self.engine, max_keyframes=max_keyframes)
        start = time.perf_counter()
        scene.warm_up(view_counts=view_counts, target_counts=self.target_counts)
        self.watch.wait()
        log.info("prepared in %.1f s", time.perf_counter() - start)
        return scene

    def _row(
        self,
        what: str,
        views: int,
        targets: int,
        inserts: int,
        times: tuple[float, float],
        baseline: float | None = None,
    ) -> None:
        linear, attended = flops(self.model.config, self.size, views, targets, inserts)
        floor = linear / self.ceilings.matmul / 1e9 + attended / self.ceilings.best_attention / 1e9
        self.rows.append(BenchmarkRow(what, *self.size, views, targets, *times, baseline, floor))

    def insert_and_render(self) -> None:
        """Time insertion, rendering, and both together, at growing numbers of views."""
        scene = self.scene(max(self.view_counts) + 1, self.view_counts)
        baseline = Baseline(self.model)
        for views in self.view_counts:
            while len(scene) < views:
                scene.insert(self.image, self.camera(len(scene)))
            last = scene.views[-1]
            insert = partial(scene.replace, last, self.image, self.camera(last))
            self._row("insert", views, 0, 1, self.watch(insert))
            for targets in self.target_counts:
                render = partial(scene.render, [self.camera(3 * i) for i in range(targets)])
                self._row("render", views, targets, 0, self.watch(render))
                calls: list[Callable[[], object]] = [partial(_both, insert, render)]
                if self.with_baseline:
                    calls.append(self._baseline(baseline, views, targets))
                both, *plain = self._compared(calls)
                self._row("insert + render", views, targets, 1, both, plain[0][0] if plain else None)
        if len(scene) > TOGETHER:
            moved = partial(self._move_views, scene, itertools.count())
            self._row(f"move {TOGETHER} views, encode them", len(scene), 0, TOGETHER, self.watch(moved))

    def _move_views(self, scene: Scene, steps: Iterator[int]) -> None:
        """Correct some views' poses, as a loop closure does, and encode them again."""
        shift = 1e-3 * (1 + next(steps) % 2) * np.eye(4, k=3)
        scene.update_poses({view: pose(view) + shift for view in scene.views[:TOGETHER]})
        scene.encode_stale(TOGETHER)

    def _compared(self, calls: Sequence[Callable[[], object]]) -> list[tuple[float, float]]:
        if self.model.device.type == "cpu":
            return self.watch.in_turn(calls)
        # One after the other on a GPU, which the baseline would heat up; and the baseline less often.
        return [self.watch(call, min(self.watch.repeats, 30) if i else None) for i, call in enumerate(calls)]

    def _baseline(self, baseline: Baseline, views: int, targets: int) -> Callable[[], object]:
        """Return what appends the last of `views` views and renders, with all copies to the device and back."""
        device = self.model.device
        k = torch.tensor([self.camera(0).fxfycxcy], device=device)

        def poses(count: int) -> Tensor:
            return torch.from_numpy(FRAME.to_model([pose(3 * i) for i in range(count)])).to(device)

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

        return call

    def selection(self, counts: Sequence[int], max_views: int, capacity: int = 64) -> None:
        """Time renders from `max_views` of many keyframes, more than the device holds, from a moving camera."""
        targets = max(self.target_counts)
        for count in counts:
            scene = self.scene(capacity, [max_views])
            for step in range(count):
                scene.insert(self.image, self.camera(step))
            here = [self.camera(3 * i) for i in range(targets)]
            still = self.watch(partial(scene.render, here, max_views=max_views))
            self._row(f"render from {count} keyframes", max_views, targets, 0, still)
            moving = self.watch(partial(self._move, scene, itertools.count(), targets, max_views))
            self._row("  the same, moving 5 cm", max_views, targets, 0, moving)

    def _move(self, scene: Scene, steps: Iterator[int], targets: int, max_views: int) -> None:
        step = next(steps)
        scene.render([self.camera(step + i) for i in range(targets)], max_views=max_views)

    def memory(self, insertions: int, capacity: int = 64) -> Memory:
        """Insert `insertions` views into a scene that keeps `capacity`, rendering now and then."""
        scene = self.scene(capacity, [4], max_keyframes=capacity)
        cuda = self.model.device.type == "cuda"

        def insert(count: int) -> int:
            for step in range(count):
                scene.insert(self.image, self.camera(step % 64))
                if step % 16 == 0:
                    scene.render([self.camera(step % 64)], max_views=4)
            self.watch.wait()
            return torch.cuda.memory_allocated(self.model.device) if cuda else 0

        before = insert(2 * capacity)
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.model.device)
        after = insert(insertions)
        weights = sum(p.nbytes for p in self.model.parameters()) if cuda else 0
        slots = scene._cache.nbytes if cuda else 0
        peak = torch.cuda.max_memory_allocated(self.model.device) if cuda else 0
        return Memory(insertions, weights, slots, before, after, peak)


def _both(insert: Callable[[], object], render: Callable[[], object]) -> None:
    insert()
    render()


def model_of(name: str, device: torch.device, dtype: torch.dtype) -> EfficientLVSM:
    """Return a preset with random weights, on which speed does not depend, or what `load_model` makes of a name."""
    if name not in PRESETS or name == "demo":
        return load_model(name, device, dtype)
    torch.manual_seed(0)
    return EfficientLVSM(PRESETS[name]).to(device=device, dtype=dtype).eval().requires_grad_(False)
