"""TUM RGB-D sequences: rgb.txt, depth.txt and groundtruth.txt, associated by time.

https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats. The sequences carry no calibration: that of the three
Kinects is known by the folder's name (freiburg1, freiburg2, freiburg3), others are told by options.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..photos import Depths, Photos, read_text, undistorted_intrinsics
from ..store import DatasetError, PosedScene, Scenes, Store, check_intrinsics, usable_poses
from .undistort import make_lens

SUMMARY = "TUM RGB-D: rgb.txt, depth.txt and groundtruth.txt"
ONE_SCENE = True
SIZE = (640, 480)
DEPTH_UNIT = 1 / 5000
KINECTS = {
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), (0.0, 0.0, 0.0, 0.0, 0.0)),
}
"""fx, fy, cx, cy as OpenCV counts pixels, and k1, k2, p1, p2, k3 of the colour cameras."""
SECOND = 1_000_000_000


def detect(path: Path) -> bool:
    """Tell whether a folder is a sequence with ground truth."""
    return path.is_dir() and (path / "rgb.txt").is_file() and (path / "groundtruth.txt").is_file()


def open_store(
    path: Path,
    camera: tuple[float, ...] | list[float] = (),
    distortion: tuple[float, ...] | list[float] = (),
    size: tuple[int, int] | list[int] = SIZE,
    gap: float = 0.1,
    depth_unit: float = DEPTH_UNIT,
) -> Store:
    """Open a sequence as one scene, in metres.

    camera: fx, fy, cx, cy as OpenCV counts pixels, distortion: k1, k2, p1, p2, k3, size: (width, height) that they are
    for; needed where the name does not tell which Kinect it was. gap: seconds between two poses beyond which nothing
    is interpolated. depth_unit: metres to a step of the depth images. Raises DatasetError.
    """
    key = path.absolute().name
    known = next(
        (v for name, v in KINECTS.items() if name in key or name.replace("reiburg", "r") in key), None
    )
    if camera:
        known = tuple(camera), tuple(distortion)  # type: ignore[assignment]
    if known is None or len(known[0]) != 4:
        raise DatasetError(
            f"{path} does not tell its calibration, and its name names no Kinect of TUM ({', '.join(KINECTS)}): give "
            f"the option camera, fx, fy, cx, cy, and distortion where there is any"
        )
    return Scenes({key: functools.partial(_scene, key, path, *known, tuple(size), gap, depth_unit)})


def _scene(
    key: str, path: Path, camera: tuple[float, ...], distortion: tuple[float, ...], size: tuple[int, int],
    gap: float, depth_unit: float,
) -> PosedScene:  # fmt: skip
    where, notes = f"scene {key}, {path}", []
    stamps, files, unsorted = _listing(path / "rgb.txt")
    if unsorted:
        notes.append(f"{unsorted} images stand out of order in rgb.txt and were sorted by time")
    c2w, known, lost = _poses(path / "groundtruth.txt", stamps, gap)
    notes += [f"{lost} lines of groundtruth.txt have NaN and are left out"] if lost else []
    if not known.any():
        raise DatasetError(
            f"{where}: no image has a pose within {gap:g} s in groundtruth.txt: the stamps of both must be of one clock"
        )
    if not known.all():
        notes.append(f"{int((~known).sum())} images fall into gaps of the ground truth and are left out")
    usable_poses(c2w[known], where)
    kept = np.flatnonzero(known)
    # Half a pixel between the two ways to count them.
    raw = np.tile(np.add(camera, [0, 0, 0.5, 0.5]), (len(kept), 1))
    check_intrinsics(raw / np.tile(np.array(size, dtype=np.float64), 2), where)
    lens = make_lens(raw[0], *size, "opencv", distortion, where)
    lenses = (lens,) * len(kept)
    depths = _depths(path, stamps[kept])
    return PosedScene(
        key, np.linalg.inv(c2w[kept]), undistorted_intrinsics(raw, lenses), False,
        Photos(tuple(path / files[i] for i in kept), lenses if lens else None),
        sizes=np.tile(np.array(size, dtype=np.int64), (len(kept), 1)),
        depth=Depths(depths, depth_unit, lenses if lens else None) if any(depths) else None,
        stamps=np.rint(stamps[kept] * SECOND).astype(np.int64), names=tuple(files[i] for i in kept),
        metric=True, notes=tuple(notes),
    )  # fmt: skip


def _rows(file: Path, columns: int) -> list[list[str]]:
    rows = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        parts = re.split(r"[\s,]+", line.strip())
        if not parts[0] or line.startswith("#"):
            continue
        if len(parts) < columns:
            raise DatasetError(f"{file}, line {number}: {columns} entries are needed, there are {len(parts)}")
        rows.append(parts[:columns])
    if not rows:
        raise DatasetError(f"{file} lists nothing")
    return rows


def _numbers(file: Path, rows: list[list[str]], columns: slice) -> NDArray[np.float64]:
    try:
        return np.array([row[columns] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise DatasetError(f"{file} has a word where a number should be ({error})") from error


def _listing(file: Path) -> tuple[NDArray[np.float64], list[str], int]:
    """Return stamps [N] in seconds and files, sorted by time, and how many stood out of order."""
    rows = _rows(file, 2)
    stamps = _numbers(file, rows, slice(0, 1))[:, 0]
    order = np.argsort(stamps, kind="stable")
    return stamps[order], [rows[i][1] for i in order], int((np.diff(stamps) < 0).sum())


def _poses(
    file: Path, stamps: NDArray[np.float64], gap: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Return c2w [N, 4, 4] at stamps, which of them are known, and how many lines of the file are of no use."""
    from scipy.spatial.transform import Rotation, Slerp

    table = _numbers(file, _rows(file, 8), slice(None))
    good = np.isfinite(table).all(1) & (np.abs(np.linalg.norm(table[:, 4:], axis=1) - 1) < 0.05)
    lost = int((~good).sum())
    times, first = np.unique(table[good, 0], return_index=True)
    table = table[good][first]
    out, known = np.tile(np.eye(4), (len(stamps), 1, 1)), np.zeros(len(stamps), dtype=bool)
    if len(times) < 2:
        return out, known, lost
    after = np.clip(np.searchsorted(times, stamps), 1, len(times) - 1)
    known = (stamps >= times[0]) & (stamps <= times[-1]) & (times[after] - times[after - 1] <= gap)
    inside = np.clip(stamps, times[0], times[-1])
    out[:, :3, :3] = Slerp(times, Rotation.from_quat(table[:, 4:]))(inside).as_matrix()
    out[:, :3, 3] = np.stack([np.interp(inside, times, table[:, k]) for k in (1, 2, 3)], axis=1)
    return out, known, lost


def _depths(path: Path, stamps: NDArray[np.float64], most: float = 0.02) -> tuple[Path | None, ...]:
    """Return each image's depth image, the nearest in time within 20 ms, as TUM's own tool associates them."""
    if not (path / "depth.txt").is_file():
        return (None,) * len(stamps)
    times, files, _ = _listing(path / "depth.txt")
    right = (
        np.clip(np.searchsorted(times, stamps), 1, len(times) - 1)
        if len(times) > 1
        else np.zeros(len(stamps), int)
    )
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(times[left] - stamps) < np.abs(times[right] - stamps), left, right)
    close = np.abs(times[nearest] - stamps) <= most
    return tuple(path / files[i] if near else None for i, near in zip(nearest, close, strict=True))
