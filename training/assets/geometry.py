"""Triangle meshes between files and the packed form: corners, normals, simplification, 16-bit numbers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .sources import AssetError

SMOOTH = math.cos(math.radians(46))  # faces that meet at less are smooth


class MeshError(ValueError):
    """A mesh that cannot be used."""


@dataclass(frozen=True)
class Material:
    """What a file says of a surface: colour as displayed, texture (a name within the source), shine."""

    name: str = ""
    colour: tuple[float, float, float] = (0.8, 0.8, 0.8)
    texture: str | None = None
    specular: float = 0.0
    shininess: float = 20.0
    opacity: float = 1.0
    emission: float = 0.0
    mirror: float = 0.0


@dataclass(frozen=True)
class Mesh:
    """Triangles with their own corners.

    position [n, 3, 3] metres, z up; normal [n, 3, 3] unit; uv [n, 3, 2], v up; slot [n]: index into materials.
    """

    position: NDArray[np.float32]
    normal: NDArray[np.float32]
    uv: NDArray[np.float32]
    slot: NDArray[np.int32]
    materials: tuple[Material, ...] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(self.position)


def checked(mesh: Mesh) -> Mesh:
    """Return the mesh without triangles that have no area or no finite numbers. Raises MeshError when few are left."""
    finite = np.isfinite(mesh.position).all((1, 2)) & np.isfinite(mesh.uv).all((1, 2))
    edge = mesh.position[:, 1:] - mesh.position[:, :1]
    with np.errstate(all="ignore"):
        area = np.linalg.norm(np.cross(edge[:, 0], edge[:, 1]), axis=-1)
    keep = finite & (area > 1e-12)
    if keep.sum() < 2:
        raise MeshError(f"only {int(keep.sum())} of {len(mesh)} triangles have an area")
    return select(mesh, keep)


def select(mesh: Mesh, keep: NDArray[np.generic]) -> Mesh:
    """Return the mesh with some of its triangles."""
    return dataclasses.replace(
        mesh, position=mesh.position[keep], normal=mesh.normal[keep], uv=mesh.uv[keep], slot=mesh.slot[keep]
    )


def row_numbers(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each row [n, k] of integers: the same for equal rows, and for others hardly ever.

    Sorting such numbers takes a tenth of the time of sorting rows.
    """
    factors = np.random.default_rng(0).integers(1, 2**62, rows.shape[1]) * 2 + 1
    mixed = np.zeros(len(rows), np.int64)
    with np.errstate(over="ignore"):
        for k, factor in enumerate(factors):
            mixed = (mixed ^ (mixed >> 29)) * 0x2545F4914F6CDD1D + rows[:, k] * factor
    return mixed


def smooth_normals(position: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a normal per corner [n, 3, 3]: the mean of the faces around it that are less than 46 degrees apart."""
    n = len(position)
    edge = position[:, 1:] - position[:, :1]
    area = np.cross(edge[:, 0], edge[:, 1])
    face = area / np.maximum(np.linalg.norm(area, axis=-1, keepdims=True), 1e-20)
    position = np.nan_to_num(position)
    step = max(float(np.ptp(position.reshape(-1, 3), axis=0).max()), 1e-6) * 1e-5
    number = row_numbers(np.round(position.reshape(-1, 3) / step).astype(np.int64))
    order = np.argsort(number, kind="stable")
    number = number[order]
    first = np.flatnonzero(np.r_[True, number[1:] != number[:-1]])
    count = np.diff(np.r_[first, len(number)])
    total = np.zeros((3 * n, 3), np.float64)
    owner = np.repeat(np.arange(n), 3)[order]
    start, length = np.repeat(first, count), np.repeat(count, count)
    for k in range(int(min(count.max(), 24))):
        at = np.flatnonzero(length > k)
        other = owner[start[at] + k]
        near = (face[other] * face[owner[at]]).sum(-1) > SMOOTH
        total[order[at[near]]] += area[other[near]]
    total += 1e-6 * np.repeat(area, 3, axis=0) + 1e-30
    return (
        (total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-30))
        .reshape(n, 3, 3)
        .astype(np.float32)
    )


def limit_for(size: NDArray[np.float64]) -> int:
    """Return how many triangles a thing of this size (metres) may have: small things are seen small."""
    longest = float(np.max(size))
    return 2000 if longest < 0.2 else 4000 if longest < 0.5 else 7000 if longest < 1.1 else 12000


def simplify(mesh: Mesh, limit: int) -> Mesh:
    """Return the mesh with about `limit` triangles; each material is simplified by itself.

    Open edges and seams of the texture stay as they are, so that more triangles may remain: flat plates of a few
    triangles would lose their corners otherwise.
    """
    if len(mesh) <= limit:
        return mesh
    try:
        import fast_simplification
    except ImportError as error:
        raise AssetError("large meshes need fast-simplification: pip install '.[train]'") from error

    share = limit / len(mesh)
    parts = []
    for slot in range(len(mesh.materials)):
        part = select(mesh, mesh.slot == slot)
        if not len(part):
            continue
        wanted = max(12, int(len(part) * share))
        if len(part) <= wanted:
            parts.append(part)
            continue
        uv = part.uv if part.materials[slot].texture is not None else np.zeros_like(part.uv)
        corner = np.concatenate([part.position.reshape(-1, 3), uv.reshape(-1, 2)], 1)
        number = row_numbers(np.round(corner * 1e5).astype(np.int64))
        _, first_use, index = np.unique(number, return_index=True, return_inverse=True)
        unique = corner[first_use].astype(np.float64)
        points, faces, collapses = fast_simplification.simplify(
            unique[:, :3].astype(np.float32), index.reshape(-1, 3).astype(np.int32), target_count=wanted, agg=6,
            return_collapses=True, preserve_border=True,
        )  # fmt: skip
        if len(faces) < 2:
            continue
        points, faces, mapping = fast_simplification.replay_simplification(
            unique[:, :3].astype(np.float32), index.reshape(-1, 3).astype(np.int32), collapses
        )
        # A vertex keeps the texture coordinates of the original that lies nearest among those that fell into it.
        gap = np.linalg.norm(unique[:, :3] - points[mapping], axis=1)
        order = np.lexsort((gap, mapping))
        first = np.r_[True, mapping[order][1:] != mapping[order][:-1]]
        uv = np.zeros((len(points), 2))
        uv[mapping[order][first]] = unique[order[first], 3:]
        position = points[faces].astype(np.float32)
        parts.append(
            Mesh(
                position,
                np.zeros_like(position),
                uv[faces].astype(np.float32),
                np.full(len(faces), slot, np.int32),
            )
        )
    position = np.concatenate([p.position for p in parts])
    joined = Mesh(
        position, smooth_normals(position), np.concatenate([p.uv for p in parts]),
        np.concatenate([p.slot for p in parts]), mesh.materials,
    )  # fmt: skip
    return checked(joined)


def encode_normals(normal: NDArray[np.float32]) -> NDArray[np.int8]:
    """Map unit vectors [n, 3] to the octahedron, int8 [n, 2]."""
    scaled = normal / np.maximum(np.abs(normal).sum(-1, keepdims=True), 1e-20)
    sign = np.where(scaled[:, :2] < 0, -1.0, 1.0)
    folded = np.where(scaled[:, 2:] < 0, (1 - np.abs(scaled[:, 1::-1])) * sign, scaled[:, :2])
    return np.round(folded * 127).astype(np.int8)


def pack(mesh: Mesh) -> dict[str, NDArray[np.generic]]:
    """Return the mesh as small integers: vertices in the order of their use and faces as indices.

    position uint16 [v, 3] between low and low + span [3]; normal int8 [v, 2] (octahedral); uv uint16 [v, 2] between
    uv_low and uv_low + uv_span [2]; face uint16 or uint32 [n, 3]; slot uint8 [n].
    """
    flat = mesh.position.reshape(-1, 3)
    low = flat.min(0)
    span = np.maximum(flat.max(0) - low, 1e-6)
    uv = mesh.uv.reshape(-1, 2)
    uv = uv - np.floor(uv.min(0))
    textured = np.array([m.texture is not None for m in mesh.materials])[mesh.slot].repeat(3)
    uv = np.where(textured[:, None], uv, 0)
    uv_low = uv.min(0)
    uv_span = np.maximum(uv.max(0) - uv_low, 1e-6)
    if uv_span.max() > 400:
        raise MeshError(f"texture coordinates span {uv_span.max():.0f} repeats")
    place = np.concatenate(
        [
            np.round((flat - low) / span * 65535), np.round((uv - uv_low) / uv_span * 65535),
            encode_normals(mesh.normal.reshape(-1, 3)),
        ], 1,
    ).astype(np.int32)  # fmt: skip
    order = np.argsort(mesh.slot, kind="stable")
    corners = (order[:, None] * 3 + np.arange(3)).reshape(-1)
    _, first, index = np.unique(
        row_numbers(place[corners].astype(np.int64)), return_index=True, return_inverse=True
    )
    unique = place[corners[first]]
    rank = np.empty(len(unique), np.int64)
    by_use = np.argsort(first)
    rank[by_use] = np.arange(len(unique))
    unique = unique[by_use]
    return {
        "position": unique[:, :3].astype(np.uint16), "uv": unique[:, 3:5].astype(np.uint16),
        "normal": unique[:, 5:].astype(np.int8), "face": rank[index.reshape(-1)].reshape(-1, 3).astype(np.uint32),
        "slot": mesh.slot[order].astype(np.uint8), "low": low.astype(np.float32), "span": span.astype(np.float32),
        "uv_low": uv_low.astype(np.float32), "uv_span": uv_span.astype(np.float32),
    }  # fmt: skip
