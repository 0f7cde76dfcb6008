"""Detail: from the network's render and the keyframes it was made from to a sharp picture with depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .aggregation import aggregate, soft_minimum
from .alignment import Correction, align, corrected, then
from .settings import DetailSettings
from .volume import blur, box, plane_costs
from .warp import View, homographies, nearest_plane, project, project_planes, sample


@dataclasses.dataclass(frozen=True)
class Detail:
    """image [3, H, W] in [0, 1]; depth [H, W] along z, units of the poses; confidence [H, W] in [0, 1]; all float32."""

    image: Tensor
    depth: Tensor
    confidence: Tensor


@dataclasses.dataclass(frozen=True)
class _Level:
    """One resolution: the target's picture by the network, the keyframes of about that resolution, what joins them."""

    render: Tensor
    pictures: Tensor
    H: Tensor
    K: Tensor


@torch.no_grad()
def add_detail(
    pictures: Tensor,
    views: Sequence[View],
    target: View,
    render: Tensor,
    settings: DetailSettings | None = None,
) -> Detail:
    """Return a target's picture with the keyframes' detail where their geometry agrees, the network's elsewhere.

    pictures [V, 3, Hs, Ws] in [0, 1] or uint8, of the keyframes `views`; render [3, h, w] in [0, 1], the network's
    picture of the target at any size. The answer has the target's size. Everything runs on the pictures' device; what
    is computed of one target depends on nothing else.
    """
    s = settings or DetailSettings()
    views, device = list(views), pictures.device
    if pictures.dtype == torch.uint8:
        pictures = pictures.float() / 255
    if tuple(render.shape[-2:]) != target.size:
        render = F.interpolate(render[None], target.size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    nearest = nearest_plane(target, views, s.overlap)
    # Small pictures have fewer levels: the coarsest needs some room for the aggregation's paths.
    largest = max(1, min(target.size) // s.coarsest)
    s = dataclasses.replace(s, coarse=min(s.coarse, largest), fine=min(s.fine, largest))
    coarse, fine, full = (_level(pictures, views, target, render, scale) for scale in (s.coarse, s.fine, 1))
    planes = torch.linspace(0, nearest, s.coarse_planes, device=device)
    r = _search(coarse, planes, s)
    gain = _gains(coarse, r, s)
    coarse, fine, full = (
        dataclasses.replace(one, pictures=one.pictures * gain) for one in (coarse, fine, full)
    )
    r = _search(coarse, planes, s)
    if len(views) > 1:
        correction, r = _aligned(coarse, r, planes, s)
        coarse, fine, full = (_corrected(one, correction) for one in (coarse, fine, full))
    planes = _planes_around(r, nearest, s.fine_planes)
    r = _search(fine, planes, s)
    step = _step(target, views)
    r = _refine(fine, r, s.fine * step, 2, s)
    hidden = _hidden(fine, r, 2.5 * s.fine * step)
    r = _sharpen(full, r, s)
    r = _refine(full, r, 0.75 * step, 1, dataclasses.replace(s, window=1)).clamp(0, nearest)
    colours, inside = sample(full.pictures, *project(full.H, r[None]))
    hidden = F.interpolate(hidden[:, None], target.size, mode="bilinear", align_corners=False)[:, 0]
    return _blend(full, r, colours[:, 0], inside[:, 0] * (1 - hidden), views, target, step, s)


def _level(pictures: Tensor, views: list[View], target: View, render: Tensor, scale: int) -> _Level:
    size = -(-target.size[0] // scale), -(-target.size[1] // scale)
    small = target.resized(size)
    # Keyframes as fine as the target, or they would alias; never finer than they are.
    ratio = min(1.0, max(small.fxfycxcy[0] / view.fxfycxcy[0] for view in views))
    own = max(2, round(pictures.shape[-2] * ratio)), max(2, round(pictures.shape[-1] * ratio))
    if own != tuple(pictures.shape[-2:]):
        pictures = F.interpolate(pictures, own, mode="area")
    if size != tuple(render.shape[-2:]):
        render = F.interpolate(render[None], size, mode="area")[0]
    H = torch.from_numpy(homographies(small, [view.resized(own) for view in views])).float()
    K = torch.from_numpy(np.stack([view.resized(own).matrix for view in views])).float()
    return _Level(render, pictures, *(part.to(pictures.device, non_blocking=True) for part in (H, K)))


def _search(level: _Level, planes: Tensor, s: DetailSettings) -> Tensor:
    """Return the inverse depth [h, w] that suits keyframes, render and neighbours best."""
    size = (int(level.render.shape[-2]), int(level.render.shape[-1]))
    colours, inside = sample(level.pictures, *project_planes(level.H, planes, size))
    costs = plane_costs(colours, inside, level.render, s)
    return soft_minimum(aggregate(costs, level.render, s.smooth, s.jump, s.edge), planes, s.softness)


def _gains(level: _Level, r: Tensor, s: DetailSettings) -> Tensor:
    """Return the factors [V, 3, 1, 1] that give the keyframes the exposure of the network's picture."""
    colours, inside = sample(level.pictures, *project(level.H, r[None]))
    colours, seen = colours[:, 0], inside[:, 0]
    near = (colours - level.render).abs().mean(1) < 2 * s.truncation / 3
    weight = (seen & near)[:, None] * torch.minimum(colours, 1 - colours).clamp(0, 0.1)
    ratio = ((level.render * weight).sum((2, 3)) + 1e-2) / ((colours * weight).sum((2, 3)) + 1e-2)
    return ratio.clamp(1 / s.gain_limit, s.gain_limit)[:, :, None, None]


def _corrected(level: _Level, correction: Correction) -> _Level:
    return dataclasses.replace(level, H=corrected(level.H, level.K, correction))


def _aligned(level: _Level, r: Tensor, planes: Tensor, s: DetailSettings) -> tuple[Correction, Tensor]:
    """Return corrections of the poses, and the inverse depth with them; none where they don't explain much more."""
    count = len(level.H)
    none = torch.eye(3, device=r.device).repeat(count, 1, 1), torch.zeros(count, 3, device=r.device)
    found, better, searched = none, level, r
    for _ in range(s.align_rounds):
        for _ in range(s.align_steps):
            found = then(
                found,
                align(better.pictures, better.H, better.K, level.render, searched, s.doubt, s.stiffness),
            )
            better = _corrected(level, found)
        searched = _search(better, planes, s)
    # Known poses are better than fitted ones, unless the keyframes agree far better with each other afterwards: the
    # render was what they were fitted to, and may be wrong. Chosen without a branch: a GPU need not be waited for.
    accepted = _disagreement(better, searched, s) < s.align_gain * _disagreement(level, r, s)
    R, t = (torch.where(accepted, new, old) for new, old in zip(found, none, strict=True))
    return (R, t), torch.where(accepted, searched, r)


def _disagreement(level: _Level, r: Tensor, s: DetailSettings) -> Tensor:
    """Return the mean variance of the keyframes' colours at inverse depth r."""
    colours, inside = sample(level.pictures, *project(level.H, r[None]))
    colours, inside = colours[:, 0], inside[:, 0]
    share = inside * torch.exp((colours - level.render).abs().mean(1) * (-1 / s.doubt)) + 1e-8
    share = share / share.sum(0)
    mean = (colours * share[:, None]).sum(0)
    return ((colours - mean).square().mean(1) * share).sum(0).mean()


def _planes_around(r: Tensor, nearest: float, count: int) -> Tensor:
    """Return `count` inverse depths, increasing: dense where surfaces are, and some everywhere else."""
    everywhere = torch.linspace(0, nearest, max(2, r.numel() // 4), device=r.device)
    values = torch.cat([r.flatten(), everywhere]).sort().values
    index = torch.linspace(0, len(values) - 1, count, device=r.device).round().long()
    return values[index]


def _hidden(level: _Level, r: Tensor, step: float) -> Tensor:
    """Return [V, h, w], 1 where another surface of the target lies in front of this one in a view, 0 elsewhere."""
    x, y, z = (part[:, 0] for part in project(level.H, r[None]))
    height, width = level.pictures.shape[-2:]
    column, row = x.floor().long(), y.floor().long()
    inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    own = r / z.clamp_min(1e-6)  # inverse depth in the view
    cell = torch.where(inside, row * width + column, height * width).flatten(1)
    front = torch.zeros(len(x), height * width + 1, device=r.device)
    front = front.scatter_reduce(1, cell, own.flatten(1), "amax").gather(1, cell).view_as(own)
    return box((inside & (own < front - 2.5 * step)).float(), 1)


def _step(target: View, views: list[View]) -> float:
    """Return the difference of inverse depths that moves a pixel by one of the target's in the average view."""
    away = np.stack([view.c2w[:3, 3] for view in views]) - target.c2w[:3, 3]
    parallax = target.fxfycxcy[0] * float(np.linalg.norm(away, axis=1).mean())
    return 1 / max(parallax, 1e-9)


def _refine(level: _Level, r: Tensor, step: float, reach: int, s: DetailSettings) -> Tensor:
    """Return r [h, w] moved to the mean of what lies within `reach` steps, weighted by how well it suits."""
    offsets = torch.arange(-reach, reach + 1, device=r.device, dtype=r.dtype)[:, None, None] * step
    colours, inside = sample(level.pictures, *project(level.H, r + offsets))
    weight = torch.softmax(plane_costs(colours, inside, level.render, s) * (-1 / s.softness), 0)
    return r + (weight * offsets).sum(0)


def _sharpen(level: _Level, r: Tensor, s: DetailSettings) -> Tensor:
    """Bring inverse depths [h, w] to full size: every pixel takes its own from where its colour fits best."""
    size, reach = level.render.shape[-2:], s.fine
    smooth = F.interpolate(r[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    padded = F.pad(smooth[None, None], (reach,) * 4, mode="replicate")[0, 0]
    h, w = size
    shifts = ((reach, reach), (0, reach), (2 * reach, reach), (reach, 0), (reach, 2 * reach))
    candidates = torch.stack([padded[top : top + h, left : left + w] for top, left in shifts])
    colours, inside = sample(level.pictures, *project(level.H, candidates))
    costs = plane_costs(colours, inside, level.render, dataclasses.replace(s, window=1))
    costs[1:] += s.softness  # in doubt its own
    return candidates.gather(0, costs.argmin(0, keepdim=True))[0]


def _blend(
    level: _Level,
    r: Tensor,
    colours: Tensor,
    seen: Tensor,
    views: list[View],
    target: View,
    step: float,
    s: DetailSettings,
) -> Detail:
    render = level.render
    away = np.stack([view.c2w[:3, 3] for view in views]) - target.c2w[:3, 3]
    away = np.linalg.norm(away, axis=1)
    near = np.exp(-s.nearness * away / max(float(away.mean()), 1e-12))
    near = torch.from_numpy(near).float().to(render.device, non_blocking=True)[:, None, None]
    differs = blur((colours - render).abs().mean(1), 1.0)
    say = seen * torch.exp(differs * (-1 / s.agreement)) + 1e-8
    compared = (2 * (1 - (say / say.sum(0)).amax(0))).clamp(0, 1)
    share = near * say
    share = share / share.sum(0)
    sharp = (colours * share[:, None]).sum(0)
    spread = blur(((colours - sharp).abs().mean(1) * share).sum(0), 1.0)
    sigma = s.blur * max(render.shape[-2:]) / 256
    far = (blur(sharp, sigma) - blur(render, sigma)).abs().mean(0)
    # Where nothing moves between keyframes and target there is no depth, and no proof; nor with a single keyframe.
    moves = (r > 0.5 * step).float().mean().mul(20).clamp(0, 1) if len(views) > 1 else 0.0
    trust = (s.alone + (1 - s.alone) * compared) * moves
    confidence = torch.exp(-(far / s.tolerance).square() - (spread / s.spread).square()) * trust
    looked = seen.amax(0)
    confidence = confidence * looked
    # Where little of the picture fits, what does fit is mostly chance: wrong poses, say.
    low, high = s.evidence
    fits = confidence.sum() / looked.sum().clamp_min(1)
    confidence = confidence * ((fits - low) / (high - low)).clamp(0, 1)
    # Where keyframes differ from each other nearly as much as from the render, they know little better than it;
    # a grey level more or less is no difference.
    noise = ((colours - sharp).square().mean(1) * share).sum(0)
    change = (sharp - render).square().mean(0)
    noise, change = blur(torch.stack([noise, change]), s.blur_noise)
    low, high = s.noise_limits
    overall = (noise * confidence).sum() / (change * confidence).sum().clamp_min(1e-6)
    confidence = confidence * (1 - s.noise * noise / (change + 255**-2)).clamp(0, 1)
    confidence = confidence * ((high - overall) / (high - low)).clamp(0, 1)
    return Detail(torch.lerp(render, sharp, confidence), 1 / r.clamp_min(0.25 * step), confidence)
