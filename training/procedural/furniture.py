"""Furnish rooms at random: their size, their shell, the pieces in them, and the light.

Everything is drawn for a whole batch of rooms at once, from one block of uniform random numbers, so that a seed gives
the same rooms on every device. Sizes are metres.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .building import LIMITS
from .pieces import Furnisher
from .rng import Dice
from .room import KINDS, Room, constant
from .textures import TextureBank


def furnish(
    bank: TextureBank,
    batch: int,
    generator: torch.Generator,
    device: torch.device | str,
    busy: float = 0.0,
    photos: float = 0.0,
) -> Room:
    """Draw `batch` furnished rooms on a device, deterministic by the (CPU) generator.

    busy: share of rooms in which hardly a surface is plain. photos: share of textures that are photographs, from a bank
    that has some.
    """
    if photos > 0 and "photo_view" not in bank.ranges:
        raise ValueError("rooms with photographs need a texture bank with photographs: give a pack of assets")
    dice = Dice(batch, generator, device)
    u = dice(12)
    small = u[:, 11:12] < 0.25
    plan = 3.0 + 5.5 * u[:, :2]
    size = torch.cat([torch.where(small, 2.6 + 1.5 * u[:, :2], plan), 2.3 + 1.2 * u[:, 2:3] ** 1.5], 1)
    full = dice(1)[:, 0] < busy if busy > 0 else None
    furnisher = Furnisher(bank, dice, size, full, photos)
    walls = furnisher.material("wall", 4)
    # Most rooms have one colour of wall, some an accent wall.
    same = (dice(4, 1) < 0.7) & (dice(1, 1) < 0.9)
    walls = torch.where(same, walls[:, :1], walls)
    roles = ("floor", "ceiling", "furniture")
    shell = torch.cat([walls, *(furnisher.material(role, 1) for role in roles)], 1)
    skirting = torch.where(u[:, 3] < 0.7, 0.05 + 0.1 * u[:, 4], torch.zeros_like(u[:, 4]))
    skirting = torch.where(u[:, 5] < 0.08, 0.9 + 0.4 * u[:, 4], skirting)
    builder = furnisher.everything()
    parts = [p for kind in KINDS for p in builder.parts[kind]]
    counts = tuple(sum(p[0].shape[1] for p in builder.parts[kind]) for kind in KINDS)
    centre, half, axes, valid, material = (torch.cat([p[k] for p in parts], 1) for k in range(5))
    group = torch.cat([p[5] for p in parts]).expand(batch, -1)
    lights, power, ambient, tone = _lighting(dice, size, shell[:, :6, 4:7].mean((1, 2)))
    room = Room(
        size=size,
        counts=counts,  # type: ignore[arg-type]
        centre=centre,
        axes=axes,
        half=half,
        valid=valid,
        group=group,
        groups=builder.groups,
        material=torch.cat([material, shell], 1),
        skirting=skirting,
        lights=lights,
        power=power,
        ambient=ambient,
        tone=tone,
    )
    return room.compact(LIMITS)


def _lighting(dice: Dice, size: Tensor, brightness: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw three lamps, ambient light, and the camera's exposure and gamma.

    brightness [B]: mean display value of the room's shell.
    """
    u = dice(3, 6)
    xy = (u[..., :2] - 0.5) * 0.85 * size[:, None, :2]
    z = size[:, None, 2:] - 0.08 - 1.2 * u[..., 2:3] ** 3
    lights = torch.cat([xy, z], -1)
    warm = dice(1, 1) * 0.8 + 0.2 * u[..., 3:4]  # 0 daylight, 1 incandescent
    colour = torch.cat([torch.ones_like(warm), 1 - 0.22 * warm, 1 - 0.5 * warm], -1)
    power = colour * (0.3 + 3.2 * u[..., 4:5] ** 1.5) * constant((1.0, 0.6, 0.35), u.device)[None, :, None]
    v = dice(8)
    level = 0.12 + 0.5 * v[:, 0:1]
    tint = 1 + 0.15 * (v[:, 1:4] - 0.5)
    above = level * tint
    below = above * (0.45 + 0.5 * v[:, 4:5])
    # A camera exposes for what it sees: the brighter the light, the shorter.
    typical = (level[:, 0] + power.mean(-1).sum(1) / 5.0) * (0.3 + brightness**2.2)
    exposure = (0.4 + 0.7 * v[:, 5]) / typical
    gamma = 1.9 + 0.5 * v[:, 6]
    return lights, power, torch.stack([below, above], 1), torch.stack([exposure, gamma], -1)
