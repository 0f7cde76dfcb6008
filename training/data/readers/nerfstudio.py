"""nerfstudio's transforms.json (and instant-ngp's and Blender's): intrinsics of all frames or of each, OpenGL axes.

https://docs.nerf.studio/quickstart/data_conventions.html. What `applied_transform` and `applied_scale` did to the
world is undone, so that poses are those of the reconstruction that the file was made from.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..photos import Depths, Photos, natural, read_text, undistorted_intrinsics
from ..store import DatasetError, PosedScene, Scenes, Store, check_intrinsics, usable_poses
from .undistort import Lens, make_lens

SUMMARY = "nerfstudio's transforms.json, also instant-ngp's and Blender's"
ONE_SCENE = True
FILE = "transforms.json"
GRAPHICS = np.diag([1.0, -1.0, -1.0, 1.0])
"""The optical frame in the axes of graphics cameras (x right, y up, z backward)."""
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV")
FISHEYES = ("OPENCV_FISHEYE", "FISHEYE")
OPENCV_ORDER = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
FISHEYE_ORDER = ("k1", "k2", "k3", "k4")


def detect(path: Path) -> bool:
    """Tell whether a path is a transforms.json or a folder with one."""
    if path.is_dir():
        return (path / FILE).is_file() or (path / "transforms_train.json").is_file()
    return path.is_file() and path.name.startswith("transforms") and path.suffix == ".json"


def open_store(
    path: Path,
    images: str = "",
    ordered: bool = False,
    metric: bool = False,
    depth_unit: float = 0.001,
) -> Store:
    """Open a transforms.json as one scene.

    images: folder to take the photos from in place of the one that the file names, such as images_4; their sizes may
    differ from the file's. ordered: frames follow a path (a video). metric: poses are in metres. depth_unit: metres to
    a step of depth images, where the file does not tell. Raises DatasetError.
    """
    file = (
        path
        if path.is_file()
        else next(path / n for n in (FILE, "transforms_train.json") if (path / n).is_file())
    )
    key = path.absolute().name if path.is_dir() else path.absolute().parent.name
    return Scenes({key: functools.partial(scene_of, key, file, images, ordered, metric, depth_unit)})


def scene_of(
    key: str,
    file: Path,
    images: str = "",
    ordered: bool = False,
    metric: bool = False,
    depth_unit: float = 0.001,
) -> PosedScene:
    """Return the scene of a transforms.json. Raises DatasetError."""
    content = load(file)
    return read_scene(key, file, content, frames_of(file, content), images, ordered, metric, depth_unit)


def load(file: Path) -> dict[str, Any]:
    """Read the JSON object of a file. Raises DatasetError naming it."""
    try:
        content = json.loads(read_text(file))
    except ValueError as error:
        raise DatasetError(f"{file} is no JSON ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} holds a {type(content).__name__}, not an object with frames")
    return content


def frames_of(file: Path, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the frames of a file in the order of their names. Raises DatasetError for one without."""
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise DatasetError(f"{file} has no frames")
    for number, frame in enumerate(frames):
        if (
            not isinstance(frame, dict)
            or not isinstance(frame.get("file_path"), str)
            or "transform_matrix" not in frame
        ):
            raise DatasetError(f"{file}: frame {number} lacks file_path or transform_matrix")
    return sorted(frames, key=lambda frame: natural(frame["file_path"]))


def read_scene(
    key: str,
    file: Path,
    content: Mapping[str, Any],
    frames: Sequence[Mapping[str, Any]],
    images: str,
    ordered: bool,
    metric: bool,
    depth_unit: float,
    depths: Sequence[Path | None] = (),
    notes: Sequence[str] = (),
) -> PosedScene:
    """Return the scene of some frames of a file. depths: where they lie, in place of the depth_file_path of frames."""
    where, notes = f"scene {key}, {file}", list(notes)
    c2w = _undo(content, _poses(where, frames), where) @ GRAPHICS
    finite = usable_poses(c2w, where)
    if not finite.all():
        notes.append(f"{int((~finite).sum())} frames have poses with NaN and are left out")
    if not finite.any():
        raise DatasetError(f"{where}: all poses are NaN")
    kept = np.flatnonzero(finite)
    frames = [frames[i] for i in kept]
    photos = [locate(file.parent, frame["file_path"], images) for frame in frames]
    known = [_camera(content, frame, photo, where) for frame, photo in zip(frames, photos, strict=True)]
    raw, sizes = np.array([k for k, _, _ in known]), np.array([size for _, size, _ in known], dtype=np.int64)
    check_intrinsics(raw / np.tile(sizes, 2), where)
    if len({size for _, size, _ in known}) > 1 and "w" not in content and "cx" in content:
        raise DatasetError(
            f"{where}: its photos have several sizes and share one cx, cy: write w, h, fl_x, fl_y, cx, cy for each"
        )
    lenses = tuple(lens for _, _, lens in known)
    places = (
        [depths[i] for i in kept] if depths else [_beside(file, f.get("depth_file_path")) for f in frames]
    )
    unit = float(content.get("depth_unit_scale_factor", depth_unit))
    return PosedScene(
        key, np.linalg.inv(c2w[finite]), undistorted_intrinsics(raw, lenses), False,
        Photos(tuple(photos), lenses if any(lenses) else None),
        sizes=sizes,
        depth=Depths(tuple(places), unit, lenses if any(lenses) else None) if any(places) else None,
        names=tuple(frame["file_path"] for frame in frames), ordered=ordered, metric=metric, notes=tuple(notes),
    )  # fmt: skip


def _poses(where: str, frames: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    out = np.tile(np.eye(4), (len(frames), 1, 1))
    for i, frame in enumerate(frames):
        try:
            rows = np.array(frame["transform_matrix"], dtype=np.float64)
            out[i, :3] = rows[:3]
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"{where}: transform_matrix of {frame['file_path']} is no 4x4 matrix"
            ) from error
    return out


def _undo(content: Mapping[str, Any], c2w: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """Return poses in the world before applied_transform and applied_scale."""
    c2w = c2w.copy()
    try:
        scale = float(content.get("applied_scale", 1.0))
        applied = np.vstack(
            [np.array(content.get("applied_transform", np.eye(4)), dtype=float)[:3], [0, 0, 0, 1]]
        )
        c2w[:, :3, 3] /= scale
        return np.asarray(np.linalg.inv(applied) @ c2w)
    except (TypeError, ValueError, np.linalg.LinAlgError, ZeroDivisionError) as error:
        raise DatasetError(
            f"{where}: applied_transform must be a 3x4 matrix that can be inverted ({error})"
        ) from error


def locate(folder: Path, name: str, images: str = "") -> Path:
    """Return where a frame's photo lies. images: folder that stands for the one in the name."""
    path = Path(name)
    if images:
        path = Path(images) / path.name
    path = folder / path  # an absolute name stays what it is
    if path.suffix or path.is_file():
        return path
    # Blender's names have no suffix.
    return next(
        (path.with_name(path.name + s) for s in (".png", ".jpg") if path.with_name(path.name + s).is_file()),
        path,
    )


def _beside(file: Path, name: Any) -> Path | None:
    return file.parent / name if isinstance(name, str) and name else None


def _camera(
    content: Mapping[str, Any], frame: Mapping[str, Any], photo: Path, where: str
) -> tuple[NDArray[np.float64], tuple[int, int], Lens | None]:
    """Return fx, fy, cx, cy of the photo as it is, the size that they are for, and the lens."""
    where = f"{where}: {frame['file_path']}"

    def value(name: str) -> float | None:
        found = frame.get(name, content.get(name))
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise DatasetError(f"{where} has {found!r} as {name}, which must be a number")
        return float(found)

    width, height = value("w"), value("h")
    if width is None or height is None:
        width, height = _size(photo, where)
    if min(width, height) < 1:
        raise DatasetError(f"{where}: the camera is {width:g}x{height:g} pixels")
    fx, fy = value("fl_x"), value("fl_y")
    angles = value("camera_angle_x"), value("camera_angle_y")
    if fx is None and angles[0]:
        fx = width / 2 / math.tan(angles[0] / 2)
    if fy is None and angles[1]:
        fy = height / 2 / math.tan(angles[1] / 2)
    fx, fy = (fy if fx is None else fx), (fx if fy is None else fy)
    if fx is None or fy is None:
        raise DatasetError(
            f"{where} has no intrinsics: write fl_x, fl_y, cx, cy, w and h for all frames or for each"
        )
    cx, cy = value("cx"), value("cy")
    fxfycxcy = np.array([fx, fy, width / 2 if cx is None else cx, height / 2 if cy is None else cy])
    model = str(frame.get("camera_model", content.get("camera_model", "OPENCV"))).upper()
    fisheye = model in FISHEYES or bool(frame.get("is_fisheye", content.get("is_fisheye", False)))
    if not fisheye and model not in PINHOLES:
        raise DatasetError(
            f"{where} has the camera model {model}, which OpenCV does not undistort: make pinhole photos of it first"
        )
    d = tuple(value(name) or 0.0 for name in (FISHEYE_ORDER if fisheye else OPENCV_ORDER))
    lens = make_lens(fxfycxcy, int(width), int(height), "fisheye" if fisheye else "opencv", d, where)
    return fxfycxcy, (int(width), int(height)), lens


def _size(photo: Path, where: str) -> tuple[int, int]:
    try:
        with Image.open(photo) as image:
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(
            f"{where}: neither the file says w and h nor can {photo} be opened ({error})"
        ) from error
