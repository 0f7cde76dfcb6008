"""REPA in the training loop: taps of the model, features of the frozen network, the projectors' loss."""

from __future__ import annotations

import torch
from torch import Tensor

import elvsm_core as ec

from ..sampling.recipe import Sample
from ..settings import RepaSettings
from .repa import DinoEncoder, Repa, Stream, TokenTap, load_dino, parse_mapping


class Aligner:
    """Computes the alignment loss of the batch that the model has just run on. `projectors` is to be trained, too.

    encoder: the frozen network, read from settings.file where it is not given. Raises RepaError where its weights are
    missing, saying where to get them, and for a mapping that does not fit the two networks.
    """

    def __init__(
        self,
        settings: RepaSettings,
        model: ec.EfficientLVSM,
        seed: int,
        device: torch.device,
        encoder: DinoEncoder | None = None,
    ) -> None:
        self.encoder = encoder if encoder is not None else load_dino(settings.network, settings.file)
        self.encoder.to(device)
        self.links = parse_mapping(settings.mapping, self.encoder.layers, model.config.layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # all ranks start alike
            self.projectors = Repa(self.links, model.config.width, self.encoder.channels, settings.loss)
        self.projectors.to(device)
        self.patch_size = model.config.patch_size
        self.tap = TokenTap(model, self.links)

    @property
    def tapped(self) -> set[tuple[Stream, int]]:
        """Blocks of the model (stream, number from 1) whose tokens are used."""
        return {(link.stream, link.layer) for link in self.links}

    def __call__(self, sample: Sample) -> Tensor:
        """Return the loss, a scalar, for the model's last run, which was on this sample."""
        grid = (sample.size[0] // self.patch_size, sample.size[1] // self.patch_size)
        images: dict[Stream, Tensor] = {"input": sample.images, "target": sample.target_images}
        features: dict[tuple[Stream, int], Tensor] = {}
        for stream, views in images.items():
            layers = sorted({link.dino for link in self.links if link.stream == stream})
            if layers:
                found = self.encoder(views.flatten(0, 1), layers, grid)
                features |= {(stream, layer): tokens for layer, tokens in found.items()}
        return self.projectors(self.tap.take(), features)
