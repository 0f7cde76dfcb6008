"""The cost of planes: how little keyframes agree there, with each other and with the network's render."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import DetailSettings


def box(x: Tensor, radius: int) -> Tensor:
    """Average x [..., h, w] over squares of 2 radius + 1 pixels; the border is repeated."""
    if radius < 1:
        return x
    side = 2 * radius + 1
    flat = F.pad(x.reshape(1, -1, *x.shape[-2:]), (radius,) * 4, mode="replicate")
    # Sums of shifted rows run at the speed of memory, pooling of small windows does not.
    for dim in (3, 2):
        length = flat.shape[dim] - side + 1
        total = flat.narrow(dim, 0, length) + flat.narrow(dim, 1, length)
        for offset in range(2, side):
            total += flat.narrow(dim, offset, length)
        flat = total
    return flat.mul_(1 / side**2).view(x.shape)


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
    # View by view, so that what is computed stays in a processor's cache.
    by_channel = [view.transpose(0, 1) for view in colours]
    guides = []
    for view in by_channel:
        differs = (view - render[:, None]).abs_().sum(0).mul_(1 / 3)
        guides.append(box(differs, settings.window).clamp_max_(limit))
    guide = torch.stack(guides)
    weight = torch.where(inside, torch.exp(guide * (-1 / settings.doubt)), 0.0)
    total = weight.sum(0)
    share = weight / total.clamp_min(1e-9)
    mean = by_channel[0] * share[0]
    for view, own in zip(by_channel[1:], share[1:], strict=True):
        mean.addcmul_(view, own.expand_as(view))
    spread = torch.zeros_like(total)
    for view, own in zip(by_channel, share, strict=True):
        spread.addcmul_((view - mean).abs_().sum(0), own)
    # With a say of 1 and 0 of two keyframes nothing was compared; with 1 and 1 the spread is half their difference.
    compared = (2 * (1 - share.amax(0))).clamp(0, 1)
    spread = box(spread * (2 / 3), settings.window).clamp_max_(limit)
    between = torch.lerp(torch.full_like(spread, limit), spread, compared)
    from_render = torch.where(total > 0, (guide * share).sum(0), limit)
    return between + settings.guidance * from_render
