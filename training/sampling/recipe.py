"""From drawn scenes to training samples: which views are inputs and targets, and in which frame their poses are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elvsm_core.frame import MODEL_RANGE
from elvsm_core.rays import mean_pose

from ..settings import SamplingSettings
from .camera_augmentation import photograph


@dataclass(frozen=True)
class Sample:
    """b scenes: inputs [b, N, ...] and targets [b, M, ...]; images float32 in [0, 1], poses in model coordinates.

    Of scenes whose geometry is known there are three more. target_depth [b, M, H, W]: along the target's z axis, model
    units. seen bool [b, M, H, W]: an input sees what the pixel shows. precise bool [b]: the inputs' poses are good to
    less than a pixel. lpips: how many targets LPIPS looks at (None: as many as the settings say).
    """

    images: Tensor
    c2w: Tensor
    fxfycxcy: Tensor
    target_images: Tensor
    target_c2w: Tensor
    target_fxfycxcy: Tensor
    target_depth: Tensor | None = None
    seen: Tensor | None = None
    precise: Tensor | None = None
    lpips: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the targets, pixels."""
        return (self.target_images.shape[-2], self.target_images.shape[-1])


def choose_views(
    batch: int, views: int, inputs: int, targets: int, between: float, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose input and target views of walks of `views` poses, [batch, inputs] and [batch, targets] indices.

    All lie in a random stretch of the walk. In a share `between` of the samples its two ends are inputs, so that all
    targets lie between inputs. u: uniform numbers [batch, views + 3].
    """
    needed = inputs + targets
    if needed > views:
        raise ValueError(
            f"{inputs} inputs and {targets} targets need {needed} views per scene, there are {views}"
        )
    length = needed + (u[:, 0] * (views - needed + 1)).floor()
    start = (u[:, 1] * (views - length + 1)).floor()
    index = torch.arange(views, device=u.device)
    inside = (index >= start[:, None]) & (index < (start + length)[:, None])
    rank = u[:, 3:] + 2.0 * ~inside
    ends = (index == start[:, None]) | (index == (start + length - 1)[:, None])
    rank = rank - (ends & (u[:, 2:3] < between)).float() * 2
    order = rank.argsort(1)
    return order[:, :inputs], order[:, inputs:needed]


def place_in_frame(
    c2w: Tensor, chosen: Tensor, settings: SamplingSettings, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Map poses of whole walks c2w [b, V, 4, 4] (metres) to model coordinates, for the chosen views [b, n].

    Some samples get the published normalisation of the chosen views; the others a frame as an online scene has it,
    fixed before the views were known: anchored at any pose of the walk or at the mean of some, with any scale.
    u: uniform numbers [b, 4]. Returns the chosen poses and the scale [b], model units per metre.
    """
    picked = c2w.gather(1, chosen[..., None, None].expand(-1, -1, 4, 4))
    published = mean_pose(picked)
    number = (u[:, 1] * c2w.shape[1]).long().clamp(max=c2w.shape[1] - 1)
    anchor = c2w[torch.arange(len(c2w), device=c2w.device), number]
    other = torch.where((u[:, 2] < 0.5)[:, None, None], anchor, published)
    is_published = u[:, 0] < settings.published
    frame = torch.where(is_published[:, None, None], published, other)
    # A view that looks the other way can leave the mean pose without a direction.
    usable = torch.isfinite(frame).all(-1).all(-1)
    frame = torch.where(usable[:, None, None], frame, anchor)
    local = _inverse(frame)[:, None] @ picked
    extent = local[..., :3, 3].abs().amax((1, 2)).clamp_min(1e-3)
    low, high = settings.reach
    reach = low * (high / low) ** u[:, 3]
    reach = torch.where(is_published, MODEL_RANGE, reach)
    # Turning on the spot: a millimetre must not become the whole range.
    scale = (reach / extent).clamp(max=8.0)
    local[..., :3, 3] *= scale[:, None, None]
    return local, scale


def _inverse(pose: Tensor) -> Tensor:
    rotation = pose[..., :3, :3].transpose(-1, -2)
    out = torch.zeros_like(pose)
    out[..., :3, :3] = rotation
    out[..., :3, 3:] = -rotation @ pose[..., :3, 3:]
    out[..., 3, 3] = 1
    return out


def disturb(c2w: Tensor, degrees: float, metres: float, share: float, generator: torch.Generator) -> Tensor:
    """Add pose errors to a share of the scenes: c2w [b, n, 4, 4]; standard deviations in degrees and metres."""
    b, n = c2w.shape[:2]
    on = (torch.rand(b, 1, 1, device=c2w.device, generator=generator) < share).float()
    turn = torch.randn(b, n, 3, device=c2w.device, generator=generator) * (math.radians(degrees) * on)
    shift = torch.randn(b, n, 3, device=c2w.device, generator=generator) * (metres * on)
    return _moved(c2w, turn, shift)


def drift(c2w: Tensor, degrees: float, metres: float, share: float, generator: torch.Generator) -> Tensor:
    """Let the poses of a share of the walks c2w [b, V, 4, 4] drift away along the walk: errors of neighbours agree.

    degrees, metres: standard deviations of what each step of the walk adds, per axis, of the worst walks; the others
    have anything between a fifth of it and that.
    """
    b, n = c2w.shape[:2]
    u = torch.rand(b, 2, 1, 1, device=c2w.device, generator=generator)
    size = (u[:, 0] < share).float() * (0.2 + 0.8 * u[:, 1])
    steps = torch.randn(b, n, 6, device=c2w.device, generator=generator) * size
    path = steps.cumsum(1)
    return _moved(c2w, path[..., :3] * math.radians(degrees), path[..., 3:] * metres)


def _moved(c2w: Tensor, w: Tensor, shift: Tensor) -> Tensor:
    """Turn poses [b, n, 4, 4] by small rotation vectors [b, n, 3], radians, and shift them in the world."""
    b, n = c2w.shape[:2]
    out = c2w.clone()
    zero = torch.zeros_like(w[..., 0])
    # The exponential to second order: errors are a fraction of a degree.
    skew = torch.stack(
        [zero, -w[..., 2], w[..., 1], w[..., 2], zero, -w[..., 0], -w[..., 1], w[..., 0], zero], -1
    )
    skew = skew.reshape(b, n, 3, 3)
    eye = torch.eye(3, device=c2w.device)
    out[..., :3, :3] = c2w[..., :3, :3] @ (eye + skew + skew @ skew / 2)
    out[..., :3, 3] += shift
    return out


def make_sample(
    images: Tensor,
    c2w: Tensor,
    fxfycxcy: Tensor,
    inputs: int,
    settings: SamplingSettings,
    size: tuple[int, int],
    generator: torch.Generator,
) -> Sample:
    """Turn scenes (images uint8 [b, V, 3, H, W], poses in metres, intrinsics) into a sample of `inputs` views.

    size: (height, width) of the sample's images, cut out of the scenes' at a random place.
    generator: on the scenes' device.
    """
    b, views = c2w.shape[:2]
    u = torch.rand(b, views + 3 + 4, device=c2w.device, generator=generator)
    chosen_inputs, chosen_targets = choose_views(
        b, views, inputs, settings.targets, settings.between, u[:, 4:]
    )
    chosen = torch.cat([chosen_inputs, chosen_targets], 1)
    true, _ = place_in_frame(c2w, chosen, settings, u[:, :4])
    if settings.noisy_share > 0:
        noisy = disturb(c2w, *settings.pose_noise, settings.noisy_share, generator)
        # The errors belong to the inputs; the targets stay where they are in the same frame.
        source = place_in_frame_like(true, c2w, noisy, chosen)
    else:
        source = true
    rows = torch.arange(b, device=c2w.device)[:, None]
    picked = images[rows, chosen]
    k = fxfycxcy[rows, chosen]
    height, width = images.shape[-2:]
    if size != (height, width):
        top = int(torch.randint(height - size[0] + 1, (1,)))
        left = int(torch.randint(width - size[1] + 1, (1,)))
        picked = picked[..., top : top + size[0], left : left + size[1]]
        k = torch.stack([k[..., 0], k[..., 1], k[..., 2] - left, k[..., 3] - top], -1)
    picked = picked.float() / 255
    if settings.camera > 0:
        picked = photograph(picked, k, inputs, settings.camera, generator)
    n = inputs
    return Sample(picked[:, :n], source[:, :n], k[:, :n], picked[:, n:], true[:, n:], k[:, n:])


def place_in_frame_like(placed: Tensor, c2w: Tensor, other: Tensor, chosen: Tensor) -> Tensor:
    """Apply to the poses `other` [b, V, 4, 4] the similarity that took c2w's chosen views to `placed` [b, n, 4, 4]."""
    index = chosen[..., None, None].expand(-1, -1, 4, 4)
    before, moved = c2w.gather(1, index), other.gather(1, index)
    # The relative pose is small; its translation scales with the frame's scale, read off the widest baseline.
    relative = _inverse(before) @ moved
    spread_before = (before[:, :, :3, 3] - before[:, :1, :3, 3]).norm(dim=-1).amax(1)
    spread_after = (placed[:, :, :3, 3] - placed[:, :1, :3, 3]).norm(dim=-1).amax(1)
    scale = spread_after / spread_before.clamp_min(1e-6)
    relative[..., :3, 3] *= scale[:, None, None]
    return placed @ relative
