"""The published training objective: squared error plus a perceptual loss, and two more that may be added."""

from __future__ import annotations

import dataclasses
import math
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elvsm_core.files.lpips_weights import load_lpips

from ..compilation import fused
from .fast_lpips import FastLpips
from .pixels import pixel_errors
from .vgg import VGG19, read_vgg19

PERCEPTUAL_WEIGHTS = (1.0, 1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""Weights of the pixels' and the five features' differences."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the terms; a term of weight 0 is not computed and needs no files.

    perceptual: the VGG19 loss. lpips: LPIPS v0.1 on VGG16. repa: the alignment loss of training/losses/repa.py. edge:
    the error of image gradients.
    """

    mse: float = 1.0
    perceptual: float = 0.5
    lpips: float = 0.0
    repa: float = 0.5
    edge: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"LossConfig.{field.name} must be a number of at least 0, got {value}")


@dataclasses.dataclass(frozen=True)
class LossValues:
    """The terms of one batch, scalars before weighting, and their weighted sum.

    total: what is minimised, the only one with a gradient. psnr: of the whole batch's squared error, dB. A
    term that is switched off is 0.
    """

    total: Tensor
    mse: Tensor
    psnr: Tensor
    perceptual: Tensor
    lpips: Tensor
    repa: Tensor

    def scalars(self) -> dict[str, float]:
        """Return everything as numbers, and two terms relative to the squared error."""
        names = [field.name for field in dataclasses.fields(self)]
        stacked = torch.stack([getattr(self, name).detach().float() for name in names])
        values = dict(zip(names, stacked.tolist(), strict=True))
        error = max(values["mse"], 1e-12)
        return values | {
            "norm_perceptual": values["perceptual"] / error,
            "norm_lpips": values["lpips"] / error,
        }


def perceptual_terms(vgg: VGG19, a: Tensor, b: Tensor) -> list[Tensor]:
    """Return the mean absolute differences of the pixels (0 to 255) and of the five features.

    a, b [n, 3, H, W] in [0, 1], H and W at least 16. Gradients flow into a only.
    """
    pixels_a = vgg.pixels(a)
    with torch.no_grad():
        pixels_b = vgg.pixels(b)
        features_b = vgg(pixels_b)
    terms = [(pixels_a - pixels_b).abs().mean()]
    for x, y in zip(vgg(pixels_a), features_b, strict=True):
        terms.append((x.float() - y.float()).abs().mean())
    return terms


def perceptual_loss(vgg: VGG19, a: Tensor, b: Tensor) -> Tensor:
    """Return the published perceptual loss, a scalar; see `perceptual_terms`."""
    terms = perceptual_terms(vgg, a, b)
    return torch.stack([w * term for w, term in zip(PERCEPTUAL_WEIGHTS, terms, strict=True)]).sum() / 255


class Objective(nn.Module):
    """Compute the training objective.

    Holds frozen networks, none of which belongs into the model's checkpoint. vgg_weights: see
    vgg.read_vgg19; lpips_weights: see elvsm_core.metrics.lpips. Both are only read when their term has a
    weight; WeightFileError or MetricError say what is missing and where to get it.
    """

    def __init__(
        self,
        config: LossConfig,
        vgg_weights: str | os.PathLike[str] | None = None,
        lpips_weights: str | os.PathLike[str] | None = None,
        lpips_targets: int = 0,
    ) -> None:
        """lpips_targets: how many of a sample's targets LPIPS looks at, 0 for all."""
        super().__init__()
        self.config, self.lpips_targets = config, lpips_targets
        self.vgg = VGG19(read_vgg19(vgg_weights)) if config.perceptual else None
        self.lpips = FastLpips(load_lpips("vgg", lpips_weights)) if config.lpips else None

    def forward(
        self,
        rendering: Tensor,
        target: Tensor,
        repa: Tensor | None = None,
        lpips: bool = True,
        *,
        weight: Tensor | None = None,
        precise: Tensor | None = None,
        lpips_targets: int | None = None,
    ) -> LossValues:
        """Compare rendering [b, M, 3, H, W] with target [b, M, 3 or 4, H, W], both in [0, 1].

        Alpha is dropped. repa: the alignment loss of the same batch, a scalar, where it is used. lpips: False leaves
        LPIPS out this time. weight, precise: of the squared error in `total`, see pixels.py; `mse` is the plain one.
        lpips_targets: instead of the constructor's. Raises ValueError when the shapes differ.
        """
        a, b = rendering.float(), target[:, :, :3].float()
        if a.shape != b.shape:
            raise ValueError(f"rendering has shape {list(rendering.shape)}, target {list(target.shape)}")
        zero = a.new_zeros(())
        if weight is None and self.config.edge == 0:
            mse = error = F.mse_loss(a, b)
            edges = zero
        else:
            mse, error, edges = fused(pixel_errors, a.is_cuda)(a, b, weight, precise)
        flat = a.flatten(0, 1), b.flatten(0, 1)
        perceptual = perceptual_loss(self.vgg, *flat) if self.vgg is not None else zero
        distance = zero
        if self.lpips is not None and lpips:
            views = (self.lpips_targets if lpips_targets is None else lpips_targets) or a.shape[1]
            distance = self.lpips(a[:, :views].flatten(0, 1), b[:, :views].flatten(0, 1))
        alignment = zero if repa is None else repa
        c = self.config
        total = (
            c.mse * error
            + c.perceptual * perceptual
            + c.lpips * distance
            + c.repa * alignment
            + c.edge * edges
        )
        parts = (mse, -10 * torch.log10(mse.detach()), perceptual, distance, alignment)
        return LossValues(total, *(part.detach() for part in parts))
