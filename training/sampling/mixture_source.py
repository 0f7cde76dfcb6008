"""Training samples of a mixture: walks of any datasets, and drawn rooms among them, through one recipe."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from ..data.store import DatasetError
from ..procedural.pool import ENDLESS
from ..settings import TrainSettings
from .mixture import WalkSamples, open_entries
from .recipe import Sample, make_sample
from .samples import SKIPS, StepSampler
from .sources import SHOWN, ProceduralSource, unwrapped


class MixtureSource:
    """Batches of walks or of drawn rooms, by the weights of the settings' stores.

    Each batch is of one kind; among walks, every one comes from a dataset by its weight. Which it is follows from the
    seed and the batch's number, so that all processes choose alike and a restart goes on.
    """

    def __init__(self, settings: TrainSettings, rank: int, world: int, device: torch.device) -> None:
        data = settings.data
        self.settings, self.rank, self.world, self.device = settings, rank, world, device
        drawn = [s for s in data.stores if s.store == "procedural"]
        filmed = [s for s in data.stores if s.store != "procedural"]
        weights = sum(s.weight for s in filmed), sum(s.weight for s in drawn)
        self.share = weights[1] / sum(weights)
        """Of batches that are drawn rooms."""
        self.rooms = ProceduralSource(settings, rank, device)
        self.walks = (
            WalkSamples(open_entries(filmed), data.views, data.size, settings.seed) if filmed else None
        )
        self.skipped = torch.zeros(len(SKIPS), dtype=torch.int64)
        self.reported = self.batches = self.drawn = 0
        self.dice = torch.Generator(device=device).manual_seed(settings.seed * 10_000 + rank + 5000)
        self.iterator: Iterator[dict[str, torch.Tensor]] | None = None
        parts = [f"{len(self.walks)} scenes of {len(filmed)} datasets"] if self.walks else []
        parts += [f"{self.rooms.description} in {self.share:.0%} of the batches"] if drawn else []
        self.description = " and ".join(parts)

    def prepare(self) -> None:
        if self.share > 0:
            self.rooms.prepare()

    def next(self, step: int) -> Sample:
        chance = random.Random(f"elvsm mixture {self.settings.seed} {self.batches}").random()
        self.batches += 1
        if chance < self.share:
            self.drawn += 1
            return self.rooms.next(self.drawn - 1)
        if self.iterator is None:
            self.iterator = self._load(self.batches - 1 - self.drawn)
        try:
            batch = next(self.iterator)
        except DatasetError as error:
            raise unwrapped(error) from error
        self.skipped += batch["skipped"].sum(0)
        return self._sample(
            batch, self.dice, random.Random(f"elvsm inputs {self.settings.seed} {self.batches}")
        )

    def _load(self, first: int) -> Iterator[dict[str, torch.Tensor]]:
        s, r = self.settings, self.settings.data.re10k
        assert self.walks is not None
        sampler = StepSampler(ENDLESS, s.batch, first, self.rank, self.world)
        loader = DataLoader(
            self.walks, batch_sampler=sampler, num_workers=r.workers,
            prefetch_factor=r.prefetch if r.workers else None, pin_memory=self.device.type == "cuda",
            # Formats of others need not be picklable, and nothing here touches the GPU.
            multiprocessing_context="fork" if r.workers else None,
            generator=torch.Generator(),  # spares the global one, whose state is part of a checkpoint
        )  # fmt: skip
        return iter(loader)

    def _sample(
        self, batch: Mapping[str, torch.Tensor], dice: torch.Generator, shared: random.Random
    ) -> Sample:
        s = self.settings.sampling
        images, c2w, k = (
            batch[name].to(self.device, non_blocking=True) for name in ("images", "c2w", "fxfycxcy")
        )
        inputs = shared.choices(s.inputs, s.input_shares)[0]
        size = s.crop_size if shared.random() < s.crop else self.settings.data.size
        return make_sample(images, c2w, k, inputs, s, size, dice)

    def shapes(self) -> Iterator[Sample]:
        return self.rooms.shapes()  # both kinds have the same

    def shown(self, count: int) -> list[Sample]:
        if self.walks is None:
            return []
        samples = []
        for number in range(SHOWN, SHOWN + count):
            dice = torch.Generator(device=self.device).manual_seed(number)
            samples.append(self._sample(default_collate([self.walks[number]]), dice, random.Random(number)))
        return samples

    def note(self) -> str:
        total = int(self.skipped.sum())
        if total == self.reported:
            return ""
        self.reported = total
        counts = zip(SKIPS, self.skipped.tolist(), strict=True)
        return "scenes passed over so far: " + ", ".join(f"{name} {n}" for name, n in counts if n)

    def state_dict(self) -> dict[str, Any]:
        rooms = self.rooms.state_dict() if self.share > 0 else None
        return {
            "rooms": rooms,
            "drawn": self.drawn,
            "skipped": self.skipped.clone(),
            "dice": self.dice.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], batches: int) -> None:
        if state["rooms"] is not None:
            self.rooms.load_state_dict(state["rooms"], batches)
        self.drawn = state["drawn"]
        self.skipped += state["skipped"]
        self.dice.set_state(state["dice"])
        self.batches, self.iterator = batches, None
