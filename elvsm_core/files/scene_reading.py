"""Read scene files, in whatever state they are and whoever made them.

Nothing is mapped into memory, so that a file which is overwritten or cut meanwhile is an error and no SIGBUS. What the
header declares is compared with the file's size, with the limits and with the free memory before anything is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cameras import MAX_SIDE, Camera
from ..frame import SceneFrame
from .persistence import (
    DTYPES,
    FORMAT,
    IN_FIRST_VERSION,
    LAST_ID,
    MAX_KEYFRAMES,
    VERSION,
    Keyframe,
    SceneFileError,
    StoredScene,
    _label,
)

MAX_HEADER = 16 << 20
"""Bytes."""
MEMORY_SHARE = 0.9
"""Of the memory that is free, what a scene may take at most."""
LATEST_STAMP = 1e12
"""Seconds: beyond, nanoseconds do not fit into 64 bits."""


def read_scene(path: str | os.PathLike[str]) -> StoredScene:
    """Read what `write_scene` wrote.

    Raises SceneFileError for a file that is missing, truncated, changed, of another format or of a version
    that this program does not know; that holds cameras or frames which none can be; or that is larger than
    MAX_KEYFRAMES or the free memory allow, which is found out before its images are read.
    """
    path = Path(path)
    try:
        # A FIFO that nobody writes to must not hold this up, and what is checked must be what is read.
        handle = os.open(os.path.realpath(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise SceneFileError(f"there is no scene file {path}") from error
    except OSError as error:
        raise SceneFileError(f"{path} cannot be opened ({error.strerror}): check the file") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise SceneFileError(f"there is no scene file {path}: it is a directory, a pipe or a device")
    with os.fdopen(handle, "rb") as file:
        try:
            return _read(path, file)
        except SceneFileError:
            raise
        except OSError as error:
            raise SceneFileError(f"{path} cannot be read ({error.strerror or error})") from error
        except MemoryError as error:
            raise SceneFileError(f"{path} needs more memory than there is") from error
        except (
            AttributeError,
            KeyError,
            TypeError,
            IndexError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            reason = str(error).strip().splitlines() or [""]
            raise SceneFileError(
                f"{path} does not hold what a scene needs ({type(error).__name__}: {reason[0][:200]})"
            ) from error


def _read(path: Path, file: BinaryIO) -> StoredScene:
    size = os.fstat(file.fileno()).st_size
    head, start = _head(path, file, size)
    metadata = head.get("__metadata__") or {}
    if metadata.get("format") != FORMAT:
        raise SceneFileError(
            f"{path} is not a scene file: its format is {str(metadata.get('format', 'unknown'))[:80]!r}"
        )
    text = metadata.get("scene", "")
    header = json.loads(text)
    _check_version(path, header["version"])
    height, width = (_whole(value, MAX_SIDE) for value in header["image_size"])
    count = _whole(head["ids"]["shape"][0], 2**62)
    every: dict[str, tuple[int, ...]] = {
        "T_world_cam": (count, 4, 4), "fxfycxcy_stamp": (count, 5), "ids": (count,), "lens_size": (count, 6),
        "images": (count, height, width, 3), "pictures": (),
    }  # fmt: skip
    if header["version"] > 1:
        every["pictures"] = (_whole(head["pictures"]["shape"][0], 2**62),)
    shapes = {name: every[name] for name in (DTYPES if header["version"] > 1 else IN_FIRST_VERSION)}
    _check_extent(path, head, shapes, size - start)
    digest = hashlib.sha256(text.encode())
    small: dict[str, NDArray[Any]] = {"lens_size": np.zeros((count, 6))}
    for name in shapes:
        if name in ("images", "pictures"):
            continue
        array = np.empty(shapes[name], np.int64 if DTYPES[name] == "I64" else np.float64)
        _fill(path, file, array)
        digest.update(_label(name, shapes[name]))
        digest.update(array.data)
        small[name] = array
    digest.update(_label("images", shapes["images"]))
    images: list[Tensor] = []
    for _ in range(count):
        # Each in memory of its own, which is free again when its keyframe is forgotten.
        image = torch.empty((height, width, 3), dtype=torch.uint8)
        _fill(path, file, image.numpy())
        digest.update(image.numpy().data)
        images.append(image)
    if "pictures" in shapes:
        digest.update(_label("pictures", shapes["pictures"]))
    pictures = _pictures(path, file, digest, small["lens_size"], shapes.get("pictures", (0,)))
    if metadata.get("sha256") != digest.hexdigest():
        raise SceneFileError(f"{path} is damaged: its content does not match its SHA-256; restore a copy")
    return _scene(header, small, images, pictures)


def _pictures(
    path: Path, file: BinaryIO, digest: Any, lens_size: NDArray[Any], shape: tuple[int, ...]
) -> list[Tensor | None]:
    """Read the pictures of these sizes, which follow each other in one row of bytes; None where there is none."""
    sizes = [(_whole(int(h), MAX_SIDE), _whole(int(w), MAX_SIDE)) for h, w in lens_size[:, 4:].tolist()]
    if shape[0] != sum(h * w * 3 for h, w in sizes):
        raise SceneFileError(f"{path} does not hold what a scene needs: its pictures have other sizes")
    pictures: list[Tensor | None] = []
    for height, width in sizes:
        if not height * width:
            pictures.append(None)
            continue
        picture = torch.empty((height, width, 3), dtype=torch.uint8)
        _fill(path, file, picture.numpy())
        digest.update(picture.numpy().data)
        pictures.append(picture)
    return pictures


def _head(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file and where its tensors begin."""
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
    if not 0 < length <= size - 8 or length > MAX_HEADER:
        raise SceneFileError(f"{path} cannot be read: truncated, or not a scene file")
    try:
        head = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise SceneFileError(f"{path} cannot be read: truncated, or not a scene file") from error
    if not isinstance(head, dict):
        raise SceneFileError(f"{path} cannot be read: truncated, or not a scene file")
    return head, 8 + length


def _check_version(path: Path, version: Any) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
        newer = isinstance(version, int) and version > VERSION
        raise SceneFileError(
            f"{path} has version {str(version)[:20]}, this program reads versions up to {VERSION}: "
            + ("use a newer elvsm" if newer else "record the scene anew, or use an older elvsm")
        )


def _check_extent(
    path: Path, head: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], available: int
) -> None:
    """Raise SceneFileError unless the tensors are those of a scene, fill the file, and fit into limits and memory."""
    end = 0
    for name, shape in shapes.items():
        entry = head[name]
        bytes_each = {"F64": 8, "I64": 8, "U8": 1}[DTYPES[name]]
        begin, end = end, end + bytes_each * int(np.prod([int(n) for n in shape], dtype=object))
        found = entry["dtype"], tuple(entry["shape"])
        if found != (DTYPES[name], shape) or list(entry["data_offsets"]) != [begin, end]:
            raise SceneFileError(f"{path} does not hold what a scene needs: its {name} are {str(found)[:80]}")
    if end != available:
        raise SceneFileError(
            f"{path} is truncated, or not a scene file: it declares {end} bytes of keyframes and holds {available}"
        )
    count = shapes["ids"][0]
    if count > MAX_KEYFRAMES:
        raise SceneFileError(f"{path} holds {count} keyframes: {MAX_KEYFRAMES} at most are read")
    free = free_memory()
    if end > MEMORY_SHARE * free:
        raise SceneFileError(
            f"{path} needs {end / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free: make room, or use a "
            f"machine with more"
        )


def free_memory() -> float:
    """Return the bytes of memory that this process may still take, as far as the system tells; else infinity."""
    found = [float("inf")]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found += [1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(float(Path(limit).read_text()) - float(Path(used).read_text()))
        except (OSError, ValueError):  # no cgroup, or "max"
            continue
    return max(0.0, min(found))


def _fill(path: Path, file: BinaryIO, array: NDArray[Any]) -> None:
    """Read an array from where the file is."""
    if not array.nbytes:
        return
    view = array.data.cast("B")
    done = 0
    while done < len(view):
        got = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise SceneFileError(f"{path} is truncated: somebody cut it while it was read; copy it again")
        done += got


def _whole(value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]} is not a whole number from 0 to {most}")
    return value


def _scene(
    header: Mapping[str, Any],
    small: Mapping[str, NDArray[Any]],
    images: list[Tensor],
    pictures: list[Tensor | None],
) -> StoredScene:
    height, width = header["image_size"]
    stamps = small["fxfycxcy_stamp"][:, 4]
    if (np.abs(stamps[~np.isnan(stamps)]) > LATEST_STAMP).any():
        raise ValueError("stamps beyond any clock")
    numbers = np.concatenate([small["fxfycxcy_stamp"], small["lens_size"][:, :4]], axis=1).tolist()
    rows = zip(small["ids"].tolist(), images, pictures, small["T_world_cam"], numbers, strict=True)
    views = {}
    for view, image, picture, T, (fx, fy, cx, cy, stamp, *lens) in rows:
        camera = Camera(fx, fy, cx, cy, width, height, T)
        four = (lens[0], lens[1], lens[2], lens[3])
        if picture is not None:
            Camera(*four, picture.shape[1], picture.shape[0], T)  # raises where it is none
        finer = (None, None) if picture is None else (picture, four)
        views[view] = Keyframe(image, camera, None if np.isnan(stamp) else stamp, *finer)
    frame, next_id = header["frame"], header["next_id"]
    if isinstance(next_id, bool) or not isinstance(next_id, int) or not 0 <= next_id <= LAST_ID:
        raise ValueError(f"next_id is {str(next_id)[:40]}")
    if list(views) != sorted(views) or len(views) != len(images) or any(not 0 <= v < next_id for v in views):
        raise ValueError("ids must increase and stay below next_id")
    if views and not frame:
        raise ValueError("views, but no frame")
    return StoredScene(
        image_size=(height, width),
        frame=SceneFrame(np.array(frame["T"], dtype=np.float64), float(frame["scale"])) if frame else None,
        fixed_frame=bool(header["fixed_frame"]),
        views=views,
        next_id=next_id,
        extra=dict(header.get("extra", {})),
    )
