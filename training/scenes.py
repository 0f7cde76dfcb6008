"""Procedural indoor scenes: batches for training, and long camera walks through one room for demos."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .dice import Dice
from .furniture import furnish
from .raycast import render_views
from .room import Room
from .textures import TextureBank, make_texture_bank
from .walks import draw_intrinsics, draw_walks

__all__ = ["SceneBatch", "SceneConfig", "Walk", "draw_scenes", "make_texture_bank", "render_views", "walk"]


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are drawn.

    fov: horizontal field of view, smallest and largest, degrees. supersampling: rays per pixel and axis.
    shadows: trace the main lamp's shadows. noise: largest standard deviation of sensor noise, full scale = 1.
    exposure: largest relative change of exposure between views.
    """

    fov: tuple[float, float] = (38.0, 95.0)
    supersampling: int = 2
    shadows: bool = True
    noise: float = 0.01
    exposure: float = 0.03


@dataclass(frozen=True)
class SceneBatch:
    """Rendered rooms.

    images uint8 [B, V, 3, H, W]; c2w [B, V, 4, 4] OpenCV, metres; fxfycxcy [B, V, 4] pixels; depth [B, V, H, W] metres
    along the optical axis.
    """

    images: Tensor
    c2w: Tensor
    fxfycxcy: Tensor
    depth: Tensor


@dataclass(frozen=True)
class Walk:
    """A room (a batch of one) and a camera's path through it.

    c2w [1, F, 4, 4] OpenCV, metres; fxfycxcy [1, F, 4] pixels of an image of size (H, W).
    """

    room: Room
    c2w: Tensor
    fxfycxcy: Tensor
    size: tuple[int, int]


def draw_scenes(
    config: SceneConfig,
    bank: TextureBank,
    batch: int,
    views: int,
    size: tuple[int, int],
    seed: int | torch.Generator,
    method: str = "auto",
) -> SceneBatch:
    """Draw `batch` rooms and render `views` images of size (H, W) pixels along a walk through each.

    Runs on the bank's device. seed: a number, or a CPU generator that is advanced. The same seed and bank give the
    same scenes; consecutive views are neighbours on the walk. method: see raycast.py.
    """
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    room = furnish(bank, batch, generator, bank.device)
    dice = Dice(batch, generator, bank.device, 4096)
    c2w, room = draw_walks(room, views, dice)
    fxfycxcy = draw_intrinsics(dice, views, size, config.fov)
    exposure = 1 + config.exposure * (2 * dice(views) - 1)
    images, depth = render_views(
        room, bank, c2w, fxfycxcy, size, supersampling=config.supersampling, shadows=config.shadows, exposure=exposure,
        method=method,
    )  # fmt: skip
    if config.noise > 0:
        sigma = 255 * config.noise * dice(1, 1, 1, 1) ** 2
        grain = torch.Generator(device=bank.device).manual_seed(
            int(torch.randint(2**31, (1,), generator=generator))
        )
        white = torch.randn(images.shape, generator=grain, device=bank.device, dtype=torch.float16)
        images = (images + sigma.half() * white).round().clamp(0, 255).to(torch.uint8)
    return SceneBatch(images, c2w, fxfycxcy, depth)


def walk(
    seed: int,
    frames: int,
    bank: TextureBank,
    *,
    size: tuple[int, int] = (240, 320),
    fov: float = 70.0,
    step: float = 0.06,
    turn: float = 3.0,
) -> Walk:
    """Draw one room and a smooth walk of `frames` poses through it, `step` metres and `turn` degrees apart at most.

    The camera strolls between random spots of the room at eye height, looking ahead and around. Furniture that is in
    its way is removed. Render the poses with `render_views(walk.room, bank, walk.c2w[:, a:b], walk.fxfycxcy[:, a:b],
    walk.size)`. fov: horizontal field of view, degrees.
    """
    from .walks import stroll

    generator = torch.Generator().manual_seed(seed)
    room = furnish(bank, 1, generator, bank.device)
    c2w, room = stroll(room, frames, generator, step, turn)
    fxfycxcy = draw_intrinsics(Dice(1, generator, bank.device, 16), frames, size, (fov, fov + 1e-3))
    return Walk(room, c2w, fxfycxcy, size)
