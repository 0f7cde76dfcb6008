"""A scene in one file: images, cameras, stamps and the frame.

Keys and values are not kept: encoding an image again is cheaper than reading them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .cameras import Camera, CameraError
from .checkpoint import write_atomically
from .frame import SceneFrame

FORMAT = "elvsm-scene"
VERSION = 1


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
    """The content of a scene file. views: {id: keyframe}, oldest first; next_id: the first id never used."""

    image_size: tuple[int, int]
    frame: SceneFrame | None
    fixed_frame: bool
    views: dict[int, Keyframe]
    next_id: int


def write_scene(path: str | os.PathLike[str], scene: StoredScene, metadata: Mapping[str, str]) -> None:
    """Write a scene, atomically: a reader sees the old file or the new one, never a part.

    metadata: further text entries. The file is in the safetensors format, with a SHA-256 over all tensors.
    """
    height, width = scene.image_size
    kept = list(scene.views.values())
    numbers = [[*k.camera.fxfycxcy, np.nan if k.stamp is None else k.stamp] for k in kept]
    poses = np.array([k.camera.T_world_cam for k in kept], dtype=np.float64).reshape(-1, 4, 4)
    tensors = {
        "images": torch.stack([k.image for k in kept]) if kept else torch.zeros(0, height, width, 3).byte(),
        "T_world_cam": torch.from_numpy(poses),
        "fxfycxcy_stamp": torch.tensor(numbers, dtype=torch.float64).reshape(-1, 5),
        "ids": torch.tensor(list(scene.views), dtype=torch.int64),
    }
    header: dict[str, Any] = {
        "version": VERSION,
        "image_size": [height, width],
        "next_id": scene.next_id,
        "fixed_frame": scene.fixed_frame,
        "frame": scene.frame and {"T": scene.frame.T_world_anchor.tolist(), "scale": scene.frame.scale},
    }
    text = json.dumps(header, sort_keys=True)
    entries = {**metadata, "format": FORMAT, "scene": text, "sha256": _digest(tensors, text)}
    write_atomically(Path(path), tensors, entries)


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
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise SceneFileError(f"{path} cannot be read: truncated, or not a scene file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise SceneFileError(
            f"{path} is not a scene file: its format is {metadata.get('format', 'unknown')!r}"
        )
    text = metadata.get("scene", "")
    try:
        header = json.loads(text)
        version = header["version"]
        if version != VERSION:
            raise SceneFileError(
                f"{path} has version {version}, this program reads version {VERSION}: save it anew"
            )
        if metadata.get("sha256") != _digest(tensors, text):
            raise SceneFileError(f"{path} is damaged: its content does not match its SHA-256; restore a copy")
        return _parse(header, tensors)
    except (KeyError, TypeError, IndexError, json.JSONDecodeError, CameraError) as error:
        raise SceneFileError(f"{path} does not hold what a scene needs: {error!r}") from error


def _parse(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StoredScene:
    height, width = header["image_size"]
    rows = zip(
        tensors["ids"].tolist(),
        tensors["images"],
        tensors["T_world_cam"].numpy(),
        tensors["fxfycxcy_stamp"].tolist(),
        strict=True,
    )
    views = {
        int(view): Keyframe(
            image, Camera(fx, fy, cx, cy, width, height, T), None if np.isnan(stamp) else stamp
        )
        for view, image, T, (fx, fy, cx, cy, stamp) in rows
    }
    frame = header["frame"]
    return StoredScene(
        image_size=(int(height), int(width)),
        frame=SceneFrame(np.array(frame["T"]), float(frame["scale"])) if frame else None,
        fixed_frame=bool(header["fixed_frame"]),
        views=views,
        next_id=int(header["next_id"]),
    )


def _digest(tensors: Mapping[str, Tensor], header: str) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        digest.update(np.ascontiguousarray(tensors[name].numpy()).data)
    return digest.hexdigest()
