"""A pool of drawn scenes on the GPU, so that drawing costs less than once per sample."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..settings import DataSettings
from .meshes.bank import MeshBank
from .meshes.rooms import plan_mesh_scenes
from .meshes.scene import MeshPlan, render_mesh_plan
from .scenes import SceneBatch, SceneDraft, plan_scenes, render_plan
from .textures import TextureBank

ENDLESS = 2**40


class Plans(Dataset[SceneDraft | MeshPlan]):
    """Numbered batches of rooms and walks. Furnishing takes thousands of small operations: better not on the GPU.

    With a bank of meshes, settings.meshes.share of the batches are rooms of meshes.
    """

    def __init__(
        self, settings: DataSettings, bank: TextureBank, seed: int, meshes: MeshBank | None = None
    ) -> None:
        self.settings, self.bank, self.seed = settings, bank.catalogue(), seed
        self.meshes = meshes.catalogue() if meshes is not None else None

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> SceneDraft | MeshPlan:
        """Return batch `number`: the same one for the same seed, whoever asks."""
        s = self.settings
        # Generators take 32 bits. Those of the test scenes have the highest one unset.
        seed = random.Random(f"{self.seed}/{number}").getrandbits(31) | 1 << 31
        generator = torch.Generator().manual_seed(seed)
        if self.meshes is not None and random.Random(f"{self.seed}/{number}/kind").random() < s.meshes.share:
            return plan_mesh_scenes(s.scenes, self.meshes, s.draw_batch, s.views, s.size, generator)
        return plan_scenes(s.scenes, self.bank, s.draw_batch, s.views, s.size, generator)

    def stream(self, first: int, pin: bool) -> Iterator[SceneDraft | MeshPlan]:
        """Yield batches from number `first` on, planned ahead by settings.workers processes."""
        loader: DataLoader[SceneDraft | MeshPlan] = DataLoader(
            self, batch_size=None, sampler=range(first, ENDLESS), num_workers=self.settings.workers, pin_memory=pin,
            generator=torch.Generator(),  # spares the global one, whose state is part of a checkpoint
        )  # fmt: skip
        return iter(loader)


class ScenePool:
    """Keeps the newest `pool` scenes; `refresh` replaces the oldest, `sample` picks some at random.

    A scene is used several times, each time with other inputs and targets, far apart in time. meshes: on the device of
    bank, for settings.meshes.
    """

    def __init__(
        self, settings: DataSettings, bank: TextureBank, seed: int, meshes: MeshBank | None = None
    ) -> None:
        if settings.pool % settings.draw_batch:
            raise ValueError(
                f"data.pool ({settings.pool}) must be a multiple of data.draw_batch ({settings.draw_batch})"
            )
        self.settings, self.bank, self.meshes = settings, bank, meshes
        self.plans = Plans(settings, bank, seed, meshes)
        shape = (settings.pool, settings.views)
        self.images = torch.empty(*shape, 3, *settings.size, dtype=torch.uint8, device=bank.device)
        self.c2w = torch.empty(*shape, 4, 4, device=bank.device)
        self.fxfycxcy = torch.empty(*shape, 4, device=bank.device)
        # Half precision: 4 mm at 5 m.
        self.depth = torch.empty(*shape, *settings.size, dtype=torch.float16, device=bank.device)
        self.fill(0)

    def fill(self, first: int) -> None:
        """Draw the whole pool, from batch number `first` on."""
        self.drawn = first
        self.stream = self.plans.stream(first, self.bank.device.type == "cuda")
        for _ in range(self.settings.pool // self.settings.draw_batch):
            self.refresh()

    def refresh(self) -> None:
        """Draw a batch of scenes over the oldest ones."""
        s = self.settings
        scenes = self.render(next(self.stream))
        start = self.drawn * s.draw_batch % s.pool
        place = slice(start, start + s.draw_batch)
        self.images[place] = scenes.images
        self.c2w[place] = scenes.c2w
        self.fxfycxcy[place] = scenes.fxfycxcy
        self.depth[place] = scenes.depth
        self.drawn += 1

    def render(self, plan: SceneDraft | MeshPlan) -> SceneBatch:
        """Render a batch of scenes of either kind."""
        if isinstance(plan, MeshPlan):
            assert self.meshes is not None  # nobody plans rooms of meshes without them
            return render_mesh_plan(self.meshes, plan, self.settings.meshes.config())
        return render_plan(self.settings.scenes, self.bank, plan)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches drawn; the scenes themselves are too many to be stored."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Draw the scenes again that the pool held."""
        self.fill(state["drawn"] - self.settings.pool // self.settings.draw_batch)

    def sample(self, batch: int, generator: torch.Generator) -> SceneBatch:
        """Return `batch` scenes of the pool; depth float16. generator: on the pool's device."""
        if batch > self.settings.pool:
            raise ValueError(f"batch ({batch}) is larger than the pool of scenes ({self.settings.pool})")
        weights = torch.rand(self.settings.pool, device=self.bank.device, generator=generator)
        rows = weights.argsort()[:batch]
        return SceneBatch(self.images[rows], self.c2w[rows], self.fxfycxcy[rows], self.depth[rows])
