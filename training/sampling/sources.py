"""Where training samples come from: procedural scenes, or RealEstate10K through a DataLoader."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from ..assets.packed import load_packed
from ..data.formats import open_store
from ..data.store import DatasetError
from ..procedural.meshes.bank import make_mesh_bank
from ..procedural.photos import AssetPack, photo_tiles
from ..procedural.pool import ENDLESS, ScenePool
from ..procedural.scenes import SceneBatch
from ..procedural.textures import make_texture_bank
from ..settings import TrainSettings
from .recipe import Sample, make_sample
from .samples import SKIPS, SampleConfig, StepSampler, TrainingSamples
from .shaped import shaped_sample

SHOWN = 2**41
"""Number of the first sample that is shown and not trained on: no training gets so far."""


class SampleSource(Protocol):
    """Samples one after the other; its state makes another process go on with the same ones."""

    description: str

    def prepare(self) -> None:
        """Do what takes long before the first sample can be had."""
        ...

    def next(self, step: int) -> Sample:
        """Return the next batch, for gradient step `step`."""
        ...

    def shapes(self) -> Iterator[Sample]:
        """Yield one sample of each shape; they are not trained on, and the samples of `next` stay the same."""
        ...

    def shown(self, count: int) -> list[Sample]:
        """Return samples of one scene each that stay the same, to look at while training; none where it has none."""
        ...

    def note(self) -> str:
        """Return what is worth a word in the log, or nothing."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, for `load_state_dict`."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], batches: int) -> None:
        """Go on after `batches` batches."""
        ...


def unwrapped(error: DatasetError) -> DatasetError:
    """Return a worker's error without its whole traceback: the reason is the last line."""
    reason = str(error).strip().splitlines()[-1]
    return DatasetError(reason.removeprefix(f"{DatasetError.__module__}.DatasetError: "))


class ProceduralSource:
    """Samples of procedural scenes, drawn on the device that trains."""

    def __init__(self, settings: TrainSettings, rank: int, device: torch.device) -> None:
        data = settings.data
        self.settings, self.rank, self.device = settings, rank, device
        self.shared = random.Random(settings.seed)  # choices that all ranks make alike
        self.dice = torch.Generator(device=device).manual_seed(settings.seed * 10_000 + rank)
        self.drawn_at = -1
        self.description = f"procedural scenes, {data.pool} of {data.views} views in the pool"

    def prepare(self) -> None:
        data, seed = self.settings.data, self.settings.seed
        photos = meshes = None
        if data.assets is not None:
            photos = photo_tiles(AssetPack(data.assets), data.texture_size, seed)
        bank = make_texture_bank(data.tiles, data.texture_size, seed * 77 + self.rank, self.device, photos)
        if data.meshes.share > 0 and data.meshes.assets is not None:
            meshes = make_mesh_bank(load_packed(data.meshes.assets)).to(self.device)
        self.pool = ScenePool(data, bank, seed * 10_000 + self.rank, meshes)

    def next(self, step: int) -> Sample:
        s = self.settings
        if step % s.data.draw_every == 0 and step != self.drawn_at:
            self.pool.refresh()
            self.drawn_at = step
        if s.sampling.shapes:
            shares = [shape.share for shape in s.sampling.shapes]
            shape = self.shared.choices(s.sampling.shapes, shares)[0]
            return shaped_sample(self.pool.sample(shape.batch, self.dice), shape, s.sampling, self.dice)
        inputs = self.shared.choices(s.sampling.inputs, s.sampling.input_shares)[0]
        size = s.sampling.crop_size if self.shared.random() < s.sampling.crop else s.data.size
        scenes = self.pool.sample(s.batch, self.dice)
        return make_sample(scenes.images, scenes.c2w, scenes.fxfycxcy, inputs, s.sampling, size, self.dice)

    def shapes(self) -> Iterator[Sample]:
        s, device = self.settings, self.device
        generator = torch.Generator(device=device).manual_seed(0)
        # Noise will do, so that this needs no scenes.
        batch = max([s.batch, *(shape.batch for shape in s.sampling.shapes)])
        images = torch.randint(256, (batch, s.data.views, 3, *s.data.size), dtype=torch.uint8, device=device)
        c2w = torch.eye(4, device=device).repeat(batch, s.data.views, 1, 1)
        c2w[..., :3, 3] = torch.rand(batch, s.data.views, 3, device=device, generator=generator)
        height, width = s.data.size
        k = torch.tensor([width, width, width / 2, height / 2], dtype=torch.float32, device=device)
        k = k.expand(batch, s.data.views, 4)
        for shape in s.sampling.shapes:
            depth = torch.ones(shape.batch, s.data.views, *s.data.size, dtype=torch.float16, device=device)
            scenes = SceneBatch(images[: shape.batch], c2w[: shape.batch], k[: shape.batch], depth)
            yield shaped_sample(scenes, shape, s.sampling, generator)
        if s.sampling.shapes:
            return
        for size in {s.data.size, *([s.sampling.crop_size] if s.sampling.crop > 0 else [])}:
            for inputs in s.sampling.inputs:
                yield make_sample(images, c2w, k, inputs, s.sampling, size, generator)

    def shown(self, count: int) -> list[Sample]:
        return []  # the test scenes are better to look at

    def note(self) -> str:
        return ""

    def state_dict(self) -> dict[str, Any]:
        return {
            "pool": self.pool.state_dict(),
            "dice": self.dice.get_state(),
            "shared": self.shared.getstate(),
            "drawn_at": self.drawn_at,
        }

    def load_state_dict(self, state: Mapping[str, Any], batches: int) -> None:
        self.pool.load_state_dict(state["pool"])
        self.dice.set_state(state["dice"])
        self.shared.setstate(state["shared"])
        self.drawn_at = state["drawn_at"]


class Re10kSource:
    """Samples of RealEstate10K, decoded in worker processes. A sample depends on the seed and its number alone."""

    def __init__(self, settings: TrainSettings, rank: int, world: int, device: torch.device) -> None:
        data, r = settings.data, settings.data.re10k
        assert r.path is not None
        height, width = data.size
        config = SampleConfig(
            inputs=r.inputs, targets=r.targets, image_size=height, image_width=None if width == height else width,
            patch_size=settings.model.patch_size, target_has_input=r.target_has_input, dynamic_inputs=r.dynamic_inputs,
            batch=settings.batch, shuffle_inputs=r.shuffle_inputs, scale_factor=r.scale_factor,
        )  # fmt: skip
        self.settings, self.rank, self.world, self.device = settings, rank, world, device
        self.samples = TrainingSamples(open_store(r.path), config, settings.seed)
        self.skipped = torch.zeros(len(SKIPS), dtype=torch.int64)
        self.reported = 0
        self.batches = 0
        self.iterator: Iterator[dict[str, torch.Tensor]] | None = None
        self.description = f"RealEstate10K, {len(self.samples)} scenes, {r.workers} workers for each process"

    def prepare(self) -> None:
        pass  # the workers start with the first sample

    def _load(self, first: int) -> Iterator[dict[str, torch.Tensor]]:
        r = self.settings.data.re10k
        sampler = StepSampler(ENDLESS, self.settings.batch, first, self.rank, self.world)
        loader = DataLoader(
            self.samples, batch_sampler=sampler, num_workers=r.workers,
            prefetch_factor=r.prefetch if r.workers else None, pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # spares the global one, whose state is part of a checkpoint
        )  # fmt: skip
        return iter(loader)

    def next(self, step: int) -> Sample:
        if self.iterator is None:
            self.iterator = self._load(self.batches)
        try:
            batch = next(self.iterator)
        except DatasetError as error:
            raise unwrapped(error) from error
        self.batches += 1
        self.skipped += batch["skipped"].sum(0)
        return self._sample(batch)

    def _sample(self, batch: Mapping[str, torch.Tensor]) -> Sample:
        parts = {
            f"{part}_{name}": batch[f"{part}_{name}"].to(self.device, non_blocking=True)
            for part in ("input", "target")
            for name in ("image", "c2w", "fxfycxcy")
        }
        return Sample(
            parts["input_image"].float() / 255, parts["input_c2w"], parts["input_fxfycxcy"],
            parts["target_image"].float() / 255, parts["target_c2w"], parts["target_fxfycxcy"],
        )  # fmt: skip

    def shapes(self) -> Iterator[Sample]:
        numbers = range(self.settings.batch)
        batch = torch.utils.data.default_collate([self.samples[number] for number in numbers])
        yield self._sample(batch)

    def shown(self, count: int) -> list[Sample]:
        numbers = range(SHOWN, SHOWN + count)
        collate = torch.utils.data.default_collate
        return [self._sample(collate([self.samples[number]])) for number in numbers]

    def note(self) -> str:
        total = int(self.skipped.sum())
        if total == self.reported:
            return ""
        self.reported = total
        counts = zip(SKIPS, self.skipped.tolist(), strict=True)
        return "scenes passed over so far: " + ", ".join(f"{name} {n}" for name, n in counts if n)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped.clone()}

    def load_state_dict(self, state: Mapping[str, Any], batches: int) -> None:
        self.skipped += state["skipped"]
        self.batches, self.iterator = batches, None
