"""Nearest hits of rays with a room's solids.

Several ways lead to the same image. "dense" tests every ray against every object, a few objects at a time; "compiled"
does it in one small compiled function. "tiled" is a Triton kernel that looks at what is in the cone of a tile's rays:
right for a GPU. "windowed" tests each object only inside its bounding rectangle of each view: right for a CPU and few
large views.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .room import (
    KINDS,
    Room,
    constant,
)

FAR = 1e6
CHUNK = 8  # objects per call of the compiled function: rays are read once per chunk
NEAR = 1e-3

Vector = tuple[Tensor, Tensor, Tensor]


def _dot(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _enter(kind: str, p: Vector, v: Vector) -> Tensor:
    """Return the ray parameter at which rays p + t v enter the unit solid of a kind, FAR where they miss it."""
    enter, leave = None, None
    flat = {"box": (0, 1, 2), "cylinder": (2,), "ellipsoid": ()}[kind]
    for k in flat:
        inverse = 1 / torch.where(v[k].abs() < 1e-9, 1e-9, v[k])
        middle, reach = -p[k] * inverse, inverse.abs()
        near, far = middle - reach, middle + reach
        enter = near if enter is None else torch.maximum(enter, near)
        leave = far if leave is None else torch.minimum(leave, far)
    if kind != "box":
        round_ = (0, 1, 2) if kind == "ellipsoid" else (0, 1)
        a = sum(v[k] * v[k] for k in round_) + 1e-12
        b = sum(p[k] * v[k] for k in round_)
        c = sum(p[k] * p[k] for k in round_) - 1
        root = b * b - a * c
        width = root.clamp_min(0).sqrt()
        near, far = (-b - width) / a, (-b + width) / a
        near = torch.where(root > 0, near, FAR)
        enter = near if enter is None else torch.maximum(enter, near)
        leave = far if leave is None else torch.minimum(leave, far)
    assert enter is not None and leave is not None
    return torch.where((enter < leave) & (enter > NEAR), enter, FAR)


def _enter_row(kind: str, o: Vector, d: Vector, row: Any) -> Tensor:
    """Do the same for rays o + t d and a row of `scaled`: 12 numbers, or tensors that broadcast against o and d."""
    # In the object's frame scaled by its half extents each solid is a unit one; t does not change.
    axes = (row[0:3], row[3:6], row[6:9])
    p = tuple(_dot(o, axis) - row[9 + k] for k, axis in enumerate(axes))
    return _enter(kind, p, tuple(_dot(d, axis) for axis in axes))  # type: ignore[arg-type]


def _nearest_chunk(
    kind: str, first: Tensor, o: Tensor, d: Tensor, objects: Tensor, t: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Update the nearest hits t, index [B, P] with the objects [B, n, 12] of `scaled`."""
    origin, direction = (o[0], o[1], o[2]), (d[0], d[1], d[2])
    for k in range(objects.shape[1]):
        row = tuple(objects[:, k, i, None] for i in range(12))
        hit = _enter_row(kind, origin, direction, row)
        closer = hit < t
        t = torch.where(closer, hit, t)
        index = torch.where(closer, first + k, index)
    return t, index


def leave_room(o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    """Return where rays that start inside the rooms leave their shells, [B, P]."""
    leave = torch.full_like(d[0], FAR)
    for k in range(3):
        half = size[:, k, None] / 2
        middle = half if k == 2 else torch.zeros_like(half)
        v = torch.where(d[k].abs() < 1e-9, 1e-9, d[k])
        leave = torch.minimum(leave, torch.maximum((middle - half - o[k]) / v, (middle + half - o[k]) / v))
    return leave


@functools.cache
def compiled_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function compiled by PyTorch, the same one at every call."""
    return torch.compile(function, dynamic=False)


def pick_method(method: str, device: torch.device) -> str:
    """Turn "auto" into the method that suits a device."""
    if method not in ("auto", "windowed", "dense", "compiled", "tiled"):
        raise ValueError(f"unknown method {method!r}: use 'auto', 'windowed', 'dense', 'compiled' or 'tiled'")
    return method if method != "auto" else "tiled" if device.type == "cuda" else "windowed"


def packed(room: Room) -> Tensor:
    """Return the objects as [B, N, 15]; invalid ones are moved out of reach."""
    centre = torch.where(room.valid[..., None], room.centre, 1e5)
    half = torch.where(room.valid[..., None], room.half, 1e-3).clamp_min(1e-4)
    return torch.cat([centre, room.axes.flatten(-2), half], -1)


def scaled(room: Room) -> Tensor:
    """Return what takes rays into the objects' frames, [B, N, 12]: each axis over its half extent, then the offsets."""
    objects = packed(room)
    axes = objects[..., 3:12].unflatten(-1, (3, 3)).mT / objects[..., 12:, None]
    offset = (axes @ objects[..., :3, None])[..., 0]
    return torch.cat([axes.flatten(-2), offset], -1)


def trace_dense(room: Room, o: Tensor, d: Tensor, t: Tensor, compiled: bool = False) -> tuple[Tensor, Tensor]:
    """Return nearest hits t, index [B, P] of rays o, d [3, B, P] before t; index -1: none."""
    index = torch.full(t.shape, -1, dtype=torch.int32, device=t.device)
    first = 0
    for kind, objects in zip(KINDS, scaled(room).split(list(room.counts), dim=1), strict=True):
        step = _chunk_function(kind, compiled)
        count = objects.shape[1]
        # Whole chunks only, filled up with solids out of reach: one shape, one compilation.
        nowhere = constant((1e3, 0, 0, 0, 1e3, 0, 0, 0, 1e3, 1e8, 1e8, 1e8), t.device)
        objects = torch.cat([objects, nowhere.expand(len(room), -count % CHUNK, -1)], 1)
        for start in range(0, count, CHUNK):
            offset = constant((first + start,), t.device, torch.int32)
            t, index = step(offset, o, d, objects[:, start : start + CHUNK].contiguous(), t, index)
        first += count
    return t, index


@functools.cache
def _chunk_function(kind: str, compiled: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    function = functools.partial(_nearest_chunk, kind)
    return torch.compile(function, dynamic=False) if compiled else function


def _windows(room: Room, c2w: Tensor, fxfycxcy: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixel rectangles [V, N, 4] = (left, right, top, bottom) of one room's objects in V views.

    The rectangle of an object that reaches behind a camera is the whole view; that of an invisible one is empty.
    """
    signs = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    corners = room.centre[0, :, None] + torch.einsum(
        "nij,nkj->nki", room.axes[0], signs.to(room.device) * room.half[0, :, None]
    )
    local = torch.einsum("vij,vnki->vnkj", c2w[:, :3, :3], corners[None] - c2w[:, None, None, :3, 3])
    depth = local[..., 2]
    u = local[..., 0] / depth.clamp_min(1e-3) * fxfycxcy[:, None, None, 0] + fxfycxcy[:, None, None, 2]
    v = local[..., 1] / depth.clamp_min(1e-3) * fxfycxcy[:, None, None, 1] + fxfycxcy[:, None, None, 3]
    height, width = size
    boxes = torch.stack([u.amin(-1) - 1, u.amax(-1) + 2, v.amin(-1) - 1, v.amax(-1) + 2], -1)
    whole = torch.tensor([0.0, width, 0.0, height], device=room.device)
    boxes = torch.where((depth.amin(-1) < 0.05)[..., None], whole, boxes)
    limit = torch.tensor([width, width, height, height], device=room.device)
    boxes = boxes.clamp_min(0).minimum(limit).int()
    hidden = (depth.amax(-1) < 0) | ~room.valid[0]
    return torch.where(hidden[..., None], 0, boxes)


def trace_windowed(
    room: Room, c2w: Tensor, fxfycxcy: Tensor, size: tuple[int, int], o: Tensor, d: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """Do what `trace_dense` does for V views of ONE room, each object within its window only.

    o [3, V, 1], d [3, V, H * W], t [V, H * W].
    """
    height, width = size
    t = t.clone().reshape(-1, height, width)
    index = torch.full(t.shape, -1, dtype=torch.int32, device=t.device)
    d = d.reshape(3, -1, height, width)
    windows = _windows(room, c2w, fxfycxcy, size).tolist()
    kinds = [kind for kind, count in zip(KINDS, room.counts, strict=True) for _ in range(count)]
    rows = scaled(room)[0]
    for view, rectangles in enumerate(windows):
        for k, (left, right, top, bottom) in enumerate(rectangles):
            if right <= left or bottom <= top:
                continue
            ray = d[:, view, top:bottom, left:right]
            hit = _enter_row(kinds[k], o[:, view, :, None].unbind(0), ray.unbind(0), rows[k])  # type: ignore[arg-type]
            best = t[view, top:bottom, left:right]
            closer = hit < best
            best.copy_(torch.where(closer, hit, best))
            index[view, top:bottom, left:right].masked_fill_(closer, k)
    return t.flatten(1), index.flatten(1)


def in_shadow(room: Room, points: Tensor, light: Tensor) -> Tensor:
    """Return which points [3, P] of ONE room a light [3] does not reach; objects test only points behind them."""
    dark = torch.zeros_like(points[0], dtype=torch.bool)
    to_point = points - light[:, None]
    distance = to_point.norm(dim=0).clamp_min(1e-6)
    kinds = [kind for kind, count in zip(KINDS, room.counts, strict=True) for _ in range(count)]
    rows = scaled(room)[0]
    reach = room.half[0].norm(dim=-1)
    offset = room.centre[0] - light
    far = offset.norm(dim=-1)
    sine = (reach / far).clamp(max=1)
    cosine = (1 - sine**2).sqrt()
    for k in torch.nonzero(room.valid[0]).flatten().tolist():
        if float(far[k]) > float(reach[k]):
            inside = (offset[k] @ to_point) > cosine[k] * far[k] * distance
            chosen = torch.nonzero(inside).flatten()
            if len(chosen) == 0:
                continue
            ray = to_point[:, chosen]
        else:
            chosen, ray = torch.arange(points.shape[1], device=points.device), to_point
        hit = _enter_row(kinds[k], light.unbind(0), ray.unbind(0), rows[k])  # type: ignore[arg-type]
        dark[chosen] |= hit < 0.998
    return dark
