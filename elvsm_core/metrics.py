"""Image metrics as the published evaluation computes them."""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor

from .files.lpips_weights import MetricError, load_lpips

__all__ = ["MetricError", "lpips", "psnr", "ssim"]


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f"expected two tensors [n, 3, H, W] of one shape, got {list(a.shape)}, {list(b.shape)}"
        )


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair, dB; identical images give infinity.

    a, b [n, 3, H, W] in [0, 1], values outside are clamped. Returns [n]. Raises ValueError for other shapes.
    """
    _check(a, b)
    error = (a.float().clamp(0, 1) - b.float().clamp(0, 1)).square().mean((1, 2, 3))
    return -10 * torch.log10(error)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of each pair.

    a, b [n, 3, H, W] in [0, 1], at least 11x11 pixels, not clamped. Returns [n]. Gaussian window of 11 pixels
    (sigma 1.5), K1 0.01, K2 0.03, sample covariance (N/(N-1), N = 121), mean over the image without a border
    of 5 pixels: scikit-image's structural_similarity as the published evaluation calls it. Raises ValueError for
    other shapes and smaller images.
    """
    _check(a, b)
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs images of at least 11x11 pixels, got {a.shape[-1]}x{a.shape[-2]}")
    # float64: variances of nearly constant windows cancel in float32.
    a, b = a.double(), b.double()
    offsets = torch.arange(-5, 6, device=a.device, dtype=a.dtype)
    window = torch.exp(-0.5 * (offsets / 1.5).square())
    window = window / window.sum()

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x.flatten(0, 1).unsqueeze(1), window.view(1, 1, 1, 11))
        return F.conv2d(x, window.view(1, 1, 11, 1)).unflatten(0, (a.shape[0], a.shape[1])).squeeze(2)

    mean_a, mean_b = blur(a), blur(b)
    unbiased = 121 / 120
    var_a = unbiased * (blur(a * a) - mean_a * mean_a)
    var_b = unbiased * (blur(b * b) - mean_b * mean_b)
    covariance = unbiased * (blur(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    score = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a * mean_a + mean_b * mean_b + c1) * (var_a + var_b + c2)
    )
    return score.mean((1, 2, 3)).float()


def lpips(
    a: Tensor, b: Tensor, net: str = "vgg", weights: str | os.PathLike[str] | None = None, batch: int = 8
) -> Tensor:
    """Return the perceptual distance LPIPS v0.1 of each pair, computed by the `lpips` package in float32.

    a, b [n, 3, H, W] in [0, 1], at least 16x16 pixels ("alex": 31x31); gradients flow into both. b may be a single
    image [1, 3, H, W] that all of a are compared with, which takes less time than n copies. Returns [n] on their
    device. net: "vgg", as the published evaluation, or "alex". weights: a file or a folder; without it
    $ELVSM_LPIPS_WEIGHTS, then $ELVSM_TEST_DATA/lpips (see lpips_weights.find_weights). batch: pairs at a time.

    Raises MetricError where the package or the weights are missing, saying where to get them, and ValueError for
    other shapes and smaller images.
    """
    alone = len(b) == 1
    _check(a, b.expand(len(a), -1, -1, -1) if alone and b.ndim == 4 else b)
    network = load_lpips(net, weights, a.device)
    smallest = 16 if net == "vgg" else 31
    if min(a.shape[-2:]) < smallest:
        raise ValueError(
            f"LPIPS ({net}) needs images of at least {smallest}x{smallest} pixels, got "
            f"{a.shape[-1]}x{a.shape[-2]}"
        )
    with torch.autocast(a.device.type, enabled=False):
        parts = a.float().split(batch)
        pairs = zip(parts, [b.float()] * len(parts) if alone else b.float().split(batch), strict=True)
        distances = [network(x, y, normalize=True).flatten() for x, y in pairs]
    return torch.cat(distances)
