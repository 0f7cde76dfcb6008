"""Nearest hits on a GPU: one Triton kernel that tests a tile's rays only against the solids in the tile's cone.

The rays of a tile of a picture leave from one point, the camera or a lamp, into a narrow cone. A solid whose bounding
sphere is outside of the cone cannot be hit by any of them, and that is nearly every solid. The rays stay in registers
while the solids go by. `intersect.trace_dense` gives the same hits and needs no Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..intersect import packed, scaled
from ..room import Room

TILE = 16  # pixels, side of a tile
BOX, CYLINDER, ELLIPSOID = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
FAR, NEAR = tl.constexpr(1e6), tl.constexpr(1e-3)


@triton.jit
def _slab(p, v, enter, leave):
    inverse = 1.0 / tl.where(tl.abs(v) < 1e-9, 1e-9, v)
    middle = -p * inverse
    reach = tl.abs(inverse)
    return tl.maximum(enter, middle - reach), tl.minimum(leave, middle + reach)


@triton.jit
def _enter(row, ox, oy, oz, dx, dy, dz, KIND: tl.constexpr):
    """Return where rays enter the solid of a row of `intersect.scaled`, FAR where they miss it."""
    a0, a1, a2 = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    b0, b1, b2 = tl.load(row + 3), tl.load(row + 4), tl.load(row + 5)
    c0, c1, c2 = tl.load(row + 6), tl.load(row + 7), tl.load(row + 8)
    px = ox * a0 + oy * a1 + oz * a2 - tl.load(row + 9)
    py = ox * b0 + oy * b1 + oz * b2 - tl.load(row + 10)
    pz = ox * c0 + oy * c1 + oz * c2 - tl.load(row + 11)
    vx = dx * a0 + dy * a1 + dz * a2
    vy = dx * b0 + dy * b1 + dz * b2
    vz = dx * c0 + dy * c1 + dz * c2
    enter = tl.zeros_like(dx) - FAR
    leave = tl.zeros_like(dx) + FAR
    if KIND == BOX:
        enter, leave = _slab(px, vx, enter, leave)
        enter, leave = _slab(py, vy, enter, leave)
    if KIND != ELLIPSOID:
        enter, leave = _slab(pz, vz, enter, leave)
    if KIND != BOX:
        a = vx * vx + vy * vy + 1e-12
        b = px * vx + py * vy
        c = px * px + py * py - 1.0
        if KIND == ELLIPSOID:
            a += vz * vz
            b += pz * vz
            c += pz * pz
        root = b * b - a * c
        width = tl.sqrt(tl.maximum(root, 0.0))
        inverse = 1.0 / a
        enter = tl.maximum(enter, tl.where(root > 0, (-b - width) * inverse, FAR))
        leave = tl.minimum(leave, (-b + width) * inverse)
    return tl.where((enter < leave) & (enter > NEAR), enter, FAR)


@triton.jit
def _group(
    rows, spheres, ox, oy, oz, dx, dy, dz, ax, ay, az, low, high, reach, t, index,
    FIRST: tl.constexpr, LAST: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Update the nearest hits with the solids FIRST ... LAST - 1 of one kind."""
    for k in range(FIRST, LAST):
        sphere = spheres + k * 4
        x, y, z, radius = (
            tl.load(sphere) - ox,
            tl.load(sphere + 1) - oy,
            tl.load(sphere + 2) - oz,
            tl.load(sphere + 3),
        )
        square = x * x + y * y + z * z
        along = x * ax + y * ay + z * az
        tangent = tl.sqrt(tl.maximum(square - radius * radius, 0.0))
        # The angle to the centre is at most the cone's plus the sphere's own.
        inside = (square <= radius * radius) | (along >= low * tangent - high * radius) | (low < 0.1)
        if inside & (tl.sqrt(square) - radius < reach):
            hit = _enter(rows + k * 12, ox, oy, oz, dx, dy, dz, KIND)
            closer = hit < t
            t = tl.where(closer, hit, t)
            index = tl.where(closer, k, index)
    return t, index


@triton.jit
def _trace(
    origin, direction, limit, t_out, index_out, rows, spheres, views, width, height, across, tiles, plane,
    BOXES: tl.constexpr, ROUND: tl.constexpr, COUNT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    view, tile = program // tiles, program % tiles
    room = view // views
    i = tl.arange(0, TILE * TILE)
    x, y = (tile % across) * TILE + i % TILE, (tile // across) * TILE + i // TILE
    mask = (x < width) & (y < height)
    at = view * width * height + y * width + x
    ox, oy, oz = tl.load(origin + view * 3), tl.load(origin + view * 3 + 1), tl.load(origin + view * 3 + 2)
    dx = tl.load(direction + at, mask=mask, other=0.0)
    dy = tl.load(direction + plane + at, mask=mask, other=0.0)
    dz = tl.load(direction + 2 * plane + at, mask=mask, other=0.0)
    t = tl.load(limit + at, mask=mask, other=0.0)
    index = tl.zeros_like(at) - 1
    length = tl.sqrt(dx * dx + dy * dy + dz * dz + 1e-20)
    ax, ay, az = tl.sum(dx / length), tl.sum(dy / length), tl.sum(dz / length)
    norm = tl.sqrt(ax * ax + ay * ay + az * az + 1e-20)
    ax, ay, az = ax / norm, ay / norm, az / norm
    cosine = (dx * ax + dy * ay + dz * az) / length
    low = tl.min(tl.where(mask, cosine, 1.0)) - 1e-5  # of the cone's half angle, a little wider
    high = tl.sqrt(tl.maximum(1.0 - low * low, 0.0))
    reach = tl.max(t * length)
    rows += room * COUNT * 12
    spheres += room * COUNT * 4
    t, index = _group(
        rows, spheres, ox, oy, oz, dx, dy, dz, ax, ay, az, low, high, reach, t, index, 0, BOXES, BOX
    )
    t, index = _group(
        rows, spheres, ox, oy, oz, dx, dy, dz, ax, ay, az, low, high, reach, t, index, BOXES, ROUND, CYLINDER
    )
    t, index = _group(
        rows, spheres, ox, oy, oz, dx, dy, dz, ax, ay, az, low, high, reach, t, index, ROUND, COUNT, ELLIPSOID
    )
    tl.store(t_out + at, t, mask=mask)
    tl.store(index_out + at, index, mask=mask)


def trace_tiles(
    room: Room, origin: Tensor, d: Tensor, t: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return nearest hits t, index [B, V, P] of rays origin + t d before t; index -1: none.

    origin [B, V, 3]: one for all rays of a view; d [3, B, V, P], t [B, V, P]; P = H * W pixels of size (H, W), row by
    row.
    """
    height, width = size
    views = d.shape[2]
    objects = packed(room)
    spheres = torch.cat([objects[..., :3], objects[..., 12:].norm(dim=-1, keepdim=True)], -1).contiguous()
    rows, origin, d, t = scaled(room).contiguous(), origin.contiguous(), d.contiguous(), t.contiguous()
    across, down = triton.cdiv(width, TILE), triton.cdiv(height, TILE)
    boxes, cylinders, _ = room.counts
    nearest = torch.empty_like(t)
    index = torch.empty(t.shape, dtype=torch.int32, device=t.device)
    _trace[(len(room) * views * across * down,)](
        origin, d, t, nearest, index, rows, spheres, views, width, height, across, across * down, t.numel(),
        BOXES=boxes, ROUND=boxes + cylinders, COUNT=spheres.shape[1], TILE=TILE, num_warps=4,
    )  # fmt: skip
    return nearest, index
