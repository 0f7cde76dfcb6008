"""The ray caster: shading of what rays hit, and images from it (the hits themselves: intersect.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .intersect import (
    FAR,
    compiled_once,
    in_shadow,
    leave_room,
    packed,
    pick_method,
    trace_dense,
    trace_windowed,
)
from .room import (
    AMOUNT,
    BLUE,
    EMISSION,
    FIT,
    GAIN,
    GREEN,
    RED,
    SCALE,
    SHININESS,
    SPECULAR,
    TILE,
    U0,
    V0,
    Room,
    constant,
)
from .textures import TextureBank


def _surface(
    o: Tensor,
    d: Tensor,
    t: Tensor,
    index: Tensor,
    objects: Tensor,
    size: Tensor,
    skirting: Tensor,
    counts: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return point [3, B, P], normal [3, B, P], surface row [B, P], texture coordinates u, v (metres), fit scale."""
    point = o + t * d
    number = objects.shape[1]
    found = index >= 0
    row = torch.gather(objects, 1, index.clamp_min(0).long()[..., None].expand(-1, -1, 15))
    rel = [point[i] - row[..., i] for i in range(3)]
    axes = [[row[..., 3 + 3 * i + j] for i in range(3)] for j in range(3)]
    half = [row[..., 12 + i] for i in range(3)]
    local = [rel[0] * axes[j][0] + rel[1] * axes[j][1] + rel[2] * axes[j][2] for j in range(3)]
    unit = [local[j] / half[j] for j in range(3)]
    cylinder = (index >= counts[0]) & (index < counts[0] + counts[1])
    ellipsoid = index >= counts[0] + counts[1]
    # Which face of a box: the axis on which the point reaches furthest out.
    size_ = [unit[j].abs() for j in range(3)]
    face_x = (size_[0] >= size_[1]) & (size_[0] >= size_[2])
    face_y = ~face_x & (size_[1] >= size_[2])
    face_z = ~face_x & ~face_y
    cap = cylinder & (size_[2] > 0.9995)
    side = cylinder & ~cap
    zero = torch.zeros_like(t)
    normal = [torch.where(face, unit[j].sign(), zero) for j, face in enumerate((face_x, face_y, face_z))]
    curved = side | ellipsoid
    gradient = [unit[0] / half[0], unit[1] / half[1], torch.where(ellipsoid, unit[2] / half[2], zero)]
    normal = [torch.where(curved, gradient[j], normal[j]) for j in range(3)]
    normal = [torch.where(cap, unit[2].sign() if j == 2 else zero, normal[j]) for j in range(3)]
    # Texture coordinates: metres on the face; angle times radius and height on what is round.
    angle = torch.atan2(unit[1], unit[0])
    u = torch.where(face_x, local[1], local[0])
    v = torch.where(face_z, local[1], local[2])
    around = angle * (half[0] + half[1]) * 0.5
    u = torch.where(curved, around, torch.where(cap, local[0], u))
    v = torch.where(curved, local[2], torch.where(cap, local[1], v))
    wide = torch.where(face_x, half[1], half[0])
    high = torch.where(face_z, half[1], half[2])
    world = [normal[0] * axes[0][i] + normal[1] * axes[1][i] + normal[2] * axes[2][i] for i in range(3)]
    # The shell.
    out = [
        point[0] / (size[:, 0, None] / 2),
        point[1] / (size[:, 1, None] / 2),
        (point[2] - size[:, 2, None] / 2) / (size[:, 2, None] / 2),
    ]
    reach = [x.abs() for x in out]
    wall_x = (reach[0] >= reach[1]) & (reach[0] >= reach[2])
    wall_y = ~wall_x & (reach[1] >= reach[2])
    wall_z = ~wall_x & ~wall_y
    inward = [torch.where(wall, -out[j].sign(), zero) for j, wall in enumerate((wall_x, wall_y, wall_z))]
    side = torch.where(
        wall_x, (out[0] > 0).int(), torch.where(wall_y, 2 + (out[1] > 0).int(), 4 + (out[2] > 0).int())
    )
    side = torch.where(~wall_z & (point[2] < skirting[:, None]), 6, side)
    u = torch.where(found, u, torch.where(wall_x, point[1], point[0]))
    v = torch.where(found, v, torch.where(wall_z, point[1], point[2]))
    normal = [torch.where(found, world[j], inward[j]) for j in range(3)]
    length = (normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2).sqrt().clamp_min(1e-9)
    normal_t = torch.stack([n / length for n in normal])
    surface = torch.where(found, index, number + side)
    # Print is stretched over its face: (u, v) in [0, 1].
    fit = torch.stack(
        [torch.where(found, wide, torch.ones_like(t)), torch.where(found, high, torch.ones_like(t))]
    )
    return point, normal_t, surface, u, v, fit


def _texel(
    texels: Tensor, first: Tensor, side: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    texel = torch.take(texels, first + y * side + x)
    return (texel & 255).float(), ((texel >> 8) & 255).float(), ((texel >> 16) & 255).float()


def _mirrored(x: Tensor, side: Tensor) -> Tensor:
    x = torch.remainder(x, 2 * side)
    return torch.where(x < side, x, 2 * side - 1 - x)


def _shade(
    d: Tensor,
    t: Tensor,
    point: Tensor,
    normal: Tensor,
    surface: Tensor,
    u: Tensor,
    v: Tensor,
    fit: Tensor,
    material: Tensor,
    texels: Tensor,
    lit: Tensor,
    lights: Tensor,
    power: Tensor,
    ambient: Tensor,
    room_size: Tensor,
    footprint: Tensor,
    bank_size: int,
    bank_tiles: int,
    bank_levels: int,
) -> Tensor:
    """Return linear RGB [3, B, P] of the hits."""
    row = torch.gather(material, 1, surface.long()[..., None].expand(-1, -1, material.shape[-1]))
    metres = row[..., SCALE]
    fitted = row[..., FIT] > 0.5
    a = torch.where(fitted, (u / fit[0] + 1) * 0.5, u / metres + row[..., U0])
    b = torch.where(fitted, (1 - v / fit[1]) * 0.5, -v / metres + row[..., V0])
    # Mip level from the pixel's footprint on the surface.
    length = (d[0] ** 2 + d[1] ** 2 + d[2] ** 2).sqrt()
    facing = ((d * normal).sum(0) / length).abs().clamp_min(0.05)
    extent = torch.where(fitted, 2 * torch.minimum(fit[0], fit[1]), metres).clamp_min(1e-3)
    texels_per_pixel = footprint * t * length / facing.sqrt() / extent * bank_size
    level = (torch.log2(texels_per_pixel.clamp_min(1e-6)) + 0.5).floor().clamp(0, bank_levels - 1)
    side = torch.exp2(math.log2(bank_size) - level).round()
    # All levels before this one hold 4/3 size^2 (1 - 4^-level) texels per tile.
    before = ((bank_size**2 * 4 - 4 * side * side) / 3).round()
    tile = row[..., TILE].long()
    iside = side.long()
    start = before.long() * bank_tiles + tile * iside * iside
    x, y = a * side - 0.5, b * side - 0.5
    x0, y0 = x.floor(), y.floor()
    fx, fy = x - x0, y - y0
    ix0, iy0 = _mirrored(x0.long(), iside), _mirrored(y0.long(), iside)
    ix1, iy1 = _mirrored(x0.long() + 1, iside), _mirrored(y0.long() + 1, iside)
    c00, c10 = _texel(texels, start, iside, ix0, iy0), _texel(texels, start, iside, ix1, iy0)
    c01, c11 = _texel(texels, start, iside, ix0, iy1), _texel(texels, start, iside, ix1, iy1)
    w00, w10, w01, w11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    colour = [(c00[k] * w00 + c10[k] * w10 + c01[k] * w01 + c11[k] * w11) / 255 for k in range(3)]
    amount, gain = row[..., AMOUNT], row[..., GAIN]
    # Tiles are stored as displayed; light adds up in linear space.
    albedo = [
        (row[..., (RED, GREEN, BLUE)[k]] * (1 - amount + amount * colour[k] * gain)).clamp(0, 1) ** 2.2
        for k in range(3)
    ]
    result = []
    up = normal[2] * 0.5 + 0.5
    # Corners and the strip above the floor get less light.
    edge = torch.ones_like(t)
    for k in range(2):
        gap = room_size[:, k, None] / 2 - point[k].abs()
        edge = edge * (1 - 0.22 * torch.exp(-gap.clamp_min(0) / 0.25) * (1 - normal[k].abs()))
    edge = edge * (1 - 0.3 * torch.exp(-point[2].clamp_min(0) / 0.2) * (1 - normal[2].abs()))
    edge = edge * (
        1 - 0.2 * torch.exp(-(room_size[:, 2, None] - point[2]).clamp_min(0) / 0.25) * (1 - normal[2].abs())
    )
    diffuse = [(ambient[:, 0, k, None] * (1 - up) + ambient[:, 1, k, None] * up) * edge for k in range(3)]
    shine = [torch.zeros_like(t) for _ in range(3)]
    for light in range(lights.shape[1]):
        to = [lights[:, light, k, None] - point[k] for k in range(3)]
        square = to[0] ** 2 + to[1] ** 2 + to[2] ** 2 + 1e-6
        inverse = square.rsqrt()
        to = [x * inverse for x in to]
        cosine = (to[0] * normal[0] + to[1] * normal[1] + to[2] * normal[2]).clamp_min(0)
        strength = 1 / (0.6 + square)
        if light == 0:
            strength = strength * lit
        h = [to[k] - d[k] / length for k in range(3)]
        norm = (h[0] ** 2 + h[1] ** 2 + h[2] ** 2).clamp_min(1e-9).rsqrt()
        half_way = ((h[0] * normal[0] + h[1] * normal[1] + h[2] * normal[2]) * norm).clamp(0, 1)
        gloss = row[..., SPECULAR] * torch.exp(row[..., SHININESS] * (half_way - 1)) * (cosine > 0)
        for k in range(3):
            diffuse[k] = diffuse[k] + power[:, light, k, None] * strength * cosine
            shine[k] = shine[k] + power[:, light, k, None] * strength * gloss
    for k in range(3):
        glow = row[..., EMISSION] * albedo[k]
        result.append(albedo[k] * diffuse[k] + shine[k] + glow)
    return torch.stack(result)


def _rays(
    c2w: Tensor, fxfycxcy: Tensor, size: tuple[int, int], shift: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Return origins [3, B, V, 1] and directions [3, B, V, H * W] with unit z in the camera: t is the depth."""
    height, width = size
    u = torch.arange(width, device=c2w.device) + 0.5 + shift[0]
    v = torch.arange(height, device=c2w.device)[:, None] + 0.5 + shift[1]
    fx, fy, cx, cy = (fxfycxcy[..., k, None, None] for k in range(4))
    x, y = torch.broadcast_tensors((u - cx) / fx, (v - cy) / fy)
    r = c2w[..., :3, :3, None, None]
    d = torch.stack([r[..., i, 0, :, :] * x + r[..., i, 1, :, :] * y + r[..., i, 2, :, :] for i in range(3)])
    o = torch.stack([c2w[..., i, 3, None] for i in range(3)])
    return o, d.flatten(-2)


def render_views(
    room: Room,
    bank: TextureBank,
    c2w: Tensor,
    fxfycxcy: Tensor,
    size: tuple[int, int],
    *,
    supersampling: int = 2,
    shadows: bool = True,
    noise: float = 0.0,
    exposure: Tensor | None = None,
    generator: torch.Generator | None = None,
    method: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Render V views of each of B rooms.

    c2w [B, V, 4, 4] OpenCV camera-to-world, metres; fxfycxcy [B, V, 4] pixels; size (H, W) pixels. Each pixel averages
    supersampling**2 rays. noise: standard deviation of sensor noise in units of full scale, drawn from generator;
    exposure [B, V]: factor on each view's light. method: see the module.
    Returns images uint8 [B, V, 3, H, W] and depth [B, V, H, W] float32: metres along the optical axis at the pixel's
    centre if supersampling is odd, else the smallest of its rays'.
    """
    b, views = c2w.shape[:2]
    device = room.device
    c2w, fxfycxcy = c2w.to(device).float(), fxfycxcy.to(device).float()
    method = pick_method(method, device)
    dense, compiles = method != "windowed", method in ("compiled", "tiled")
    if method == "tiled":
        from .meshes.trace_tiles import trace_tiles  # needs Triton, which comes with PyTorch for GPUs only

    def run(function: Callable[..., Any]) -> Callable[..., Any]:
        return compiled_once(function) if compiles and device.type == "cuda" else function

    total = torch.zeros(3, b, views, size[0] * size[1], device=device)
    depth = torch.full((b, views, size[0] * size[1]), FAR, device=device)
    objects = packed(room)
    footprint = (
        (1 / (fxfycxcy[..., 0] * supersampling))[..., None].expand(-1, -1, size[0] * size[1]).flatten(1)
    )
    middle = (supersampling - 1) / 2
    for k in range(supersampling**2):
        row, column = divmod(k, supersampling)
        shift = ((column - middle) / supersampling, (row - middle) / supersampling)
        o4, d4 = _rays(c2w, fxfycxcy, size, shift)
        o = o4.expand_as(d4).reshape(3, b, -1) if dense else o4
        d = d4.reshape(3, b, -1)
        # A lamp has a size: each ray of a pixel sees another point of it, which softens its shadow.
        spread = constant((0.16 * math.cos(2.4 * k), 0.16 * math.sin(2.4 * k), 0.0), device)
        lights = room.lights + (spread if supersampling > 1 else 0.0)
        if method == "tiled":
            exit_ = run(leave_room)(o, d, room.size).reshape(depth.shape)
            t, index = (x.flatten(1) for x in trace_tiles(room, c2w[..., :3, 3], d4, exit_, size))
        elif dense:
            t, index = trace_dense(room, o, d, run(leave_room)(o, d, room.size), method == "compiled")
        else:
            parts = []
            for i in range(b):
                one = room.single(i)
                exit_ = leave_room(o4[:, i], d4[:, i], one.size.expand(views, -1))
                shifted = fxfycxcy[i] - constant((0, 0, *shift), device)
                parts.append(trace_windowed(one, c2w[i], shifted, size, o4[:, i], d4[:, i], exit_))
            t = torch.stack([p[0] for p in parts]).reshape(b, -1)
            index = torch.stack([p[1] for p in parts]).reshape(b, -1)
            o = o4.expand_as(d4).reshape(3, b, -1)
        hit = run(_surface)(o, d, t, index, objects, room.size, room.skirting, room.counts)
        point, normal = hit[0], hit[1]
        lit = torch.ones_like(t)
        if shadows:
            start = point + 2e-3 * normal
            if method == "tiled":
                lamp = lights[:, :1]
                ray = (start - lamp[:, 0].T[:, :, None]).reshape(d4.shape)
                whole = torch.full_like(depth, 0.998)
                _, blocked = trace_tiles(room, lamp.expand(-1, views, -1), ray, whole, size)
                lit = (blocked < 0).flatten(1).float()
            elif dense:
                ray = lights[:, 0].T[:, :, None] - start
                _, blocked = trace_dense(room, start, ray, torch.ones_like(t), method == "compiled")
                lit = (blocked < 0).float()
            else:
                for i in range(b):
                    lit[i] = (~in_shadow(room.single(i), start[:, i], lights[i, 0])).float()
        colour = run(_shade)(
            d, t, *hit, room.material, bank.texels, lit, lights, room.power, room.ambient, room.size, footprint,
            bank.size, bank.tiles, bank.levels,
        )  # fmt: skip
        total += colour.reshape(total.shape)
        t = t.reshape(depth.shape)
        centre = supersampling % 2 == 1 and k == supersampling**2 // 2
        depth = t if centre else depth if supersampling % 2 else torch.minimum(depth, t)
    image = _develop(total / supersampling**2, room.tone, exposure)
    if noise > 0:
        image = image + noise * torch.randn(image.shape, generator=generator, device=device)
    image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0, 3).reshape(b, views, 3, *size), depth.reshape(b, views, *size)


def _develop(light: Tensor, tone: Tensor, exposure: Tensor | None) -> Tensor:
    """Map linear light [3, B, V, P] to display values as a camera does: exposure, soft highlights, gamma."""
    light = light * tone[:, 0, None, None]
    if exposure is not None:
        light = light * exposure.to(light.device)[..., None]
    # A shoulder: linear up to about 0.6, then saturating at 1.
    light = torch.where(light < 0.6, light, 1 - 0.4 * torch.exp(-(light - 0.6) / 0.4))
    return light.clamp_min(1e-5) ** (1 / tone[:, 1, None, None])
