"""The source of samples that settings ask for, and how long it is trained on."""

from __future__ import annotations

import torch

from ..settings import TrainSettings
from .mixture_source import MixtureSource
from .sources import ProceduralSource, Re10kSource, SampleSource


def open_source(settings: TrainSettings, rank: int, world: int, device: torch.device) -> SampleSource:
    """Open the data that settings.data names. Raises DatasetError where it cannot be used."""
    if settings.data.source == "re10k":
        return Re10kSource(settings, rank, world, device)
    if settings.data.source == "mixture":
        return MixtureSource(settings, rank, world, device)
    return ProceduralSource(settings, rank, device)


def total_steps(settings: TrainSettings, source: SampleSource, world: int) -> int:
    """Return after how many steps the run ends at the latest, 0 for no limit."""
    limits = [settings.steps] if settings.steps else []
    if settings.epochs and isinstance(source, Re10kSource):
        samples = settings.epochs * len(source.samples)
        limits.append(max(1, round(samples / (settings.batch * settings.accumulate * world))))
    return min(limits, default=0)
