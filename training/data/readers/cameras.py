"""The plainest form of posed images: one cameras.json beside a folder of images.

{"w": 640, "h": 480, "fx": ..., "fy": ..., "cx": ..., "cy": ..., "metric": true, "frames": [{"file": "0001.jpg",
"c2w": [[...], ...], "depth": "0001.png", "stamp": 1.5}, ...]}. c2w is 4x4, OpenCV axes. A frame may have w, h, fx, fy,
cx, cy of its own; depth (16-bit PNG of millimetres, in depth/), stamp (seconds) and metric may be missing. Images lie
in images/.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from ..photos import Depths, Photos
from ..store import DatasetError, PosedScene, Scenes, Store, check_intrinsics, usable_poses
from .nerfstudio import load

SUMMARY = "a cameras.json beside a folder of images"
ONE_SCENE = True
FILE = "cameras.json"
SECOND = 1_000_000_000


def detect(path: Path) -> bool:
    """Tell whether a folder has a cameras.json, or a path is one."""
    return (path / FILE).is_file() if path.is_dir() else path.name == FILE


def open_store(path: Path, ordered: bool = True, metric: bool | None = None) -> Store:
    """Open a cameras.json as one scene. ordered: frames follow a path. metric: poses are metres; None: as it says.

    Raises DatasetError.
    """
    file = path / FILE if path.is_dir() else path
    key = file.absolute().parent.name
    return Scenes({key: functools.partial(_scene, key, file, ordered, metric)})


def _scene(key: str, file: Path, ordered: bool, metric: bool | None) -> PosedScene:
    content, where = load(file), f"scene {key}, {file}"
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise DatasetError(f"{file} has no frames")

    def values(*names: str) -> list[list[float]]:
        return [[float(frame.get(name, content.get(name))) for name in names] for frame in frames]

    try:
        c2w = np.array([frame["c2w"] for frame in frames], dtype=np.float64).reshape(-1, 4, 4)
        intrinsics, sizes = np.array(values("fx", "fy", "cx", "cy")), np.array(values("w", "h"))
        files = [str(frame["file"]) for frame in frames]
        stamps = _stamps(frames)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"{file} is malformed ({error!r}): every frame needs file and c2w, and w, h, fx, fy, cx, cy unless the "
            f"file has them for all"
        ) from error
    finite = usable_poses(c2w, where)
    if not finite.any():
        raise DatasetError(f"{where}: all poses are NaN")
    kept = np.flatnonzero(finite)
    if (sizes < 1).any() or not np.isfinite(sizes).all():
        raise DatasetError(f"{where}: w and h must be pixels")
    check_intrinsics(intrinsics / np.tile(sizes, 2), where)
    depths = [file.parent / "depth" / frames[i]["depth"] if frames[i].get("depth") else None for i in kept]
    notes = (
        [f"{int((~finite).sum())} frames have poses with NaN and are left out"] if not finite.all() else []
    )
    told = bool(content.get("metric", "metres" in str(content.get("convention", ""))))
    return PosedScene(
        key, np.linalg.inv(c2w[kept]), intrinsics[kept], False,
        Photos(tuple(file.parent / "images" / files[i] for i in kept)),
        sizes=sizes[kept].astype(np.int64), depth=Depths(tuple(depths)) if any(depths) else None,
        stamps=None if stamps is None else stamps[kept], names=tuple(files[i] for i in kept), ordered=ordered,
        metric=told if metric is None else metric, notes=tuple(notes),
    )  # fmt: skip


def _stamps(frames: list[Any]) -> np.ndarray | None:
    """Return the frames' stamps in nanoseconds, None where not all have one."""
    if not all("stamp" in frame for frame in frames):
        return None
    return np.array([round(float(frame["stamp"]) * SECOND) for frame in frames], dtype=np.int64)
