"""A pool of drawn scenes on the GPU, so that drawing costs less than once per sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .scenes import SceneBatch, draw_scenes
from .settings import DataSettings
from .textures import TextureBank


class ScenePool:
    """Keeps the newest `pool` scenes; `refresh` replaces the oldest, `sample` picks some at random.

    A scene is used several times, each time with other inputs and targets, far apart in time.
    """

    def __init__(self, settings: DataSettings, bank: TextureBank, generator: torch.Generator) -> None:
        if settings.pool % settings.draw_batch:
            raise ValueError(
                f"data.pool ({settings.pool}) must be a multiple of data.draw_batch ({settings.draw_batch})"
            )
        self.settings, self.bank, self.generator = settings, bank, generator
        shape = (settings.pool, settings.views)
        self.images = torch.empty(*shape, 3, *settings.size, dtype=torch.uint8, device=bank.device)
        self.c2w = torch.empty(*shape, 4, 4, device=bank.device)
        self.fxfycxcy = torch.empty(*shape, 4, device=bank.device)
        self.next = 0
        self.seeds: dict[int, Tensor] = {}  # what each place's scenes were drawn from
        for _ in range(settings.pool // settings.draw_batch):
            self.refresh()

    def refresh(self) -> None:
        """Draw a batch of scenes over the oldest ones."""
        s = self.settings
        self.seeds[self.next] = self.generator.get_state()
        scenes: SceneBatch = draw_scenes(s.scenes, self.bank, s.draw_batch, s.views, s.size, self.generator)
        place = slice(self.next, self.next + s.draw_batch)
        self.images[place] = scenes.images
        self.c2w[place] = scenes.c2w
        self.fxfycxcy[place] = scenes.fxfycxcy
        self.next = (self.next + s.draw_batch) % s.pool

    def state_dict(self) -> dict[str, Any]:
        """Return what the scenes in the pool were drawn from; they themselves are too many to be stored."""
        return {"next": self.next, "seeds": dict(self.seeds), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Draw the scenes again that the pool held."""
        for place, seed in state["seeds"].items():
            self.next = place
            self.generator.set_state(seed)
            self.refresh()
        self.next = state["next"]
        self.generator.set_state(state["generator"])

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, poses and intrinsics of `batch` scenes; generator: on the pool's device."""
        if batch > self.settings.pool:
            raise ValueError(f"batch ({batch}) is larger than the pool of scenes ({self.settings.pool})")
        weights = torch.rand(self.settings.pool, device=self.bank.device, generator=generator)
        rows = weights.argsort()[:batch]
        return self.images[rows], self.c2w[rows], self.fxfycxcy[rows]
