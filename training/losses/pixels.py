"""Errors of rendered pixels, weighted by what could be known of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_errors(
    image: Tensor, target: Tensor, weight: Tensor | None = None, precise: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return three scalars: squared error, weighted squared error, error of the differences of neighbouring pixels.

    image, target [b, M, 3, H, W]; weight [b, M, H, W], of which only the ratios matter (None: 1). precise bool [b]:
    scenes whose poses are good; the others' weighted error is that of pictures of half the size, because where an edge
    is to a pixel cannot be known there. The third is taken at two scales, and weighted as well: flat colours alone
    don't make it small.
    """
    error = image - target
    plain = error.square().mean()
    if weight is None:
        weight = torch.ones_like(error[:, :, 0])
    mean = weight.mean().clamp_min(1e-6)
    flat, weights = error.flatten(0, 1), weight.flatten(0, 1)[:, None]
    small, light = F.avg_pool2d(flat, 2), F.avg_pool2d(weights, 2)
    fine = _by_scene(flat.square() * weights, image.shape[0])
    coarse = _by_scene(small.square() * light, image.shape[0])
    chosen = fine if precise is None else torch.where(precise, fine, coarse)
    edges = _edges(flat, weights) + _edges(small, light)
    return plain, chosen.mean() / mean, edges / mean


def _by_scene(x: Tensor, scenes: int) -> Tensor:
    return x.reshape(scenes, -1).mean(1)


def _edges(error: Tensor, weight: Tensor) -> Tensor:
    across = (error.diff(dim=-1).square() * weight[..., 1:]).mean()
    return across + (error.diff(dim=-2).square() * weight[..., 1:, :]).mean()


def geometry_errors(
    log_depth: Tensor, seen_logit: Tensor, depth: Tensor, seen: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the depth head's mean absolute error of log depth, weighted, and the confidence head's cross entropy.

    All [b, M, H, W]; depth in model units, seen bool.
    """
    difference = (log_depth - depth.clamp_min(1e-4).log()).abs()
    return (difference * weight).mean() / weight.mean().clamp_min(1e-6), F.binary_cross_entropy_with_logits(
        seen_logit, seen.float()
    )
