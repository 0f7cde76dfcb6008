"""What surfaces are made of: textures by what a surface is, scale, shine."""

from __future__ import annotations

import torch
from torch import Tensor

from .rng import Dice
from .room import MATERIAL, constant
from .textures import TextureBank, natural_colours

# Shares of the texture kinds by what a surface is.
ROLES: dict[str, dict[str, float]] = {
    "wall": {
        "paint": 0.78,
        "noise": 0.04,
        "tiles": 0.06,
        "fabric": 0.04,
        "leaves": 0.03,
        "wood": 0.04,
        "photo": 0.01,
    },
    "ceiling": {"paint": 0.85, "tiles": 0.08, "wood": 0.07},
    "floor": {"wood": 0.42, "fabric": 0.22, "tiles": 0.16, "noise": 0.12, "paint": 0.08},
    "furniture": {"wood": 0.38, "paint": 0.42, "fabric": 0.08, "noise": 0.05, "leaves": 0.05, "photo": 0.02},
    "cloth": {"fabric": 0.55, "paint": 0.2, "noise": 0.1, "leaves": 0.15},
    "picture": {"print": 0.36, "photo": 0.36, "leaves": 0.28},
    "thing": {"paint": 0.2, "print": 0.3, "leaves": 0.22, "photo": 0.16, "noise": 0.06, "fabric": 0.06},
    "leaf": {"noise": 0.4, "paint": 0.6},
    "plain": {"paint": 1.0},
    "view": {"photo_view": 0.9, "photo": 0.1},  # what is seen through a window
}


# What most surfaces of a busy room show, whatever they are.
BUSY: dict[str, float] = {
    "photo": 0.35,
    "leaves": 0.25,
    "noise": 0.12,
    "wood": 0.1,
    "print": 0.1,
    "tiles": 0.08,
}


# Photographs (photos.py) that stand for a generated kind, and how often they do, against the most frequent.
PHOTOGRAPHED: dict[str, tuple[str, float]] = {
    "paint": ("photo_wall", 0.3),
    "noise": ("photo_rough", 1.0),
    "leaves": ("photo_rough", 0.7),
    "wood": ("photo_wood", 1.0),
    "tiles": ("photo_tiles", 1.0),
    "fabric": ("photo_fabric", 1.0),
    "print": ("photo_picture", 0.7),
    "photo": ("photo_picture", 1.0),
    "photo_view": ("photo_view", 0.0),
}


def make_material(
    bank: TextureBank,
    dice: Dice,
    role: str,
    count: int,
    fit: bool = False,
    busy: Tensor | None = None,
    photos: float = 0.0,
) -> Tensor:
    """Draw surface materials for a role, [B, count, 13] (columns: see room.py).

    busy: bool [B], rooms two thirds of whose surfaces get a texture of BUSY. photos: share of the generated textures
    that photographs of the bank stand for.
    """
    shares = ROLES[role] if busy is None else ROLES[role] | {k: ROLES[role].get(k, 0.0) for k in BUSY}
    u = dice(count, 12)
    device = u.device
    total = sum(shares.values())
    edges = constant(tuple(sum(list(shares.values())[: k + 1]) / total for k in range(len(shares))), device)
    kind = torch.bucketize(u[..., 0].contiguous(), edges).clamp(max=len(shares) - 1)
    if busy is not None:
        kind = torch.where(busy[:, None] & (dice(count) < 2 / 3), _busy_kind(list(shares), dice(count)), kind)
    if photos > 0:
        kind, shares = _photographed(kind, shares, photos, dice(count))

    def by_kind(values: tuple[float, ...]) -> Tensor:
        return constant(values, device)[kind]

    first = by_kind(tuple(bank.ranges[name][0] for name in shares))
    number = by_kind(tuple(bank.ranges[name][1] for name in shares))
    tile = (first + (u[..., 1] * number).floor()).long().clamp(max=bank.tiles - 1)
    # Tiles with colours of their own keep them; the others only modulate a colour.
    coloured = ("print", "photo", "leaves", "wood", "tiles", "noise")
    own = by_kind(tuple(float(name in coloured or name.startswith("photo")) for name in shares)) > 0
    own = own & (u[..., 2] < 0.8)
    tint = natural_colours(u[..., 3:7])
    if role == "leaf":
        tint = torch.stack([0.1 + 0.4 * u[..., 3], 0.2 + 0.5 * u[..., 4], 0.03 + 0.25 * u[..., 5]], -1)
    if role in ("wall", "ceiling"):  # paler than the rest of the room, mostly
        bright = 0.55 + 0.42 * u[..., 5:6]
        pale = bright + (tint - tint.mean(-1, keepdim=True)) * 0.25
        share = 0.75 if role == "wall" else 0.95
        tint = torch.where((u[..., 7:8] < share), pale, tint)
    brightness = bank.brightness[tile]
    tint = torch.where(own[..., None], 1 - 0.25 * u[..., 3:6], tint)
    gain = torch.where(own, torch.ones_like(brightness), 1 / brightness)
    is_paint = by_kind(tuple(float(name == "paint") for name in shares)) > 0
    amount = torch.where(own | is_paint, 1.0, 0.15 + 0.75 * u[..., 8] ** 1.5)
    # A tile covers between 0.3 and 4 metres; fine fabric less.
    scale = 0.35 * 10 ** (u[..., 9] * 1.05)
    fine = by_kind(tuple(float(name in ("fabric", "photo_fabric")) for name in shares)) > 0
    scale = torch.where(fine, 0.5 * scale, scale)
    shiny = (u[..., 10] < (0.6 if role in ("floor", "furniture", "thing") else 0.25)).float()
    out = torch.zeros(*tile.shape, MATERIAL, device=device)
    out[..., 0] = tile
    out[..., 1] = scale
    out[..., 2:4] = u[..., 6:8] * 7
    out[..., 4:7] = tint
    out[..., 7] = amount
    out[..., 8] = gain
    out[..., 9] = shiny * (0.02 + 0.35 * u[..., 11] ** 2)
    out[..., 10] = 8 * 30 ** u[..., 1]
    out[..., 12] = float(fit)
    return out


def _photographed(
    kind: Tensor, shares: dict[str, float], photos: float, u: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Replace a share of the kinds by photographs; returns numbers of the names of the second result."""
    names = list(shares)
    more = [name for name in dict.fromkeys(PHOTOGRAPHED[name][0] for name in names) if name not in names]
    every = [*names, *more]
    other = constant(tuple(every.index(PHOTOGRAPHED[name][0]) for name in names), u.device, torch.int64)
    often = constant(tuple(photos * PHOTOGRAPHED[name][1] for name in names), u.device)
    return torch.where(u < often[kind], other[kind], kind), shares | dict.fromkeys(more, 0.0)


def _busy_kind(names: list[str], u: Tensor) -> Tensor:
    """Return which of `names` each surface gets by the shares of BUSY; u: uniform numbers."""
    shares = list(BUSY.values())
    edges = constant(tuple(sum(shares[: k + 1]) for k in range(len(shares))), u.device)
    which = torch.bucketize(u.contiguous(), edges).clamp(max=len(shares) - 1)
    return constant(tuple(names.index(name) for name in BUSY), u.device, torch.int64)[which]
