"""Read packed assets with numpy: triangles and corners ready for the tracer, textures with their mip levels."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sources import AssetError, sha256

FORMAT = 1


@dataclass(frozen=True)
class Packed:
    """The packed assets in memory.

    catalogue: meshes, images and layouts, see packer.py; position [v, 3] float32 metres, normal [v, 3], uv [v, 2]
    of all
    meshes' vertices; face [n, 3] (numbers within all vertices), slot [n]; first_face [m + 1]: where each mesh's faces
    start. images: the files' bytes.
    """

    catalogue: dict[str, Any]
    position: NDArray[np.float32]
    normal: NDArray[np.float32]
    uv: NDArray[np.float32]
    face: NDArray[np.int32]
    slot: NDArray[np.uint8]
    first_face: NDArray[np.int64]
    images: list[bytes]
    manifest: dict[str, Any]


def load_packed(folder: str | Path) -> Packed:
    """Read a folder that the packer wrote. Raises AssetError for another format, damage, or what has no credit."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        files = {
            name: (folder / name).read_bytes() for name in ("meshes.npz", "images.bin", "catalogue.json")
        }
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{folder} holds no packed assets: {error}; make them with `python -m training.assets`"
        ) from error
    if manifest.get("format") != FORMAT:
        raise AssetError(
            f"{folder} has format {manifest.get('format')}, this program reads {FORMAT}: pack the assets again"
        )
    for name, data in files.items():
        if sha256(data) != manifest.get("outputs", {}).get(name):
            raise AssetError(
                f"{folder / name} is not the file that manifest.json names: pack the assets again"
            )
    catalogue = json.loads(files["catalogue.json"])
    for entry in [*catalogue["meshes"], *catalogue["images"], *catalogue["layouts"].values()]:
        row = entry.get("credit", -1)
        if not 0 <= row < len(manifest["files"]) or not manifest["files"][row]["licence"]:
            raise AssetError(
                f"{folder}: {entry.get('label', entry.get('name', 'a layout'))} has no licence in manifest.json"
            )
    with np.load(io.BytesIO(files["meshes.npz"]), allow_pickle=False) as arrays:
        a = {name: arrays[name] for name in arrays.files}
    vertices = np.array([m["vertices"] for m in catalogue["meshes"]], np.int64)
    triangles = np.array([m["triangles"] for m in catalogue["meshes"]], np.int64)
    first_vertex, first_face = np.r_[0, np.cumsum(vertices)], np.r_[0, np.cumsum(triangles)]
    owner = np.repeat(np.arange(len(vertices)), vertices)
    position = (
        _columns(a, "position", np.uint16, 3, first_vertex) / np.float32(65535) * a["span"][owner]
        + a["low"][owner]
    )
    uv = (
        _columns(a, "uv", np.uint16, 2, first_vertex) / np.float32(65535) * a["uv_span"][owner]
        + a["uv_low"][owner]
    )
    normal = _unfold(_columns(a, "normal", np.int8, 2, first_vertex).astype(np.float32) / 127)
    zigzag = _join(a["face"], np.uint32)
    step = (zigzag >> 1).astype(np.int32) ^ -(zigzag & 1).astype(np.int32)
    face = _running(step.astype(np.int64), 3 * first_face).reshape(-1, 3)
    face = (face + np.repeat(first_vertex[:-1], triangles)[:, None]).astype(np.int32)
    if len(face) and (face.min() < 0 or face.max() >= len(position)):
        raise AssetError(f"{folder / 'meshes.npz'} names vertices that do not exist: pack the assets again")
    ends = np.cumsum([0, *(i["bytes"] for i in catalogue["images"])])
    images = [files["images.bin"][a:b] for a, b in itertools.pairwise(ends)]
    return Packed(
        catalogue, position.astype(np.float32), normal, uv.astype(np.float32), face, a["slot"], first_face, images,
        manifest
    )  # fmt: skip


def _join(plane: NDArray[np.uint8], kind: type) -> NDArray[Any]:
    return np.ascontiguousarray(plane.T).view(kind).reshape(-1)


def _running(step: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Undo differences within each part that starts at first[i]."""
    total = np.cumsum(step)
    before = np.r_[0, total][first[:-1]]
    return total - np.repeat(before, np.diff(first))


def _columns(a: dict[str, Any], name: str, kind: type, width: int, first: NDArray[np.int64]) -> NDArray[Any]:
    columns = [_running(_join(a[f"{name}{k}"], kind).astype(np.int64), first) for k in range(width)]
    return np.stack(columns, 1).astype(kind)  # differences wrap around: modulo is part of the format


def _unfold(x: NDArray[np.float32]) -> NDArray[np.float32]:
    z = 1 - np.abs(x).sum(-1)
    fold = np.maximum(-z, 0)[:, None] * np.where(x < 0, -1, 1)
    out = np.concatenate([x - fold, z[:, None]], 1)
    return (out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-9)).astype(np.float32)


def decode(data: bytes) -> NDArray[np.uint8]:
    """Return an image's pixels, uint8 [H, W, 4]."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGBA"))
