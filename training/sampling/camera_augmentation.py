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
BRIGHTNESS = (0.25, 0.5)  # mean of a scene's views
CONTRAST = (1.0, 1.8)
SATURATION = (0.8, 2.2)


def photograph(
    images: Tensor, fxfycxcy: Tensor, inputs: int, share: float, generator: torch.Generator
) -> Tensor:
    """Take a share of the scenes with another camera: images [b, n, 3, H, W] and result float32 in [0, 1].

    fxfycxcy [b, n, 4] pixels. The first `inputs` views get exposure errors, too: what nobody could know of a target is
    no part of it. generator: on the images' device.
    """
    b, n, _, height, width = images.shape
    device = images.device
    u = torch.rand(b, 7, 1, 1, 1, 1, device=device, generator=generator).unbind(1)
    error = ERROR * torch.randn(b, n, 1, 1, 1, device=device, generator=generator)
    error[:, inputs:] = 0
    mean = images.mean((2, 3, 4), keepdim=True).clamp_min(0.02)
    middle = mean.mean(1, keepdim=True)
    gain = ((middle / mean) ** (METERING * u[1])).clamp(0.6, 1.6) * error.exp()
    gain = gain * (_between(BRIGHTNESS, u[2]) / middle).clamp(0.5, 2.0)
    x = torch.arange(width, device=device) + 0.5 - fxfycxcy[..., 2, None, None, None]
    y = (torch.arange(height, device=device) + 0.5)[:, None] - fxfycxcy[..., 3, None, None, None]
    radius = (x * x + y * y) * (4 / (height**2 + width**2))
    out = images * gain * (1 - VIGNETTE * u[3] ** 2 * radius)
    out = (0.4 + _between(CONTRAST, u[4]) * (out - 0.4)).clamp(0, 1)
    out = out.lerp(out * out * (3 - 2 * out), u[5].expand_as(out))  # darks and lights apart
    grey = out.mean(2, keepdim=True)
    out = (grey + _between(SATURATION, u[6]) * (out - grey)).clamp(0, 1)
    return torch.where(u[0] < share, out, images)


def _between(limits: tuple[float, float], u: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * u
