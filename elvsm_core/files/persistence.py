"""A scene in one file: images, cameras, stamps and the frame.

Keys and values are not kept: encoding an image again is cheaper than reading them. The file is in the safetensors
format, with a SHA-256 over everything in it that counts. It is written and read image by image, so that a scene of
thousands of keyframes needs no second copy in memory, and other threads go on meanwhile.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..cameras import Camera
from ..frame import SceneFrame
from . import atomic

FORMAT = "elvsm-scene"
VERSION = 2
"""The first version has no pictures; it is read, too."""
DTYPES = {
    "T_world_cam": "F64", "fxfycxcy_stamp": "F64", "ids": "I64", "lens_size": "F64", "images": "U8", "pictures": "U8",
}  # fmt: skip
"""The tensors of a file, in the order in which they are written and hashed.

lens_size: fx, fy, cx, cy, height, width of the pictures, which follow each other in one row; zeros where there is none.
"""
IN_FIRST_VERSION = ("T_world_cam", "fxfycxcy_stamp", "ids", "images")
LAST_ID = 2**31
"""The largest next_id that is read: seven years of ten keyframes a second. Ids must have room to continue."""
HEAD_START = 4096
"""Bytes of a file in which its format is named."""
MAX_KEYFRAMES = 20_000
"""In a file: what takes a time in proportion to its square must stay within seconds."""


class SceneFileError(ValueError):
    """A scene file that cannot be used, with the reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class Keyframe:
    """What is kept of a view: image uint8 [H, W, 3] at the scene's size, its camera, its stamp in seconds.

    picture: uint8 [h, w, 3], all that the camera saw, for renders with detail; None: it would be no finer than the
    image. lens: fx, fy, cx, cy of it, pixels.
    """

    image: Tensor
    camera: Camera
    stamp: float | None
    picture: Tensor | None = None
    lens: tuple[float, float, float, float] | None = None

    @property
    def finest(self) -> tuple[Tensor, Camera]:
        """The picture and its camera, or else the image and its."""
        if self.picture is None or self.lens is None:
            return self.image, self.camera
        height, width = self.picture.shape[:2]
        return self.picture, Camera(*self.lens, width, height, self.camera.T_world_cam)


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

    metadata: further text entries. Ids beyond LAST_ID are counted anew from 0. Raises SceneFileError for more than
    MAX_KEYFRAMES views, for images of another size and in place of a file that is no scene, and OSError when the file
    cannot be written; the old one stays then.
    """
    path = Path(path)
    if len(scene.views) > MAX_KEYFRAMES:
        raise SceneFileError(
            f"{len(scene.views)} keyframes do not fit into a scene file: {MAX_KEYFRAMES} at most"
        )
    _check_place(path)
    if scene.next_id > LAST_ID:  # what is written can be read
        views = dict(enumerate(scene.views.values()))
        scene = dataclasses.replace(scene, views=views, next_id=len(views))
    kept = list(scene.views.values())
    count, (height, width) = len(kept), scene.image_size
    numbers = [[*k.camera.fxfycxcy, np.nan if k.stamp is None else k.stamp] for k in kept]
    small = {
        "T_world_cam": np.array([k.camera.T_world_cam for k in kept], np.float64).reshape(-1, 4, 4),
        "fxfycxcy_stamp": np.array(numbers, np.float64).reshape(-1, 5),
        "ids": np.array(list(scene.views), np.int64),
        "lens_size": np.array([_lens_size(k) for k in kept], np.float64).reshape(-1, 6),
    }
    pictures = [k.picture for k in kept if k.picture is not None]
    header = {
        "version": VERSION,
        "image_size": [height, width],
        "next_id": scene.next_id,
        "fixed_frame": scene.fixed_frame,
        "frame": scene.frame and {"T": scene.frame.T_world_anchor.tolist(), "scale": scene.frame.scale},
        "extra": dict(scene.extra),
    }
    text = json.dumps(header, sort_keys=True)
    shapes = {
        **{name: array.shape for name, array in small.items()},
        "images": (count, height, width, 3),
        "pictures": (sum(picture.numel() for picture in pictures),),
    }
    large = {"images": [k.image for k in kept], "pictures": pictures}
    entries = {**metadata, "format": FORMAT, "scene": text}
    with atomic.replacing(path) as file:
        # The hash is known at the end, and its place is at the start: a dummy holds it.
        file.write(_head(shapes, {**entries, "sha256": "0" * 64}))
        digest = hashlib.sha256(text.encode())
        for name, shape in shapes.items():
            digest.update(_label(name, shape))
            for array in [small[name]] if name in small else (image.numpy() for image in large[name]):
                data = np.ascontiguousarray(array).data
                digest.update(data)
                file.write(data)
        file.seek(0)
        file.write(_head(shapes, {**entries, "sha256": digest.hexdigest()}))


def _check_place(path: Path) -> None:
    """Raise SceneFileError where something else than a scene, or nothing, is at the place of a file to be written."""
    if not path.exists():
        return
    if not path.is_file():
        what = "a directory" if path.is_dir() else "no regular file"
        raise SceneFileError(f"{path} is {what}: remove it, or choose another name for the scene")
    with open(path, "rb") as file:
        start = file.read(HEAD_START)
    if start and FORMAT.encode() not in start:
        raise SceneFileError(f"{path} is not a scene file and is not overwritten: choose another name")


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


def _lens_size(keyframe: Keyframe) -> list[float]:
    if keyframe.picture is None or keyframe.lens is None:
        return [0.0] * 6
    return [*keyframe.lens, *keyframe.picture.shape[:2]]


def _label(name: str, shape: tuple[int, ...]) -> bytes:
    return f"{name}{tuple(shape)}".encode()
