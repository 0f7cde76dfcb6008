"""What mesh rooms are made of, ready for the ray caster: hierarchies over meshes, and textures with their mip
levels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...assets.packed import Packed, decode
from .tracer import WORDS, build_hierarchy, words

LEAF = 4  # triangles
SOLIDS = ("quad", "box", "cylinder", "sphere")
"""Meshes that every bank begins with: from -0.5 to 0.5 on each axis; the quad faces +z at z = 0."""


@dataclass(frozen=True)
class Shape:
    """A mesh of the bank. root: its first node; low, high: its box, metres; materials, lamps: see assets/packer.py."""

    name: str
    role: str
    root: int
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    elevation: float = 0.0
    materials: tuple[dict[str, Any], ...] = ({},)
    lamps: tuple[tuple[float, float, float], ...] = ()
    cutout: bool = False
    category: str = ""

    @property
    def size(self) -> tuple[float, float, float]:
        """Width, depth, height, metres."""
        x, y, z = (b - a for a, b in zip(self.low, self.high, strict=True))
        return x, y, z


@dataclass(frozen=True)
class MeshBank:
    """Tables for the ray caster (see tracer.py) on one device, and the catalogue of what is in them.

    images: kind -> numbers of textures. texture_mean [n, 3], texture_aspect [n]: as displayed, width over height.
    """

    tables: dict[str, Tensor]
    shapes: tuple[Shape, ...]
    roles: dict[str, tuple[int, ...]]
    images: dict[str, tuple[int, ...]]
    image_names: tuple[str, ...]
    texture_mean: NDArray[np.float32]
    texture_aspect: NDArray[np.float32]
    layouts: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.tables["nodes"].device

    def to(self, device: torch.device | str) -> MeshBank:
        """Return the same bank on another device."""
        moved = {name: t.to(device) for name, t in self.tables.items()}
        return MeshBank(
            moved, self.shapes, self.roles, self.images, self.image_names, self.texture_mean, self.texture_aspect,
            self.layouts
        )  # fmt: skip

    def catalogue(self) -> MeshBank:
        """Return the bank on the CPU without texels: all that furnishing needs."""
        kept = {name: t.cpu() for name, t in self.tables.items() if name != "texels"}
        kept["texels"] = torch.zeros(1, dtype=torch.int32)
        return MeshBank(
            kept, self.shapes, self.roles, self.images, self.image_names, self.texture_mean, self.texture_aspect,
            self.layouts
        )  # fmt: skip


@dataclass(frozen=True)
class _Rows:
    """A mesh's rows of the tables; nodes and triangles count from its own first one."""

    nodes: NDArray[Any]
    triangles: NDArray[Any]
    corners: NDArray[Any]


def _rows_of(
    position: NDArray[np.float32],
    normal: NDArray[np.float32],
    uv: NDArray[np.float32],
    slot: NDArray[Any],
    number: int,
) -> _Rows:
    """Build the rows of a mesh of triangles: position, normal [n, 3, 3], uv [n, 3, 2], slot [n]."""
    nodes, order = build_hierarchy(position.min(1) - 1e-6, position.max(1) + 1e-6, LEAF)
    p, t = position[order], uv[order]
    e1, e2 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    f1, f2 = t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]
    area = np.linalg.norm(np.cross(e1, e2), axis=-1)
    density = np.sqrt(np.abs(f1[:, 0] * f2[:, 1] - f1[:, 1] * f2[:, 0]) / np.maximum(area, 1e-12))
    rows = np.zeros((len(p), WORDS["triangle"]), np.float32)
    rows[:, 0:3], rows[:, 4:7], rows[:, 8:11], rows[:, 7] = p[:, 0], e1, e2, density
    rows.view(np.int32)[:, 3], rows.view(np.int32)[:, 11] = slot[order], number
    corners = np.zeros((len(p), 3, WORDS["corner"]), np.float32)
    corners.view(np.int32)[..., 0] = pack_normals(normal[order])
    corners[..., 1:] = t
    return _Rows(nodes, rows, corners.reshape(-1, WORDS["corner"]))


def _join(meshes: Sequence[_Rows]) -> tuple[dict[str, Tensor], list[int]]:
    """Put meshes behind each other; return the tables and the first node of each."""
    roots, node, triangle = [], 0, 0
    for m in meshes:
        child = m.nodes.view(np.int32)[:, 12:14]
        child[:] = np.where(child >= 0, child + node, ~(~child + 8 * triangle))
        roots.append(node)
        node += len(m.nodes)
        triangle += len(m.triangles)
    names = ("nodes", "triangles", "corners")
    return {name: words(np.concatenate([getattr(m, name) for m in meshes])) for name in names}, roots


def pack_normals(normal: NDArray[np.float32]) -> NDArray[np.int32]:
    """Map unit vectors [..., 3] to the octahedron, two 16-bit numbers in one int32 [...]."""
    scaled = normal / np.maximum(np.abs(normal).sum(-1, keepdims=True), 1e-20)
    folded = np.where(
        scaled[..., 2:] < 0,
        (1 - np.abs(scaled[..., 1::-1])) * np.where(scaled[..., :2] < 0, -1.0, 1.0),
        scaled[..., :2],
    )
    q = np.round(folded * 32767).astype(np.int32)
    return (q[..., 0] & 0xFFFF) | (q[..., 1] << 16)


def mip_levels(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return an image [H, W, 4] and its halves down to one pixel; odd rows and columns at the end fall away."""
    levels = [image]
    while max(levels[-1].shape[:2]) > 1:
        now = levels[-1].astype(np.uint16)
        h, w = max(1, now.shape[0] // 2), max(1, now.shape[1] // 2)
        high, wide = min(2, now.shape[0]), min(2, now.shape[1])
        now = now[: h * high, : w * wide].reshape(h, high, w, wide, 4)
        levels.append(((now.sum((1, 3)) + high * wide // 2) // (high * wide)).astype(np.uint8))
    return levels


def make_mesh_bank(
    packed: Packed | None = None, labels: Sequence[str] | None = None, most_images: int | None = None
) -> MeshBank:
    """Build a bank on the CPU: the solids, and packed assets.

    labels: which meshes to take, by their label (None: all). most_images: of each kind, for tests (None: all).
    """
    rows, blocks, names, means, aspects = [], [np.full(1, -1, np.int32)], ["white"], [(1.0, 1.0, 1.0)], [1.0]
    rows.append((0, 1, 1, 1))
    texels = 1
    images: dict[str, list[int]] = {}
    number_of: dict[int, int] = {}
    wanted = _chosen(packed, labels) if packed is not None else []
    if packed is not None:
        taken = _images(packed, wanted, most_images)
        with ThreadPoolExecutor() as threads:
            decoded = threads.map(lambda k: mip_levels(decode(packed.images[k])), taken)
            levels_of = dict(zip(taken, decoded, strict=True))
        for k, levels in levels_of.items():
            entry, pixels = packed.catalogue["images"][k], levels[0]
            number_of[k] = len(rows)
            rows.append((texels, pixels.shape[1], pixels.shape[0], len(levels)))
            for level in levels:
                blocks.append(np.ascontiguousarray(level).view(np.int32).reshape(-1))
                texels += len(blocks[-1])
            images.setdefault(entry["kind"], []).append(number_of[k])
            names.append(entry["name"])
            means.append(tuple(entry["mean"]))
            aspects.append(entry["aspect"])
    makers: list[Any] = [functools.partial(_rows_of, *_solid(name), k) for k, name in enumerate(SOLIDS)]
    if packed is not None:
        makers += [functools.partial(_packed_rows, packed, k, len(SOLIDS) + i) for i, k in enumerate(wanted)]
    with ThreadPoolExecutor() as threads:  # NumPy and the C++ part leave the interpreter free
        tables, roots = _join(list(threads.map(lambda make: make(), makers)))
    shapes = [
        Shape(name, "solid", root, *_SOLID_BOX[name]) for name, root in zip(SOLIDS, roots, strict=False)
    ]
    if packed is not None:
        shapes += [
            _packed_shape(packed, k, root, number_of)
            for k, root in zip(wanted, roots[len(SOLIDS) :], strict=True)
        ]
    roles: dict[str, list[int]] = {}
    for number, shape in enumerate(shapes):
        roles.setdefault(shape.role, []).append(number)
    layouts = _layouts(packed, wanted) if packed is not None else {}
    filled = tables | {
        "textures": torch.tensor(rows, dtype=torch.int32),
        "texels": torch.from_numpy(np.concatenate(blocks)),
    }
    return MeshBank(
        filled, tuple(shapes), {k: tuple(v) for k, v in roles.items()}, {k: tuple(v) for k, v in images.items()},
        tuple(names), np.array(means, np.float32), np.array(aspects, np.float32), layouts,
    )  # fmt: skip


def _images(packed: Packed, wanted: list[int], most: int | None) -> list[int]:
    """Return which images are needed: those of the meshes, and at most so many of each other kind."""
    used = {m["texture"] for k in wanted for m in packed.catalogue["meshes"][k]["materials"]}
    taken: list[int] = []
    counts: dict[str, int] = {}
    for k, entry in enumerate(packed.catalogue["images"]):
        kind = entry["kind"]
        counts[kind] = counts.get(kind, 0) + 1
        if k in used if kind == "model" else most is None or counts[kind] <= most:
            taken.append(k)
    return taken


def _chosen(packed: Packed, labels: Sequence[str] | None) -> list[int]:
    known = [m["label"] for m in packed.catalogue["meshes"]]
    if labels is None:
        return list(range(len(known)))
    missing = sorted(set(labels) - set(known))
    if missing:
        raise ValueError(f"no packed mesh has the label {missing[0]!r}")
    return [k for k, label in enumerate(known) if label in set(labels)]


def _packed_rows(packed: Packed, k: int, number: int) -> _Rows:
    faces = slice(packed.first_face[k], packed.first_face[k + 1])
    index = packed.face[faces]
    return _rows_of(
        packed.position[index], packed.normal[index], packed.uv[index], packed.slot[faces], number
    )


def _packed_shape(packed: Packed, k: int, root: int, number_of: dict[int, int]) -> Shape:
    entry = packed.catalogue["meshes"][k]
    position = packed.position[packed.face[packed.first_face[k] : packed.first_face[k + 1]]]
    materials = []
    cutout = False
    for m in entry["materials"]:
        texture = None if m["texture"] is None else number_of.get(m["texture"])
        holes = texture is not None and bool(packed.catalogue["images"][m["texture"]]["alpha"])
        cutout |= holes or m["opacity"] < 0.5
        materials.append(m | {"texture": texture, "cutout": holes})
    low, high = position.reshape(-1, 3).min(0), position.reshape(-1, 3).max(0)
    return Shape(
        entry["name"], entry["role"], root, tuple(map(float, low)), tuple(map(float, high)), entry["elevation"],  # type: ignore[arg-type]
        tuple(materials), tuple(tuple(x) for x in entry["lamps"]), cutout, entry["category"],  # type: ignore[arg-type, misc]
    )  # fmt: skip


def _layouts(packed: Packed, wanted: list[int]) -> dict[str, Any]:
    place = {k: len(SOLIDS) + i for i, k in enumerate(wanted)}
    out = {}
    for name, layout in packed.catalogue["layouts"].items():
        placements = [p | {"mesh": place[p["mesh"]]} for p in layout["placements"] if p["mesh"] in place]
        if placements:
            out[name] = layout | {"placements": placements}
    return out


_SOLID_BOX: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "quad": ((-0.5, -0.5, 0.0), (0.5, 0.5, 0.0)),
    **dict.fromkeys(("box", "cylinder", "sphere"), ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))),
}


def _grid(point: Any, normal: Any, columns: int, rows: int) -> tuple[NDArray[np.float32], ...]:
    """Triangulate a surface over (u, v) in [0, 1]: positions, normals, texture coordinates of corners [n, 3, ...]."""
    u, v = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1))
    out = []
    for a in (point(u, v), normal(u, v), np.stack([u, v], -1)):
        a = np.asarray(a, np.float32)
        corner = [a[:-1, :-1], a[:-1, 1:], a[1:, 1:], a[:-1, :-1], a[1:, 1:], a[1:, :-1]]
        out.append(np.stack(corner, 2).reshape(-1, 3, a.shape[-1]))
    return tuple(out)


def _solid(name: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    parts = {"quad": _faces, "box": _faces, "cylinder": _cylinder, "sphere": _sphere}[name](name)
    position, normal, uv = (np.concatenate(x) for x in zip(*parts, strict=True))
    edge = position[:, 1:] - position[:, :1]
    keep = np.linalg.norm(np.cross(edge[:, 0], edge[:, 1]), axis=-1) > 1e-9
    return position[keep], normal[keep], uv[keep], np.zeros(int(keep.sum()), np.int32)


def _faces(name: str) -> list[tuple[NDArray[np.float32], ...]]:
    """Return the faces of a box, or its upper one, in the middle, as the quad."""
    parts = []
    for axis in range(3) if name == "box" else [2]:
        for side in (-1, 1) if name == "box" else [1]:
            n = np.zeros(3)
            n[axis] = side
            a, b = np.roll([1.0, 0, 0], axis + 1), np.roll([1.0, 0, 0], axis + 2) * side
            lift = n * (0.5 if name == "box" else 0.0)

            def flat(u: Any, v: Any, lift: Any = lift, a: Any = a, b: Any = b) -> Any:
                return lift + (u[..., None] - 0.5) * a + (v[..., None] - 0.5) * b

            parts.append(_grid(flat, lambda u, v, n=n: np.broadcast_to(n, (*u.shape, 3)), 1, 1))
    return parts


def _ring(u: Any) -> Any:
    return np.stack([np.cos(2 * np.pi * u), np.sin(2 * np.pi * u)], -1)


def _cylinder(name: str) -> list[tuple[NDArray[np.float32], ...]]:
    def side(u: Any, v: Any) -> Any:
        return np.concatenate([0.5 * _ring(u), v[..., None] - 0.5], -1)

    parts = [_grid(side, lambda u, v: np.concatenate([_ring(u), 0 * v[..., None]], -1), 40, 1)]
    for z in (-0.5, 0.5):

        def cap(u: Any, v: Any, z: float = z) -> Any:
            return np.concatenate([0.5 * _ring(u) * v[..., None], 0 * v[..., None] + z], -1)

        parts.append(_grid(cap, lambda u, v, z=z: np.broadcast_to([0, 0, 2 * z], (*u.shape, 3)), 40, 1))
    return parts


def _sphere(name: str) -> list[tuple[NDArray[np.float32], ...]]:
    def ball(u: Any, v: Any) -> Any:
        return np.concatenate([_ring(u) * np.sin(np.pi * v)[..., None], -np.cos(np.pi * v)[..., None]], -1)

    return [_grid(lambda u, v: 0.5 * ball(u, v), ball, 40, 20)]
