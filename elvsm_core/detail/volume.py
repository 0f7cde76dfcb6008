"""The cost of planes: how little keyframes agree there, with each other and with the network's render."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import DetailSettings


def box(x: Tensor, radius: int) -> Tensor:
    """Average x [..., h, w] over squares of 2 radius + 1 pixels, cut off at the border."""
    if radius < 1:
        return x
    flat, side = x.reshape(-1, 1, *x.shape[-2:]), 2 * radius + 1
    flat = F.avg_pool2d(flat, (1, side), 1, (0, radius), count_include_pad=False)
    return F.avg_pool2d(flat, (side, 1), 1, (radius, 0), count_include_pad=False).view(x.shape)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur x [..., h, w] with a Gaussian, standard deviation in pixels; the border is repeated."""
    radius = max(1, round(2.5 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    window = torch.exp(-0.5 * (offsets / sigma).square())
    window = window / window.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), window.view(1, 1, 1, -1))
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), window.view(1, 1, -1, 1))
    return flat.view(x.shape)


def plane_costs(colours: Tensor, inside: Tensor, render: Tensor, settings: DetailSettings) -> Tensor:
    """Return how unlikely a surface is at each plane, [D, h, w].

    colours [V, D, 3, h, w] and inside [V, D, h, w] from `sample`; render [3, h, w]: the network's picture. A keyframe
    whose colour is far from the render has little say, as something else is in front of what it sees there; so the
    cost takes a sum over the keyframes and not over their pairs.
    """
    limit = settings.truncation
    guide = (colours - render).abs().mean(2)
    guide = box(guide, settings.window).clamp_max(limit)
    weight = torch.where(inside, torch.exp(guide * (-1 / settings.doubt)), 0.0)
    total = weight.sum(0)
    share = weight / total.clamp_min(1e-9)
    mean = (colours * share[:, :, None]).sum(0)
    spread = ((colours - mean).abs().mean(2) * share).sum(0)
    # With a say of 1 and 0 of two keyframes nothing was compared; with 1 and 1 the spread is half their difference.
    compared = (2 * (1 - share.amax(0))).clamp(0, 1)
    spread = (2 * box(spread, settings.window)).clamp_max(limit)
    between = torch.lerp(torch.full_like(spread, limit), spread, compared)
    from_render = torch.where(total > 0, (guide * share).sum(0), limit)
    return between + settings.guidance * from_render
