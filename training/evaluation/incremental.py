"""What every further view is worth: quality and latency of a render after each view that is added."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import elvsm_core as ec
from elvsm_core.cache import ViewCache
from elvsm_core.files.atomic import write_bytes

from .protocol import Protocol, ProtocolError, measure, stack


@dataclasses.dataclass(frozen=True)
class Step:
    """A scene after its n-th view was added: mean of each metric over the targets, and how long it took.

    encode_ms: to encode the view and keep its keys and values; render_ms: to render all targets from the views
    so far. Without copies to the device and without the metrics.
    """

    views: int
    metrics: Mapping[str, float]
    encode_ms: float
    render_ms: float


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def add_views(model: ec.EfficientLVSM, batch: Mapping[str, Tensor], protocol: Protocol) -> list[Step]:
    """Add the input views of one scene one by one, in their order, and render all targets after each.

    batch: from `protocol.stack` of a single sample. The poses' frame stays that of all views, as published:
    a frame that changed with every view would make all keys and values so far worthless. After the last
    view the renders are those of the whole forward pass.
    """
    images, c2w, intrinsics = (batch[f"input_{name}"] for name in ("image", "c2w", "fxfycxcy"))
    if len(images) != 1:
        raise ProtocolError(f"views are added to one scene at a time, got {len(images)} scenes")
    truth = batch["target_image"].flatten(0, 1)
    size = (truth.shape[-2], truth.shape[-1])
    half = protocol.amp and model.device.type == "cuda" and model.dtype == torch.float32
    dtype = torch.bfloat16 if half else model.dtype
    inputs = (images.shape[-2], images.shape[-1])
    cache = ViewCache.of(model.config, images.shape[1], inputs, model.device, dtype)
    slots, steps = [], []
    for v in range(images.shape[1]):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            start = _now(model.device)
            encoded = model.encode_views(images[0, v : v + 1], c2w[0, v : v + 1], intrinsics[0, v : v + 1])
            slots.append(cache.insert(encoded))
            middle = _now(model.device)
            made = model.decode(
                cache.select(slots), batch["target_c2w"], batch["target_fxfycxcy"], size
            ).flatten(0, 1)
            end = _now(model.device)
        scores = {name: float(x.mean()) for name, x in measure(made, truth, protocol).items()}
        steps.append(Step(v + 1, scores, 1000 * (middle - start), 1000 * (end - middle)))
    return steps


@dataclasses.dataclass(frozen=True)
class ViewCountRow:
    """All scenes after the n-th view: unweighted means of the metrics, medians of the times."""

    views: int
    scenes: int
    metrics: Mapping[str, float]
    encode_ms: float
    render_ms: float

    def __str__(self) -> str:
        scores = ", ".join(f"{name.upper()} {value:.3f}" for name, value in self.metrics.items())
        return (
            f"{self.views:3d} views: {scores}; encode {self.encode_ms:.1f} ms, render {self.render_ms:.1f} ms"
        )


def evaluate_incrementally(
    model: ec.EfficientLVSM, samples: Iterable[Mapping[str, Any]], protocol: Protocol
) -> tuple[list[ViewCountRow], dict[str, str]]:
    """Add views to every scene of EvaluationSamples; returns one row per number of views, and failed scenes.

    Raises ProtocolError when no scene could be evaluated.
    """
    scenes: list[list[Step]] = []
    failed: dict[str, str] = {}
    for sample in samples:
        if "error" in sample:
            failed[str(sample["scene"])] = str(sample["error"])
            continue
        batch = stack([sample], model.device)
        if not scenes:
            add_views(model, batch, protocol)  # what a first run sets up is not what a view costs
        scenes.append(add_views(model, batch, protocol))
    if not scenes:
        raise ProtocolError(f"no scene could be evaluated: {next(iter(failed.values()), 'there is none')}")
    return [_row(steps) for steps in zip(*scenes, strict=True)], failed


def _row(steps: Sequence[Step]) -> ViewCountRow:
    names = list(steps[0].metrics)
    means = {name: math.fsum(step.metrics[name] for step in steps) / len(steps) for name in names}
    times = ([getattr(step, name) for step in steps] for name in ("encode_ms", "render_ms"))
    return ViewCountRow(steps[0].views, len(steps), means, *(sorted(t)[len(t) // 2] for t in times))


def write_rows(rows: Sequence[ViewCountRow], failed: Mapping[str, str], folder: Path) -> None:
    """Write incremental.json and incremental.csv."""
    content = {"rows": [dataclasses.asdict(row) for row in rows], "failed": dict(failed)}
    write_bytes(folder / "incremental.json", json.dumps(content, indent=1).encode())
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["views", "scenes", *rows[0].metrics, "encode_ms", "render_ms"])
    for row in rows:
        table.writerow([row.views, row.scenes, *row.metrics.values(), row.encode_ms, row.render_ms])
    write_bytes(folder / "incremental.csv", text.getvalue().encode())
