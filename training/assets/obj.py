"""Wavefront OBJ and MTL files, as far as furniture needs them: polygons, normals, texture coordinates, materials."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geometry import Material, Mesh, MeshError, smooth_normals


def read_obj(name: str, read: Callable[[str], bytes]) -> Mesh:
    """Return a mesh in the file's own units and axes.

    name: path of the OBJ file; read: returns a file's bytes by its path, KeyError if there is none.
    Raises MeshError for a file without usable faces.
    """
    folder = posixpath.dirname(name)
    lines: dict[str, list[str]] = {"v": [], "vn": [], "vt": [], "f": []}
    before: list[
        tuple[int, int, int]
    ] = []  # vertices, coordinates and normals that a face's negative numbers count from
    slots: dict[str, int] = {}
    slot_of: list[int] = []
    library: dict[str, Material] = {}
    slot = -1
    for line in read(name).decode("utf-8", "replace").replace("\\\n", " ").splitlines():
        head, _, rest = line.strip().partition(" ")
        if head in ("v", "vn", "vt"):
            lines[head].append(rest)
        elif head == "f":
            if slot < 0:
                slot = slots.setdefault("", 0)
            lines["f"].append(rest)
            slot_of.append(slot)
            before.append((len(lines["v"]), len(lines["vt"]), len(lines["vn"])))
        elif head == "usemtl":
            slot = slots.setdefault(rest.strip(), len(slots))
        elif head == "mtllib":
            library |= _read_library(posixpath.join(folder, rest.strip()), read)
    if not slot_of:
        raise MeshError("no faces")
    point, normals, uvs = _numbers(lines["v"], 3), _numbers(lines["vn"], 3), _numbers(lines["vt"], 2)
    corners, count = _corners(lines["f"], before)
    index, face = _fans(corners, count)
    slot_array = np.array(slot_of, np.int32)[face]
    if not len(index):
        raise MeshError("no faces with three corners")
    if index[:, 0].max() >= len(point) or index[:, 0].min() < 0:
        raise MeshError(f"a face names vertex {int(index[:, 0].max()) + 1} of {len(point)}")
    position = point[index[:, 0]].reshape(-1, 3, 3)
    texture = np.zeros((len(index), 2), np.float32)
    has = (index[:, 1] >= 0) & (index[:, 1] < len(uvs))
    texture[has] = uvs[index[has, 1]]
    has = ((index[:, 2] >= 0) & (index[:, 2] < len(normals))).reshape(-1, 3).all(1)
    normal = np.zeros_like(position)
    if has.any():
        given = normals[np.where(index[:, 2] < len(normals), index[:, 2], 0)].reshape(-1, 3, 3)
        length = np.linalg.norm(given, axis=-1, keepdims=True)
        has &= (length > 1e-6).all((1, 2)) & np.isfinite(given).all((1, 2))
        normal = given / np.maximum(length, 1e-6)
    if not has.all():
        normal = np.where(has[:, None, None], normal, smooth_normals(position))
    materials = tuple(library.get(key, Material(name=key)) for key in slots)
    return Mesh(position, normal, texture.reshape(-1, 3, 2), slot_array, materials)


def _numbers(lines: list[str], width: int) -> NDArray[np.float32]:
    """Return the first `width` numbers of each line, [n, width]."""
    if not lines:
        return np.zeros((0, width), np.float32)
    values = _bulk(" ".join(lines), np.float64)
    if len(values) and len(values) % len(lines) == 0 and len(values) // len(lines) >= width:
        per = len(values) // len(lines)
        if all(len(line.split()) == per for line in (lines[0], lines[-1])):
            return values.reshape(-1, per)[:, :width].astype(np.float32)
    rows, bad = [], 0
    for line in lines:
        try:
            rows.append([float(x) for x in [*line.split(), *["0"] * width][:width]])
        except ValueError:
            rows.append([np.nan] * width)  # faces with such a corner fall away
            bad += 1
    if bad > 20:
        raise MeshError(f"{bad} lines of numbers that are not numbers")
    return np.array(rows, np.float32)


def _bulk(text: str, kind: type) -> NDArray[Any]:
    """Return all numbers of a text, none if something else is among them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", DeprecationWarning
            )  # what NumPy before 2.4 has instead of the error
            return np.fromstring(text, kind, sep=" ")
    except (ValueError, DeprecationWarning):
        return np.zeros(0, kind)


def _corners(
    lines: list[str], before: list[tuple[int, int, int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return vertex, coordinate and normal (-1: none) of each face's corners [n, 3], and each face's count of them."""
    text = " ".join(lines).replace("//", "/0/")
    count = np.array([len(line.split()) for line in lines])
    total, slashes = int(count.sum()), text.count("/")
    if "-" not in text and slashes in (0, total, 2 * total):
        values = _bulk(text.replace("/", " "), np.int64)
        width = 1 + slashes // max(total, 1)
        if len(values) == total * width:
            out = np.zeros((total, 3), np.int64)
            out[:, :width] = values.reshape(-1, width)
            return out - 1, count
    corners, bad = [], 0
    for k, line in enumerate(lines):
        try:
            corners += [_corner(p, *before[k]) for p in line.split()]
        except ValueError:
            bad += 1
            corners += [(-1, -1, -1)] * int(count[k])
            count[k] = -count[k]
    if bad > 20:
        raise MeshError(f"{bad} faces that are not OBJ")
    keep = np.repeat(count > 0, np.abs(count))
    return np.array(corners)[keep], np.maximum(count, 0)


def _fans(
    corners: NDArray[np.int64], count: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut polygons into triangles: corners [3 n, 3] and the face that each triangle is of [n]."""
    first = np.cumsum(count) - count
    triangles = np.maximum(count - 2, 0)
    face = np.repeat(np.arange(len(count)), triangles)
    step = np.arange(len(face)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    at = first[face]
    return corners[np.stack([at, at + step + 1, at + step + 2], 1).reshape(-1)], face


def _corner(text: str, points: int, uvs: int, normals: int) -> tuple[int, int, int]:
    parts = text.split("/")
    out = []
    for k, count in enumerate((points, uvs, normals)):
        number = int(parts[k]) if k < len(parts) and parts[k] else 0
        # Negative numbers count from the end; 0 is "none".
        out.append(number - 1 if number > 0 else count + number if number < 0 else -1)
    return out[0], out[1], out[2]


def _read_library(name: str, read: Callable[[str], bytes]) -> dict[str, Material]:
    try:
        text = read(name).decode("utf-8", "replace")
    except KeyError:
        return {}
    found: dict[str, Material] = {}
    key, values, texture = "", dict[str, list[float]](), None

    def close() -> None:
        if not key:
            return
        colour = [min(max(x, 0.0), 1.0) for x in (values.get("Kd") or [0.8] * 3)]
        shine = values.get("Ks") or [0.0] * 3
        mirror = (values.get("illum") or [0.0])[0] in (3.0, 5.0, 7.0)
        glow = values.get("Ke") or [0.0] * 3
        found[key] = Material(
            key, (colour[0], colour[1], colour[2]), texture, float(np.clip(max(shine), 0, 1)),
            float(np.clip((values.get("Ns") or [20.0])[0], 2, 300)), float(np.clip((values.get("d") or [1.0])[0], 0,
            1)),
            float(np.clip(max(glow), 0, 4)), float(max(shine)) * 0.6 if mirror else 0.0,
        )  # fmt: skip

    for line in text.splitlines():
        head, _, rest = line.strip().partition(" ")
        if head == "newmtl":
            close()
            key, values, texture = rest.strip(), {}, None
        elif head == "map_Kd" and rest.strip():
            # Options such as -s 1 1 1 stand before the name; names may have spaces.
            name_part = rest.strip().split(" ")
            while name_part and (name_part[0].startswith("-") or _is_number(name_part[0])):
                name_part = name_part[1:]
            texture = posixpath.normpath(
                posixpath.join(posixpath.dirname(name), " ".join(name_part).replace("\\", "/"))
            )
        elif head in ("Kd", "Ks", "Ns", "d", "Ke", "illum"):
            numbers = [float(x) for x in rest.split() if _is_number(x)]
            if numbers:
                values[head] = numbers if len(numbers) >= 3 or head in ("Ns", "d", "illum") else numbers * 3
    close()
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
