"""COLMAP's sparse models, text and binary: cameras, registered images, and how far away their points lie.

https://colmap.github.io/format.html. A folder with sparse/0, sparse/1 ... gives one scene for each model.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..photos import Photos, natural, undistorted_intrinsics
from ..store import DatasetError, PosedScene, Scenes, Store, check_intrinsics, usable_poses
from .undistort import Lens, make_lens

SUMMARY = "COLMAP sparse models, text or binary, with their folder of photos"
PLACES = ("", "sparse", "colmap/sparse", "dense/sparse", "undistorted/sparse")
"""Where models lie in a workspace, themselves or in numbered folders."""


class Model(NamedTuple):
    """A camera model: its number in binary files, whether fx and fy are one parameter, coefficients, and their family.

    The family is one of undistort.py's, or empty for what OpenCV does not undistort.
    """

    number: int
    one_focal: bool
    coefficients: int
    family: str

    @property
    def parameters(self) -> int:
        """How many numbers a camera of this model has."""
        return (3 if self.one_focal else 4) + self.coefficients


MODELS = {
    "SIMPLE_PINHOLE": Model(0, True, 0, "opencv"),
    "PINHOLE": Model(1, False, 0, "opencv"),
    "SIMPLE_RADIAL": Model(2, True, 1, "opencv"),
    "RADIAL": Model(3, True, 2, "opencv"),
    "OPENCV": Model(4, False, 4, "opencv"),
    "OPENCV_FISHEYE": Model(5, False, 4, "fisheye"),
    "FULL_OPENCV": Model(6, False, 8, "opencv"),
    "FOV": Model(7, False, 1, ""),
    "SIMPLE_RADIAL_FISHEYE": Model(8, True, 1, "fisheye"),
    "RADIAL_FISHEYE": Model(9, True, 2, "fisheye"),
    "THIN_PRISM_FISHEYE": Model(10, False, 8, ""),
    "RAD_TAN_THIN_PRISM_FISHEYE": Model(11, False, 12, ""),
    "SIMPLE_DIVISION": Model(12, True, 1, ""),
    "DIVISION": Model(13, False, 1, ""),
    "SIMPLE_FISHEYE": Model(14, True, 0, "fisheye"),
    "FISHEYE": Model(15, False, 0, "fisheye"),
    "EUCM": Model(16, False, 2, ""),
}
_BY_NUMBER = {model.number: name for name, model in MODELS.items()}


class Camera(NamedTuple):
    """model: its name. parameters: as COLMAP orders them."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Registered:
    """A registered image. w2c [4, 4]; points: ids of the 3D points that it observes."""

    name: str
    camera: int
    w2c: NDArray[np.float64]
    points: NDArray[np.int64]


def detect(path: Path) -> bool:
    """Tell whether a folder holds a model, or a workspace with models."""
    return path.is_dir() and bool(models(path))


def models(path: Path) -> list[Path]:
    """Return the folders of the models in a workspace."""
    for place in PLACES:
        folder = path / place
        if _is_model(folder):
            return [folder]
        if place and folder.is_dir():
            with os.scandir(folder) as entries:
                numbered = sorted(
                    (Path(e.path) for e in entries if e.is_dir()), key=lambda p: natural(p.name)
                )
            found = [child for child in numbered if _is_model(child)]
            if found:
                return found
    return []


def _is_model(folder: Path) -> bool:
    """Tell whether a folder has a model's files, one of which may be missing."""
    return any(
        sum((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images", "points3D")) >= 2
        for suffix in (".bin", ".txt")
    )


def open_store(path: Path, images: str = "", ordered: bool = False, metric: bool = False) -> Store:
    """Open the models of a workspace, one scene each.

    images: folder of the photos, beside the models' folder unless it is absolute; empty: images, or the workspace
    itself. ordered: the names of the photos follow a path (a video), so that samples are drawn by the gap of frames.
    metric: the model was scaled to metres. Raises DatasetError for a folder without a model.
    """
    found = models(path)
    if not found:
        raise DatasetError(f"{path} holds no COLMAP model: cameras, images and points3D, .bin or .txt")
    key = path.absolute().name
    openers = {
        key if len(found) == 1 else f"{key}/{folder.name}": functools.partial(
            _scene, key if len(found) == 1 else f"{key}/{folder.name}", path, folder, images, ordered, metric
        )
        for folder in found
    }
    return Scenes(openers)


def _scene(key: str, root: Path, folder: Path, images: str, ordered: bool, metric: bool) -> PosedScene:
    where = f"scene {key}, {folder}"
    cameras, registered = read_model(folder)
    if not registered:
        raise DatasetError(f"{where} has no registered image: reconstruct it again, or leave it out")
    registered.sort(key=lambda image: natural(image.name))
    unknown = {image.camera for image in registered} - set(cameras)
    if unknown:
        raise DatasetError(
            f"{where}: images name camera {min(unknown)}, which its cameras file lacks: copy both again"
        )
    w2c = np.array([image.w2c for image in registered])
    finite = usable_poses(w2c, where)
    notes = (
        [f"{int((~finite).sum())} images have poses with NaN and are left out"] if not finite.all() else []
    )
    registered = [image for image, good in zip(registered, finite, strict=True) if good]
    calibrations = {number: calibration(camera, where) for number, camera in cameras.items()}
    sizes = np.array(
        [(cameras[i.camera].width, cameras[i.camera].height) for i in registered], dtype=np.int64
    )
    raw = np.array([calibrations[i.camera][0] for i in registered])
    check_intrinsics(raw / np.tile(sizes, 2), where)
    lenses = tuple(calibrations[i.camera][1] for i in registered)
    photos = _photo_folder(root, folder, images, registered[0].name)
    others = _unregistered(photos, {image.name for image in registered})
    if others:
        notes.append(f"{others} photos in {photos} are not registered in the model and are left out")
    return PosedScene(
        key, w2c[finite], undistorted_intrinsics(raw, lenses), False,
        Photos(tuple(photos / image.name for image in registered), lenses if any(lenses) else None),
        sizes=sizes, distance=functools.partial(distances, folder, tuple(i.name for i in registered)),
        names=tuple(image.name for image in registered), ordered=ordered, metric=metric, notes=tuple(notes),
    )  # fmt: skip


def _photo_folder(root: Path, folder: Path, images: str, first: str) -> Path:
    """Return where the photos lie."""
    if images:
        if not (root / images).is_dir():
            raise DatasetError(f"there is no folder of photos {root / images} (option images)")
        return root / images
    places = [root / "images", folder / "images", root.parent / "images", root.parent.parent / "images", root]
    return next((place for place in places if (place / first).is_file()), root / "images")


def _unregistered(photos: Path, names: set[str]) -> int:
    """Return how many photos below a folder have none of the names."""
    count = 0
    for path, _, files in os.walk(photos):
        prefix = "" if Path(path) == photos else Path(path).relative_to(photos).as_posix() + "/"
        pictures = (f for f in files if f.lower().endswith((".jpg", ".jpeg", ".png")))
        count += sum(prefix + file not in names for file in pictures)
    return count


def calibration(camera: Camera, where: str) -> tuple[NDArray[np.float64], Lens | None]:
    """Return fx, fy, cx, cy [4] in pixels of the photo as it is, and its lens.

    Raises DatasetError for a model that OpenCV does not undistort.
    """
    model = MODELS[camera.model]
    p = camera.parameters
    fxfycxcy = np.array((p[0], *p[:3]) if model.one_focal else p[:4], dtype=np.float64)
    d = p[3 if model.one_focal else 4 :]
    if not model.family and any(d):
        raise DatasetError(
            f"{where}: OpenCV does not undistort cameras of the model {camera.model}: run `colmap image_undistorter`, "
            f"and read what it writes"
        )
    if camera.width < 1 or camera.height < 1:
        raise DatasetError(f"{where}: a camera is {camera.width}x{camera.height} pixels: reconstruct again")
    if model.family == "fisheye":
        d = (*d, *([0.0] * (4 - len(d))))
    return fxfycxcy, make_lens(fxfycxcy, camera.width, camera.height, model.family or "opencv", d, where)


# The two forms of files ---------------------------------------------------------------------------------


def read_model(folder: Path) -> tuple[dict[int, Camera], list[Registered]]:
    """Read a model's cameras and registered images. Raises DatasetError naming the file that is missing or damaged."""
    there = {s: sum((folder / f"{n}{s}").is_file() for n in ("cameras", "images")) for s in (".bin", ".txt")}
    suffix = max(there, key=lambda s: there[s])  # the form that is complete, where one is
    for name in ("cameras", "images"):
        if not (folder / f"{name}{suffix}").is_file():
            raise DatasetError(f"{folder} lacks {name}{suffix}: copy the whole model")
    readers = (_binary_cameras, _binary_images) if suffix == ".bin" else (_text_cameras, _text_images)
    parts = [
        _guarded(folder / f"{name}{suffix}", reader)
        for name, reader in zip(("cameras", "images"), readers, strict=True)
    ]
    return dict(parts[0]), list(parts[1])


def _guarded(path: Path, reader: Any) -> list[Any]:
    try:
        return list(reader(path))
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise DatasetError(f"{path} is truncated or not a file of COLMAP ({error}): copy it again") from error


def _binary_cameras(path: Path) -> Iterator[tuple[int, Camera]]:
    data = path.read_bytes()
    (count,), at = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        number, model, width, height = struct.unpack_from("<IiQQ", data, at)
        name = _BY_NUMBER.get(model)
        if name is None:
            raise DatasetError(
                f"{path}: camera {number} is of the unknown model {model}: undistort with COLMAP first"
            )
        size = MODELS[name].parameters
        yield number, Camera(name, width, height, struct.unpack_from(f"<{size}d", data, at + 24))
        at += 24 + 8 * size


def _binary_images(path: Path) -> Iterator[Registered]:
    data = path.read_bytes()
    (count,), at = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        _, *pose, camera = struct.unpack_from("<I7dI", data, at)
        at += 64
        end = data.index(b"\0", at)
        (seen,) = struct.unpack_from("<Q", data, end + 1)
        observed = np.frombuffer(data, [("xy", "<f8", 2), ("id", "<i8")], seen, end + 9)["id"]
        yield Registered(data[at:end].decode(), camera, _pose(pose), observed[observed >= 0].copy())
        at = end + 9 + 24 * seen


def _text_cameras(path: Path) -> Iterator[tuple[int, Camera]]:
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            number, model, width, height, *parameters = line.split()
            if model not in MODELS:
                raise DatasetError(
                    f"{path}: camera {number} is of an unknown model, {model}: undistort first"
                )
            if len(parameters) != MODELS[model].parameters:
                raise ValueError(f"camera {number} has {len(parameters)} parameters")
            yield int(number), Camera(model, int(width), int(height), tuple(map(float, parameters)))


def _text_images(path: Path) -> Iterator[Registered]:
    with path.open() as file:
        lines = (line for line in file if not line.startswith("#"))
        for line in lines:
            if not line.strip():
                continue
            _, *pose, camera, name = line.strip().split(maxsplit=9)
            if len(pose) != 7:
                raise ValueError(f"a line has {len(pose) + 3} entries")
            observed = np.array(next(lines, "").split()[2::3], dtype=np.int64)
            yield Registered(name, int(camera), _pose([float(v) for v in pose]), observed[observed >= 0])


def _pose(values: Any) -> NDArray[np.float64]:
    """Return w2c [4, 4] of a quaternion w, x, y, z and a translation; all NaN for one that is none."""
    w, x, y, z = np.array(values[:4]) / (np.linalg.norm(values[:4]) or np.nan)
    T = np.eye(4)
    T[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    T[:3, 3] = values[4:]
    return T


# Points -------------------------------------------------------------------------------------------------


def _points(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return ids [P] and positions [P, 3] of a model's 3D points; none where the file is missing."""
    ids, places = [], []
    if (folder / "points3D.bin").is_file():
        data, at = (folder / "points3D.bin").read_bytes(), 8
        for _ in range(struct.unpack_from("<Q", data)[0]):
            number, x, y, z = struct.unpack_from("<Q3d", data, at)
            (track,) = struct.unpack_from("<Q", data, at + 43)
            ids.append(number)
            places.append((x, y, z))
            at += 51 + 8 * track
    elif (folder / "points3D.txt").is_file():
        for line in (folder / "points3D.txt").open():
            if line.strip() and not line.startswith("#"):
                number, x, y, z, *_ = line.split(maxsplit=4)
                ids.append(int(number))
                places.append((float(x), float(y), float(z)))
    return np.array(ids, dtype=np.int64), np.array(places, dtype=np.float64).reshape(-1, 3)


@functools.lru_cache(maxsize=32)
def distances(folder: Path, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the median depth [N] of the points that each image observes; NaN where it observes too few."""
    ids, places = _guarded(folder, _points)
    order = np.argsort(ids)
    ids, places = ids[order], places[order]
    by_name = {image.name: image for image in read_model(folder)[1]}
    out = np.full(len(names), np.nan)
    for i, name in enumerate(names):
        image = by_name[name]
        at = np.searchsorted(ids, image.points)
        at = at[at < len(ids)]
        if len(at) >= 5:
            depth = places[at] @ image.w2c[2, :3] + image.w2c[2, 3]
            out[i] = np.median(depth)
    out[~(out > 0)] = np.nan
    return out
