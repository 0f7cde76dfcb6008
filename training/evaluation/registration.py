"""PSNR that forgives small shifts: on real footage poses are off by about a pixel, which no model can know."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shifted_psnr(image: Tensor, target: Tensor, reach: float = 1.0, block: int = 16) -> Tensor:
    """Return the PSNR, dB, [n], of images [n, 3, H, W] in [0, 1] after the best shift of each block of the image.

    reach: the most that a block is shifted along each axis, pixels, in steps of half a pixel. block: side, pixels; what
    is left over at the right and the bottom is not looked at, nor is a border of `reach`.
    """
    n, _, height, width = image.shape
    border = int(-(-reach // 1))
    steps = [k / 2 for k in range(-int(2 * reach), int(2 * reach) + 1)]
    y, x = (torch.arange(size, device=image.device, dtype=torch.float32) + 0.5 for size in (height, width))
    inner = (slice(None), slice(None), slice(border, height - border), slice(border, width - border))
    best: Tensor | None = None
    for down in steps:
        for right in steps:
            v, u = torch.meshgrid((y + down) * 2 / height - 1, (x + right) * 2 / width - 1, indexing="ij")
            grid = torch.stack([u, v], -1).expand(n, -1, -1, -1)
            moved = F.grid_sample(
                image.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
            )
            error = (moved[inner] - target.float()[inner]).square().mean(1, keepdim=True)
            error = F.avg_pool2d(error, block)
            best = error if best is None else torch.minimum(best, error)
    assert best is not None
    return -10 * torch.log10(best.mean((1, 2, 3)).clamp_min(1e-12))
