"""What a render has to beat, and how pictures are compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import elvsm_core as ec
from elvsm_ros.conversions import RGB

PSNR_LIMIT = 100.0
"""dB that stand for identical pictures: files of results cannot hold infinity."""


@dataclasses.dataclass(frozen=True)
class Quality:
    """How close a picture is to the truth: PSNR (dB), SSIM, LPIPS; None where it could not be computed."""

    psnr: float
    ssim: float | None
    lpips: float | None


def to_tensor(images: Sequence[RGB]) -> Tensor:
    """Return uint8 RGB images [H, W, 3] of one size as float32 [n, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def to_rgb(image: Tensor) -> RGB:
    """Return a float image [3, H, W] in [0, 1] as uint8 RGB [H, W, 3]."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def psnr(image: RGB, truth: RGB) -> float:
    """Return the PSNR of two uint8 images, dB, at most PSNR_LIMIT."""
    return min(PSNR_LIMIT, float(ec.metrics.psnr(to_tensor([image]), to_tensor([truth]))[0]))


class Metrics:
    """PSNR, SSIM and LPIPS as far as they can be computed here.

    lpips: "vgg", "alex" or "no". size: (height, width) of the images, pixels. `missing` tells which metric is
    left out and why, "" if none is.
    """

    def __init__(self, lpips: str, size: tuple[int, int]):
        self._lpips: str | None = None if lpips == "no" else lpips
        self._ssim = min(size) >= 11
        self.missing = "" if self._ssim else "SSIM needs images of at least 11x11 pixels"
        if self._lpips is not None:
            try:
                blank = torch.zeros(1, 3, *size)
                ec.metrics.lpips(blank, blank, self._lpips)
            except ValueError as error:  # no weights, no package, or images too small
                self._lpips = None
                self.missing = f"LPIPS is left out: {error}"

    @torch.inference_mode()
    def compare(self, images: Sequence[RGB], truth: RGB) -> list[Quality]:
        """Compare images with the truth, all uint8 RGB [H, W, 3] of one size."""
        a, alone = to_tensor(images), to_tensor([truth])
        b = alone.expand_as(a)
        psnrs = ec.metrics.psnr(a, b).clamp(max=PSNR_LIMIT).tolist()
        ssims = ec.metrics.ssim(a, b).tolist() if self._ssim else [None] * len(a)
        lpips = ec.metrics.lpips(a, alone, self._lpips).tolist() if self._lpips else [None] * len(a)
        return [Quality(*values) for values in zip(psnrs, ssims, lpips, strict=True)]


def rotation_warp(images: Tensor, source: ec.Camera, target: ec.Camera) -> Tensor:
    """Show what the target camera would see if everything were infinitely far away.

    images [n, 3, h, w] of the source camera. Returns [n, 3, H, W]: the infinite homography K R K⁻¹, bilinear;
    what the source did not see gets the colour at its border.
    """
    R_source_target = source.T_world_cam[:3, :3].T @ target.T_world_cam[:3, :3]
    u, v = np.meshgrid(np.arange(target.width) + 0.5, np.arange(target.height) + 0.5)
    rays = np.stack([(u - target.cx) / target.fx, (v - target.cy) / target.fy, np.ones_like(u)], -1)
    x, y, z = np.moveaxis(rays @ R_source_target.T, -1, 0)
    z = np.maximum(z, 1e-3)  # behind the source: far outside of its image, on the right side
    grid = np.stack(
        [
            2 * (x / z * source.fx + source.cx) / source.width - 1,
            2 * (y / z * source.fy + source.cy) / source.height - 1,
        ],
        -1,
    ).clip(-10, 10)
    where = torch.from_numpy(grid).float().expand(len(images), -1, -1, -1)
    return F.grid_sample(images.float(), where, "bilinear", "border", align_corners=False)


def warped(image: RGB, source: ec.Camera, target: ec.Camera) -> RGB:
    """Do `rotation_warp` with one uint8 RGB image [h, w, 3]."""
    return to_rgb(rotation_warp(to_tensor([image]), source, target)[0])


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is there, None when nothing is."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return float(np.mean(known)) if known else None
