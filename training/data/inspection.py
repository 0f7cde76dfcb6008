"""What a dataset is, and what is wrong with it: figures of its scenes, complaints, a contact sheet."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .pose_check import check_poses
from .readers.chunks import ChunkError
from .store import DatasetError, FrameError, PosedScene, Store

DECODED = 16
"""Frames of a scene that are decoded."""
NARROW, WIDE = 20.0, 130.0
"""Degrees across that a camera rarely shows."""
JUMP = 25.0
"""Times the usual step between frames that make one a jump of the localisation."""
TILE = (192, 128)


@dataclasses.dataclass(frozen=True)
class SceneFacts:
    """What a scene is. Lengths are in the unit of its poses; problems: what is wrong, and what to do."""

    key: str
    frames: int
    sizes: dict[str, int]
    degrees: tuple[float, float]
    step: float
    extent: float
    metric: bool
    ordered: bool
    depth: bool
    seconds: float | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return this as text."""
        unit = " m" if self.metric else ""
        sizes = ", ".join(f"{size} ({count})" for size, count in self.sizes.items()) or "none decodes"
        low, high = self.degrees
        angle = f"{low:.0f}°" if high - low < 1 else f"{low:.0f}° to {high:.0f}°"
        time = "" if self.seconds is None else f", {self.seconds:.1f} s"
        kind = "a path" if self.ordered else "photos in no order"
        head = f"{self.key}: {self.frames} frames{time}, {kind}{', with depth' if self.depth else ''}"
        text = [
            head,
            f"  images {sizes}; {angle} across",
            f"  baselines: {self.step:.3g}{unit} between neighbours, {self.extent:.3g}{unit} altogether"
            + ("" if self.metric else " (not known to be metres)"),
        ]
        return [*text, *(f"  note: {n}" for n in self.notes), *(f"  PROBLEM: {p}" for p in self.problems)]


@dataclasses.dataclass
class Inspection:
    """A dataset: its format, how many scenes it has, those that were looked at, and those that cannot be used."""

    format: str
    scenes: int
    looked_at: list[SceneFacts] = dataclasses.field(default_factory=list)
    damaged: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not any(facts.problems for facts in self.looked_at)

    def lines(self) -> list[str]:
        """Return this as text."""
        rest = f", {len(self.looked_at)} looked at" if len(self.looked_at) < self.scenes else ""
        text = [f"{self.format}: {self.scenes} scenes{rest}"]
        for facts in self.looked_at:
            text += facts.lines()
        return [*text, *(f"DAMAGED: {reason}" for reason in self.damaged.values())]

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON."""
        return {**dataclasses.asdict(self), "healthy": self.healthy}


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below count, evenly spread."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most)).round()}) if count else []


def inspect_store(
    store: Store, name: str, most: int = 20, passed: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Inspection, list[tuple[str, Image.Image]]]:
    """Look at `most` scenes of a store; returns what was found, and pictures with their names for a contact sheet."""
    damaged = dict(getattr(store, "damaged", {}))
    for file, reason in getattr(store, "unreadable", {}).items():
        damaged[str(file)] = reason
    result, pictures = Inspection(name, len(store), damaged=damaged), []
    numbers = spread(len(store), most)
    for done, number in enumerate(numbers):
        key = store.keys[number]
        try:
            facts, shown = inspect_scene(store.scene(key))
        except (DatasetError, ChunkError) as error:
            result.damaged[key] = str(error)
        else:
            result.looked_at.append(facts)
            pictures += [(f"{key} {label}", picture) for label, picture in shown]
        passed(done + 1, len(numbers))
    return result, pictures


def inspect_scene(scene: PosedScene) -> tuple[SceneFacts, list[tuple[str, Image.Image]]]:
    """Look at a scene: decode some frames, and check poses, intrinsics and stamps of all."""
    problems: list[str] = []
    sizes: collections.Counter[str] = collections.Counter()
    degrees, shown, bad = [], [], []
    for index in spread(len(scene), DECODED):
        try:
            image, fxfycxcy, _ = scene.frame(index)
        except FrameError as error:
            bad.append(str(error))
            continue
        sizes[f"{image.width}x{image.height}"] += 1
        degrees.append(float(np.rad2deg(2 * np.arctan(image.width / 2 / fxfycxcy[0]))))
        problems += _intrinsics(scene.name(index), image.size, fxfycxcy)
        picture = image.convert("RGB")
        picture.thumbnail(TILE)
        shown.append((scene.name(index), picture))
    if bad:
        problems.append(
            f"{len(bad)} of {len(bad) + len(shown)} frames that were looked at cannot be used: {bad[0]}"
        )
    step, extent, complaints = _path(scene)
    problems += complaints
    problems += _stamps(scene)
    if shown:
        problems += [w for w in [check_poses(scene, _neighbours(scene)).warning] if w]
    seconds = None
    if scene.stamps is not None and len(scene.stamps):
        seconds = float(scene.stamps.max() - scene.stamps.min()) / 1e9
    facts = SceneFacts(
        scene.key, len(scene), dict(sizes), (min(degrees, default=0.0), max(degrees, default=0.0)), step, extent,
        scene.metric, scene.ordered, scene.depth is not None, seconds, scene.notes, tuple(dict.fromkeys(problems)),
    )  # fmt: skip
    return facts, shown


def _intrinsics(name: str, size: tuple[int, int], fxfycxcy: np.ndarray) -> list[str]:
    fx, fy, cx, cy = fxfycxcy
    angle = np.rad2deg(2 * np.arctan(size[0] / 2 / fx))
    if not NARROW <= angle <= WIDE:
        return [
            f"{name} shows {angle:.0f}° across, which few cameras do: are the intrinsics for another image size?"
        ]
    if abs(cx / size[0] - 0.5) > 0.2 or abs(cy / size[1] - 0.5) > 0.2:
        return [
            f"{name} has its principal point at {cx:.0f}, {cy:.0f} of {size[0]}x{size[1]}, far from the middle: was "
            f"the image cropped or turned after the calibration?"
        ]
    if not 0.8 < fx / fy < 1.25:
        return [f"{name} has focal lengths of {fx:.0f} and {fy:.0f}, which differ: was the image squeezed?"]
    return []


def _path(scene: PosedScene) -> tuple[float, float, list[str]]:
    """Return the usual step between neighbours, the largest distance from the middle times two, and complaints."""
    centres = np.linalg.inv(scene.w2c)[:, :3, 3]
    extent = 2 * float(np.linalg.norm(centres - centres.mean(0), axis=1).max())
    if len(scene) < 2:
        return 0.0, extent, ["a single frame: at least three views make a sample"]
    if scene.ordered:
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    else:
        few = centres[spread(len(centres), 500)]
        apart = np.linalg.norm(few[:, None] - few[None], axis=-1)
        np.fill_diagonal(apart, np.inf)
        steps = apart.min(1)
    moving = steps[steps > 1e-9 * max(1.0, np.abs(centres).max())]
    if not len(moving):
        return 0.0, extent, ["all cameras are at one place: view synthesis learns nothing from it"]
    step, complaints = float(np.median(moving)), []
    jumps = np.flatnonzero(steps > JUMP * step)
    if scene.ordered and len(jumps):
        complaints.append(
            f"the path jumps {len(jumps)} times, first between {scene.name(int(jumps[0]))} and "
            f"{scene.name(int(jumps[0]) + 1)} by {steps[jumps[0]]:.3g}: the localisation moved, or parts are missing; "
            f"split the scene there"
        )
    return step, extent, complaints


def _stamps(scene: PosedScene) -> list[str]:
    if scene.stamps is None:
        return []
    steps = np.diff(scene.stamps)
    back, same = int((steps < 0).sum()), int((steps == 0).sum())
    problems = [
        f"{back} frames are older than the one before: sort by time, or split where a clock was set back"
    ]
    problems = problems if back else []
    if same:
        problems.append(
            f"{same} frames have the stamp of the one before: recorded twice, or a clock that stands"
        )
    return problems


def _neighbours(scene: PosedScene) -> list[int]:
    """Return frames that follow each other at such distances that most pairs see the same and have moved."""
    if len(scene) <= DECODED:
        return list(range(len(scene)))
    stride = max(1, min(5, len(scene) // DECODED))
    start = max(0, len(scene) // 2 - stride * DECODED // 2)
    return list(range(start, min(len(scene), start + stride * DECODED), stride))


def contact_sheet(
    pictures: Sequence[tuple[str, Image.Image]], most: int = 48, columns: int = 8
) -> Image.Image:
    """Return pictures side by side with their names below."""
    chosen = [pictures[i] for i in spread(len(pictures), most)]
    rows = -(-len(chosen) // columns)
    width, height = TILE[0] + 4, TILE[1] + 18
    sheet = Image.new("RGB", (min(columns, len(chosen)) * width, rows * height), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for number, (name, picture) in enumerate(chosen):
        x, y = number % columns * width + 2, number // columns * height + 2
        sheet.paste(picture, (x + (TILE[0] - picture.width) // 2, y + (TILE[1] - picture.height) // 2))
        draw.text((x, y + TILE[1] + 1), name[-32:], fill=(220, 220, 220))
    return sheet
