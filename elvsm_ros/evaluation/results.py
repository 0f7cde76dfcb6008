"""What an evaluation measured: per held-out frame, in the mean, and against what it may depend on."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import elvsm_core as ec
from elvsm_core.files.atomic import write_text
from elvsm_ros.conversions import RGB
from elvsm_ros.evaluation.baselines import Quality, mean
from elvsm_ros.evaluation.convention import Verdict

ONLINE, OFFLINE = "online", "offline"
RENDER, NEAREST, ROTATION = "render", "nearest", "rotation"
METHODS = (RENDER, NEAREST, ROTATION)
WORDS = {
    RENDER: "render",
    NEAREST: "nearest keyframe",
    ROTATION: "nearest, rotated",
}
Key = tuple[str, str]
"""A column (ONLINE or OFFLINE) and a method."""


@dataclasses.dataclass(eq=False)
class HeldOutFrame:
    """A frame that is no keyframe. Pictures are uint8 RGB [H, W, 3] at the model's size.

    stamp: of the image, nanoseconds. time: seconds since the recording began. since: seconds since the last keyframe.
    distance (metres), angle (degrees): to the keyframe that was nearest by then. keyframes: how many there were by
    then. used: views that the online render used; support: of it, 0 to 1; render_ms: its latency. sweep: PSNR by
    max_views. nearest: id of the keyframe that it was last compared with.
    """

    index: int
    stamp: int
    time: float
    camera: ec.Camera
    truth: RGB
    since: float
    distance: float
    angle: float
    keyframes: int
    used: int
    support: float
    render_ms: float
    pictures: dict[Key, RGB]
    quality: dict[Key, Quality]
    sweep: dict[int, float]
    nearest: int = -1

    def psnr(self, method: str, column: str = ONLINE) -> float:
        """Return a PSNR in dB, NaN if that was not measured."""
        quality = self.quality.get((column, method))
        return math.nan if quality is None else quality.psnr


@dataclasses.dataclass(frozen=True)
class NodeRun:
    """The recording played into the real node, beside the same in this process.

    rate: times real time. counts: images and keyframes, see `through_node.py`. psnr: means in dB by column (ONLINE,
    OFFLINE): "node", "here", and "here_same_keyframes", which is rendered here from the keyframes that the node had,
    so that node - here_same_keyframes is what is not explained by them. missing, extra: seconds since the recording
    began of keyframes that the node did not have, and of those that it had besides. latency_ms: medians and 95 %.
    frames: a line per held-out frame.
    """

    rate: float
    counts: dict[str, int]
    psnr: dict[str, dict[str, float | None]]
    missing: list[float]
    extra: list[float]
    latency_ms: dict[str, float]
    frames: list[dict[str, Any]]


@dataclasses.dataclass(eq=False)
class EvaluationResults:
    """An evaluation; what is missing of it when it was cut short is told by `incomplete`.

    goes_on: another run can take over from this one.

    path, keyframes: T_world_cam [n, 4, 4] of all images used, and of the keyframes at the end. facts: what was
    evaluated. counts: images and keyframes. timing: milliseconds, bytes and seconds, which differ between runs.
    keyframe_steps: see the function of that name.
    """

    facts: dict[str, Any]
    views: list[HeldOutFrame]
    path: NDArray[np.float64]
    keyframes: NDArray[np.float64]
    counts: dict[str, int]
    warnings: list[str]
    convention: Verdict
    pose_noise: list[dict[str, float]]
    timing: dict[str, float]
    keyframe_steps: dict[str, float]
    incomplete: str = ""
    goes_on: bool = False
    through_node: NodeRun | None = None

    def summary(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Return means: column, method, metric."""
        return {
            column: {method: self._means((column, method)) for method in METHODS}
            for column in (ONLINE, OFFLINE)
            if any((column, RENDER) in view.quality for view in self.views)
        }

    def _means(self, key: Key) -> dict[str, float | None]:
        found = [view.quality[key] for view in self.views if key in view.quality]
        return {name: mean([getattr(q, name) for q in found]) for name in ("psnr", "ssim", "lpips")}

    def sweep(self) -> list[dict[str, float]]:
        """Return the mean online PSNR by max_views."""
        counts = sorted({n for view in self.views for n in view.sweep})
        return [
            {"max_views": n, "psnr": float(np.mean([v.sweep[n] for v in self.views if n in v.sweep]))}
            for n in counts
        ]

    def depends(self) -> dict[str, list[dict[str, float | None]]]:
        """Return the mean online PSNR of each method by ranges of what it may depend on."""
        return {
            name: _binned(self.views, value, edges)
            for name, (value, edges) in {
                "seconds_since_keyframe": (lambda v: v.since, (0, 0.25, 0.5, 1, 2, 4, 8)),
                "metres_to_nearest": (lambda v: v.distance, (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)),
                "degrees_to_nearest": (lambda v: v.angle, (0, 2.5, 5, 7.5, 10, 15, 30)),
                "keyframes": (lambda v: v.keyframes, (1, 4, 8, 16, 32, 64, 128, 256, 512)),
            }.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pictures. All but "timing" and "through_node" is the same on every run."""
        return {
            **self.facts,
            "complete": not self.incomplete,
            "incomplete": self.incomplete,
            "warnings": self.warnings,
            "counts": self.counts,
            "summary": self.summary(),
            "depends": self.depends(),
            "sweep": self.sweep(),
            "pose_noise": self.pose_noise,
            "keyframe_steps": self.keyframe_steps,
            "pose_convention": dataclasses.asdict(self.convention),
            "frames": [_row(view) for view in self.views],
            "timing": self.timing,
            "through_node": None if self.through_node is None else dataclasses.asdict(self.through_node),
        }

    def write(self, path: Path) -> None:
        """Write `to_json` to a file, which appears when it is complete."""
        write_text(path, json.dumps(_rounded(self.to_json()), indent=1, allow_nan=False) + "\n")

    def write_csv(self, path: Path) -> None:
        """Write a line per held-out frame."""
        rows = [{**_row(view), "render_ms": view.render_ms} for view in self.views]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["index"])
        writer.writeheader()
        writer.writerows(_rounded(rows))
        write_text(path, text.getvalue())


def keyframe_steps(T_world_cam: NDArray[np.float64], stamps: Sequence[int]) -> dict[str, float]:
    """Return how far apart keyframes are that follow each other: medians and maxima; empty for fewer than two.

    T_world_cam [n, 4, 4] and stamps (nanoseconds), oldest first.
    """
    if len(stamps) < 2:
        return {}
    pairs = [ec.keyframes.differences(b, a[None]) for a, b in itertools.pairwise(T_world_cam)]
    steps = {
        "metres": [float(metres[0]) for metres, _ in pairs],
        "degrees": [math.degrees(float(radians[0])) for _, radians in pairs],
        "seconds": [(b - a) / 1e9 for a, b in itertools.pairwise(stamps)],
    }
    named = (("p50", np.median), ("max", np.max))
    return {f"{name}_{p}": float(f(values)) for name, values in steps.items() for p, f in named}


def _binned(
    views: Sequence[HeldOutFrame], value: Callable[[HeldOutFrame], float], edges: Sequence[float]
) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    for low, high in zip(edges, [*edges[1:], math.inf], strict=True):
        inside = [view for view in views if low <= value(view) < high]
        if inside:
            means = {method: mean([view.psnr(method) for view in inside]) for method in METHODS}
            rows.append(
                {"from": low, "to": None if high == math.inf else high, "frames": len(inside), **means}
            )
    return rows


def _row(view: HeldOutFrame) -> dict[str, Any]:
    row: dict[str, Any] = {
        "index": view.index,
        "time": view.time,
        "since_keyframe": view.since,
        "distance": view.distance,
        "angle": view.angle,
        "keyframes": view.keyframes,
        "views_used": view.used,
        "support": view.support,
    }
    for (column, method), quality in view.quality.items():
        for name, value in dataclasses.asdict(quality).items():
            row[f"{column}_{method}_{name}"] = value
    return row


def _rounded(value: Any) -> Any:
    """Return a copy with six digits after the point: what remains is not measured."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value
