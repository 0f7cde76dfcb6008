"""Binary glTF files as the asset pack has them: one buffer, triangles, base colours, textures inside the file."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geometry import Material, Mesh, MeshError, smooth_normals

KINDS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


def read_glb(data: bytes) -> tuple[Mesh, dict[str, bytes]]:
    """Return the mesh, z up in metres, and its textures by name. Raises MeshError."""
    try:
        return _read(data)
    except (KeyError, IndexError, ValueError, TypeError, struct.error) as error:
        raise MeshError(f"not a usable GLB file: {type(error).__name__}: {error}") from error


def _read(data: bytes) -> tuple[Mesh, dict[str, bytes]]:
    if data[:4] != b"glTF" or struct.unpack_from("<I", data, 8)[0] > len(data):
        raise ValueError("no glTF header, or the file is cut short")
    length = struct.unpack_from("<I", data, 12)[0]
    scene = json.loads(data[20 : 20 + length])
    start = 20 + length + 8
    blob = data[start : start + struct.unpack_from("<I", data, 20 + length)[0]]
    images: dict[str, bytes] = {}
    for number, image in enumerate(scene.get("images", [])):
        view = scene["bufferViews"][image["bufferView"]]
        first = view.get("byteOffset", 0)
        images[f"image{number}"] = blob[first : first + view["byteLength"]]
    materials = [_material(m, scene) for m in scene.get("materials", [])] or [Material()]
    parts: list[tuple[NDArray[Any], ...]] = []
    for root in scene["scenes"][scene.get("scene", 0)]["nodes"]:
        _walk(scene, blob, root, np.eye(4), parts)
    if not parts:
        raise ValueError("no triangles")
    position, normal, uv, slot = (np.concatenate(x) for x in zip(*parts, strict=True))
    turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # y up to z up
    return Mesh(position @ turn.T, normal @ turn.T, uv, slot, tuple(materials)), images


def _material(m: dict[str, Any], scene: dict[str, Any]) -> Material:
    surface = m.get("pbrMetallicRoughness", {})
    colour = surface.get("baseColorFactor", [1.0, 1.0, 1.0, 1.0])
    texture = surface.get("baseColorTexture")
    name = None if texture is None else f"image{scene['textures'][texture['index']]['source']}"
    shown = [max(x, 0.0) ** (1 / 2.2) for x in colour[:3]]  # glTF's factors are linear
    return Material(m.get("name", ""), (shown[0], shown[1], shown[2]), name, 0.1, 20.0, float(colour[3]))


def _walk(scene: dict[str, Any], blob: bytes, number: int, above: NDArray[Any], parts: list[Any]) -> None:
    node = scene["nodes"][number]
    here = above @ _matrix(node)
    if "mesh" in node:
        for p in scene["meshes"][node["mesh"]]["primitives"]:
            if p.get("mode", 4) != 4:
                continue
            point = _accessor(scene, blob, p["attributes"]["POSITION"])
            index = (
                _accessor(scene, blob, p["indices"]).reshape(-1) if "indices" in p else np.arange(len(point))
            ).astype(np.int64)
            index = index[: len(index) // 3 * 3]
            position = (point @ here[:3, :3].T + here[:3, 3])[index].reshape(-1, 3, 3).astype(np.float32)
            if "NORMAL" in p["attributes"]:
                normal = _accessor(scene, blob, p["attributes"]["NORMAL"]) @ np.linalg.inv(here[:3, :3])
                normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
                normal = normal[index].reshape(-1, 3, 3).astype(np.float32)
            else:
                normal = smooth_normals(position)
            uv = np.zeros((*position.shape[:2], 2), np.float32)
            if "TEXCOORD_0" in p["attributes"]:
                uv = (
                    _accessor(scene, blob, p["attributes"]["TEXCOORD_0"])[index]
                    .reshape(-1, 3, 2)
                    .astype(np.float32)
                )
                uv[..., 1] = 1 - uv[..., 1]
            parts.append((position, normal, uv, np.full(len(position), p.get("material", 0), np.int32)))
    for child in node.get("children", []):
        _walk(scene, blob, child, here, parts)


def _matrix(node: dict[str, Any]) -> NDArray[Any]:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", [0, 0, 0, 1])
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    out = np.eye(4)
    out[:3, :3] = turn * np.array(node.get("scale", [1, 1, 1]))
    out[:3, 3] = node.get("translation", [0, 0, 0])
    return out


def _accessor(scene: dict[str, Any], blob: bytes, number: int) -> NDArray[Any]:
    a = scene["accessors"][number]
    view = scene["bufferViews"][a["bufferView"]]
    kind, width = np.dtype(KINDS[a["componentType"]]), WIDTH[a["type"]]
    first = view.get("byteOffset", 0) + a.get("byteOffset", 0)
    stride = view.get("byteStride", kind.itemsize * width)
    if first + stride * (a["count"] - 1) + kind.itemsize * width > len(blob):
        raise ValueError(f"accessor {number} reaches beyond the buffer")
    return np.ndarray((a["count"], width), kind, blob, first, (stride, kind.itemsize)).copy()
