"""Procedural indoor scenes: batches for training, and long camera walks through one room for demos."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .furniture import furnish
from .raycast import render_views
from .rng import Dice
from .room import Room
from .textures import TextureBank, make_texture_bank
from .walks import draw_intrinsics, draw_walks

__all__ = [
    "SceneBatch", "SceneConfig", "SceneDraft", "Walk", "draw_scenes", "make_texture_bank", "plan_scenes", "render_plan",
    "render_views", "walk",
]  # fmt: skip


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are drawn.

    fov: horizontal field of view, smallest and largest, degrees. supersampling: rays per pixel and axis.
    shadows: trace the main lamp's shadows. noise: largest standard deviation of sensor noise, full scale = 1.
    exposure: largest relative change of exposure between views. busy: share of rooms with texture on most surfaces.
    photos: share of textures that are photographs (needs a pack of assets).
    """

    fov: tuple[float, float] = (38.0, 95.0)
    supersampling: int = 2
    shadows: bool = True
    noise: float = 0.01
    exposure: float = 0.03
    busy: float = 0.0
    photos: float = 0.0


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
class SceneDraft:
    """Rooms and cameras before anything is rendered: small, and quick to draw on a CPU.

    c2w [B, V, 4, 4] OpenCV, metres; fxfycxcy [B, V, 4] pixels of images of `size` (H, W); exposure [B, V]; noise
    [B, 1, 1, 1, 1]: the sensor's standard deviation in grey levels; grain: seed of its noise.
    """

    room: Room
    c2w: Tensor
    fxfycxcy: Tensor
    exposure: Tensor
    noise: Tensor
    grain: int
    size: tuple[int, int]

    def to(self, device: torch.device | str) -> SceneDraft:
        """Return the same plan on another device; the copy does not wait."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> SceneDraft:
        """Return the same plan in page-locked memory (a DataLoader calls this)."""
        return self._map(lambda x: x.contiguous().pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> SceneDraft:
        moved = {
            f.name: function(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, room=self.room.map(function), **moved)


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
    return render_plan(config, bank, plan_scenes(config, bank, batch, views, size, generator), method)


def plan_scenes(
    config: SceneConfig,
    bank: TextureBank,
    batch: int,
    views: int,
    size: tuple[int, int],
    generator: torch.Generator,
) -> SceneDraft:
    """Draw `batch` rooms and a walk of `views` poses through each, on the bank's device; see `draw_scenes`.

    The bank's catalogue is enough. generator: on the CPU.
    """
    room = furnish(bank, batch, generator, bank.device, config.busy, config.photos)
    dice = Dice(batch, generator, bank.device, 4096)
    c2w, room = draw_walks(room, views, dice)
    fxfycxcy = draw_intrinsics(dice, views, size, config.fov)
    exposure = 1 + config.exposure * (2 * dice(views) - 1)
    noise, grain = torch.zeros(batch, 1, 1, 1, 1, device=bank.device), 0
    if config.noise > 0:
        noise = 255 * config.noise * dice(1, 1, 1, 1) ** 2
        grain = int(torch.randint(2**31, (1,), generator=generator))
    return SceneDraft(room, c2w, fxfycxcy, exposure, noise, grain, size)


def render_plan(config: SceneConfig, bank: TextureBank, plan: SceneDraft, method: str = "auto") -> SceneBatch:
    """Render the views of a plan on the bank's device; see `draw_scenes`."""
    plan = plan.to(bank.device)
    images, depth = render_views(
        plan.room, bank, plan.c2w, plan.fxfycxcy, plan.size, supersampling=config.supersampling,
        shadows=config.shadows, exposure=plan.exposure, method=method,
    )  # fmt: skip
    if config.noise > 0:
        grain = torch.Generator(device=bank.device).manual_seed(plan.grain)
        white = torch.randn(images.shape, generator=grain, device=bank.device, dtype=torch.float16)
        images = (images + plan.noise.half() * white).round().clamp(0, 255).to(torch.uint8)
    return SceneBatch(images, plan.c2w, plan.fxfycxcy, depth)


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
