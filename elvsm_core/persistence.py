"""A scene in one file: images, cameras, stamps and the frame.

Keys and values are not kept: encoding an image again is cheaper than reading them. The file is in the safetensors
format, with a SHA-256 over everything in it that counts. It is written and read image by image, so that a scene of
thousands of keyframes needs no second copy in memory, and other threads go on meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
from numpy.typing import NDArray
from torch import Tensor

from .cameras import Camera
from .frame import SceneFrame

FORMAT = "elvsm-scene"
VERSION = 1
DTYPES = {"T_world_cam": "F64", "fxfycxcy_stamp": "F64", "ids": "I64", "images": "U8"}
"""The tensors of a file, in the order in which they are written and hashed."""


LAST_ID = 2**62
"""No scene ever comes to that; ids must have room to go on."""


class SceneFileError(ValueError):
    """A scene file that cannot be used, with the reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class Keyframe:
    """What is kept of a view: image uint8 [H, W, 3] at the scene's size, its camera, its stamp in seconds."""

    image: Tensor
    camera: Camera
    stamp: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class StoredScene:
    """The content of a scene file. views: {id: keyframe}, oldest first; next_id: the first id never used.

    extra: what the program that keeps the scene adds, as JSON can hold it.
    """

    image_size: tuple[int, int]
    frame: SceneFrame | None
    fixed_frame: bool
    views: dict[int, Keyframe]
    next_id: int
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def write_scene(path: str | os.PathLike[str], scene: StoredScene, metadata: Mapping[str, str]) -> None:
    """Write a scene, atomically: a reader sees the old file or the new one, never a part, whenever this is killed.

    metadata: further text entries. Raises OSError when the file cannot be written; the old one stays then.
    """
    path = Path(path)
    kept = list(scene.views.values())
    count, (height, width) = len(kept), scene.image_size
    numbers = [[*k.camera.fxfycxcy, np.nan if k.stamp is None else k.stamp] for k in kept]
    small = {
        "T_world_cam": np.array([k.camera.T_world_cam for k in kept], np.float64).reshape(-1, 4, 4),
        "fxfycxcy_stamp": np.array(numbers, np.float64).reshape(-1, 5),
        "ids": np.array(list(scene.views), np.int64),
    }
    header = {
        "version": VERSION,
        "image_size": [height, width],
        "next_id": scene.next_id,
        "fixed_frame": scene.fixed_frame,
        "frame": scene.frame and {"T": scene.frame.T_world_anchor.tolist(), "scale": scene.frame.scale},
        "extra": dict(scene.extra),
    }
    text = json.dumps(header, sort_keys=True)
    shapes = {**{name: array.shape for name, array in small.items()}, "images": (count, height, width, 3)}
    entries = {**metadata, "format": FORMAT, "scene": text}
    with _replacing(path) as file:
        # The hash is known at the end, and its place is at the start: a dummy holds it.
        file.write(_head(shapes, {**entries, "sha256": "0" * 64}))
        digest = hashlib.sha256(text.encode())
        for name, shape in shapes.items():
            digest.update(_label(name, shape))
            for array in [small[name]] if name in small else (k.image.numpy() for k in kept):
                data = np.ascontiguousarray(array).data
                digest.update(data)
                file.write(data)
        file.seek(0)
        file.write(_head(shapes, {**entries, "sha256": digest.hexdigest()}))


def _head(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bytes:
    """Return what a safetensors file begins with (huggingface.co/docs/safetensors: format)."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, shape in shapes.items():
        end = start + int(np.prod(shape)) * {"F64": 8, "I64": 8, "U8": 1}[DTYPES[name]]
        content[name] = {"dtype": DTYPES[name], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which takes the place of `path` in one step when everything went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # whoever finds it unlocked knows that its writer is dead
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, is on the disk when this returns
    finally:
        os.close(folder)


def _remove_leftovers(path: Path) -> None:
    """Remove what writers of this file left that were killed."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError), open(part, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def read_scene(path: str | os.PathLike[str]) -> StoredScene:
    """Read what `write_scene` wrote.

    Raises SceneFileError for a file that is missing, truncated, changed, of another format or of a version
    that this program does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise SceneFileError(f"there is no scene file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return _read(path, file)
    except (safetensors.SafetensorError, OSError) as error:
        raise SceneFileError(f"{path} cannot be read: truncated, or not a scene file ({error})") from error
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, SceneFileError):
            raise
        raise SceneFileError(f"{path} does not hold what a scene needs: {error!r}") from error


def _read(path: Path, file: Any) -> StoredScene:
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise SceneFileError(
            f"{path} is not a scene file: its format is {metadata.get('format', 'unknown')!r}"
        )
    text = metadata.get("scene", "")
    header = json.loads(text)
    version = header["version"]
    if version != VERSION:
        raise SceneFileError(
            f"{path} has version {version}, this program reads version {VERSION}: "
            + ("use a newer elvsm" if version > VERSION else "record the scene anew, or use an older elvsm")
        )
    height, width = header["image_size"]
    slices = {name: file.get_slice(name) for name in DTYPES}
    count = slices["ids"].get_shape()[0]
    shapes = {
        "T_world_cam": (count, 4, 4), "fxfycxcy_stamp": (count, 5), "ids": (count,),
        "images": (count, height, width, 3),
    }  # fmt: skip
    for name, dtype in DTYPES.items():
        found = slices[name].get_dtype(), tuple(slices[name].get_shape())
        if found != (dtype, shapes[name]):
            raise SceneFileError(f"{path} does not hold what a scene needs: its {name} are {found}")
    digest = hashlib.sha256(text.encode())
    small: dict[str, NDArray] = {}
    images: list[Tensor] = []
    for name, shape in shapes.items():
        digest.update(_label(name, shape))
        if name != "images":
            small[name] = file.get_tensor(name).numpy()
            digest.update(small[name].data)
            continue
        for index in range(count):
            # Each in memory of its own, which is free again when its keyframe is forgotten.
            images.append(slices[name][index].clone())
            digest.update(images[-1].numpy().data)
    if metadata.get("sha256") != digest.hexdigest():
        raise SceneFileError(f"{path} is damaged: its content does not match its SHA-256; restore a copy")
    return _scene(header, small, images)


def _scene(header: Mapping[str, Any], small: Mapping[str, NDArray], images: list[Tensor]) -> StoredScene:
    height, width = header["image_size"]
    rows = zip(
        small["ids"].tolist(), images, small["T_world_cam"], small["fxfycxcy_stamp"].tolist(), strict=True
    )
    views = {
        view: Keyframe(image, Camera(fx, fy, cx, cy, width, height, T), None if np.isnan(stamp) else stamp)
        for view, image, T, (fx, fy, cx, cy, stamp) in rows
    }
    frame, next_id = header["frame"], int(header["next_id"])
    if list(views) != sorted(views) or len(views) != len(images) or any(v >= next_id for v in views):
        raise ValueError("ids must increase and stay below next_id")
    if next_id > LAST_ID:
        raise ValueError(f"next_id is {next_id}")
    if views and not frame:
        raise ValueError("views, but no frame")
    return StoredScene(
        image_size=(int(height), int(width)),
        frame=SceneFrame(np.array(frame["T"]), float(frame["scale"])) if frame else None,
        fixed_frame=bool(header["fixed_frame"]),
        views=views,
        next_id=next_id,
        extra=dict(header.get("extra", {})),
    )


def _label(name: str, shape: tuple[int, ...]) -> bytes:
    return f"{name}{tuple(shape)}".encode()
