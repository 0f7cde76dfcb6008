"""Samples of few fixed shapes out of drawn scenes, with exact depth and visibility of every target pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..procedural.scenes import SceneBatch
from ..settings import BatchShape, SamplingSettings
from .camera_augmentation import photograph
from .recipe import Sample, choose_views, disturb, drift, place_in_frame, place_in_frame_like
from .visibility import seen_by_inputs


def shaped_sample(
    scenes: SceneBatch, shape: BatchShape, settings: SamplingSettings, generator: torch.Generator
) -> Sample:
    """Turn scenes into a sample of a shape. generator: on the scenes' device.

    Targets are windows of what their cameras see, each at a place of its own: cameras with a shifted principal point.
    """
    c2w, device = scenes.c2w, scenes.c2w.device
    b, views = c2w.shape[:2]
    n = shape.inputs
    u = torch.rand(b, views + 3 + 4, device=device, generator=generator)
    chosen = torch.cat(choose_views(b, views, n, shape.targets, settings.between, u[:, 4:]), 1)
    rows = torch.arange(b, device=device)[:, None]
    # What the model is told: poses that drift, and that are wrong for some scenes' inputs.
    told = drift(c2w, *settings.pose_drift, settings.drift_share, generator)
    placed, scale = place_in_frame(told, chosen, settings, u[:, :4])
    noisy = disturb(told, *settings.pose_noise, settings.noisy_share, generator)
    precise = (noisy - told).abs().amax((1, 2, 3)) == 0
    source = place_in_frame_like(placed, told, noisy, chosen)
    factor = scenes.images.shape[-1] // shape.size[1]
    images = scenes.images[rows, chosen].float() / 255
    k = scenes.fxfycxcy[rows, chosen]
    depth = scenes.depth[rows, chosen]
    if factor > 1:
        images = F.avg_pool2d(images.flatten(0, 1), factor).unflatten(0, (b, -1))
        k = k / factor
        depth = depth[..., factor // 2 :: factor, factor // 2 :: factor]
    if settings.camera > 0:
        images = photograph(images, k, n, settings.camera, generator)
    truth, target_k, target_depth = _windows(images[:, n:], k[:, n:], depth[:, n:], shape.crop, generator)
    true = c2w[rows, chosen]
    seen = seen_by_inputs(
        target_depth.contiguous(),
        true[:, n:].contiguous(),
        target_k.contiguous(),
        depth[:, :n],
        true[:, :n],
        k[:, :n],
    )
    parts = (images[:, :n], source[:, :n], k[:, :n], truth, placed[:, n:], target_k)
    # Nothing is a view: compiled functions would be compiled again for each layout.
    return Sample(
        *(part.contiguous() for part in parts),
        target_depth * scale[:, None, None, None],
        seen,
        precise,
        shape.lpips,
    )


def _windows(
    images: Tensor, k: Tensor, depth: Tensor, crop: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a window of size crop out of each image [b, M, 3, H, W] and depth [b, M, H, W], and shift its camera k."""
    b, m, _, height, width = images.shape
    depth = depth.float()
    if crop == (height, width):
        return images, k, depth
    u = torch.rand(2, b, m, device=images.device, generator=generator)
    top = (u[0] * (height - crop[0] + 1)).long().clamp(max=height - crop[0])
    left = (u[1] * (width - crop[1] + 1)).long().clamp(max=width - crop[1])
    y = top[..., None] + torch.arange(crop[0], device=images.device)
    x = left[..., None] + torch.arange(crop[1], device=images.device)
    index = (y[..., :, None] * width + x[..., None, :]).flatten(2)
    picked = images.flatten(3).gather(3, index[:, :, None].expand(-1, -1, 3, -1)).reshape(b, m, 3, *crop)
    shift = torch.stack([torch.zeros_like(u[0]), torch.zeros_like(u[0]), left.float(), top.float()], -1)
    return picked, k - shift, depth.flatten(2).gather(2, index).reshape(b, m, *crop)
