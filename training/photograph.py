"""What a camera does to a picture beyond geometry: metering, vignetting, contrast, saturation.

Rendered scenes have one exposure and a gentle tone; phones and head-mounted cameras meter each view by what is in it,
and their pictures are contrasty and vivid. The limits below are wide: a model that has seen them all needs no tuning.
"""

from __future__ import annotations

import torch
from torch import Tensor

METERING = 0.7  # of the way to the same mean brightness in all views
ERROR = 0.05  # standard deviation of an input's exposure, log of displayed values
VIGNETTE = 0.3  # darker by this share at half a diagonal from the principal point
SATURATION = (0.7, 1.6)


def photograph(
    images: Tensor, fxfycxcy: Tensor, inputs: int, share: float, generator: torch.Generator
) -> Tensor:
    """Take a share of the scenes with another camera: images [b, n, 3, H, W] and result float32 in [0, 1].

    fxfycxcy [b, n, 4] pixels. The first `inputs` views get exposure errors, too: what nobody could know of a target is
    no part of it. generator: on the images' device.
    """
    b, n, _, height, width = images.shape
    device = images.device
    u = torch.rand(b, 5, 1, 1, 1, 1, device=device, generator=generator).unbind(1)
    error = ERROR * torch.randn(b, n, 1, 1, 1, device=device, generator=generator)
    error[:, inputs:] = 0
    mean = images.mean((2, 3, 4), keepdim=True).clamp_min(0.02)
    gain = (mean.mean(1, keepdim=True) / mean) ** (METERING * u[1])
    gain = gain.clamp(0.6, 1.6) * error.exp()
    x = torch.arange(width, device=device) + 0.5 - fxfycxcy[..., 2, None, None, None]
    y = (torch.arange(height, device=device) + 0.5)[:, None] - fxfycxcy[..., 3, None, None, None]
    radius = (x * x + y * y) * (4 / (height**2 + width**2))
    out = (images * gain * (1 - VIGNETTE * u[2] ** 2 * radius)).clamp(0, 1)
    out = out.lerp(out * out * (3 - 2 * out), u[3].expand_as(out))  # darks and lights apart
    grey = out.mean(2, keepdim=True)
    low, high = SATURATION
    out = (grey + (low + (high - low) * u[4]) * (out - grey)).clamp(0, 1)
    return torch.where(u[0] < share, out, images)
