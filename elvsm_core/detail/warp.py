"""Where the pixels of a target lie in the keyframes, at given inverse depths."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

NEAREST = 1e-6
"""Depths below this share of a unit lie behind a keyframe."""


@dataclasses.dataclass(frozen=True)
class View:
    """A pinhole camera: fxfycxcy pixels, c2w 4x4 (OpenCV axes), size (height, width) pixels. Units as the caller's."""

    fxfycxcy: tuple[float, float, float, float]
    c2w: NDArray[np.float64]
    size: tuple[int, int]

    def resized(self, size: tuple[int, int]) -> View:
        """Return the camera of the same picture at another size."""
        sy, sx = size[0] / self.size[0], size[1] / self.size[1]
        fx, fy, cx, cy = self.fxfycxcy
        return View((fx * sx, fy * sy, cx * sx, cy * sy), self.c2w, size)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The 3x3 matrix of intrinsics."""
        fx, fy, cx, cy = self.fxfycxcy
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def homographies(target: View, views: list[View]) -> NDArray[np.float64]:
    """Return [V, 3, 4]: a pixel (u, v) of the target at inverse depth r lies at H (u, v, 1, r) in each view.

    The third component of the result, divided by r, is the depth in the view.
    """
    rows = []
    for view in views:
        relative = np.linalg.inv(view.c2w) @ target.c2w
        rotation = view.matrix @ relative[:3, :3] @ np.linalg.inv(target.matrix)
        rows.append(np.column_stack([rotation, view.matrix @ relative[:3, 3]]))
    return np.stack(rows)


def pixel_grid(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return u [1, W] and v [H, 1] of pixel centres."""
    height, width = size
    u = torch.arange(width, device=device, dtype=torch.float32) + 0.5
    v = torch.arange(height, device=device, dtype=torch.float32) + 0.5
    return u[None], v[:, None]


def project(H: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, y (pixels) and z (depth times r) in each view: [V, D, h, w] each.

    H [V, 3, 4] from `homographies`; r [D, h, w] or [D, 1, 1] inverse depths. Places behind a view get z <= 0.
    """
    u, v = pixel_grid((int(r.shape[-2]), int(r.shape[-1])), r.device)
    return _project(H, u, v, r)


def project_planes(H: Tensor, r: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """`project` for planes r [D], everywhere in a picture of `size` (height, width)."""
    u, v = pixel_grid(size, r.device)
    return _project(H, u, v, r[:, None, None])


def _project(H: Tensor, u: Tensor, v: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Written out: the sums of a matrix product would depend on how many views and planes there are.
    rows = []
    for i in range(3):
        a, b, c, d = (H[:, i, j, None, None] for j in range(4))
        rows.append((a * u + b * v + c)[:, None] + d[:, None] * r)
    x, y, z = rows
    inverse = 1 / z.clamp_min(NEAREST)
    return x * inverse, y * inverse, z


def sample(images: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the views' colours [V, D, C, h, w] at x, y [V, D, h, w], and where they look at all, [V, D, h, w].

    images [V, C, H, W]. Bilinear; z from `project`.
    """
    count, channels, height, width = images.shape
    planes, h, w = x.shape[1:]
    inside = (z > NEAREST) & (x >= 0.5) & (x <= width - 0.5) & (y >= 0.5) & (y <= height - 0.5)
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], -1).view(count, planes * h, w, 2)
    colours = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return colours.view(count, channels, planes, h, w).transpose(1, 2), inside


def nearest_plane(target: View, views: list[View], overlap: float, steps: int = 12) -> float:
    """Return the largest inverse depth at which two views see a share `overlap` of the target's picture.

    In inverse units of the poses. It is never nearer than where the average view has a parallax of the picture's
    width: with less of a baseline, views overlap in front of the lens. Half of that with a single view, or where no
    two look there at any depth; 0 where all centres coincide.
    """
    centres = np.stack([view.c2w[:3, 3] for view in views]) - target.c2w[:3, 3]
    away = float(np.linalg.norm(centres, axis=1).mean())
    if away <= 1e-9 * max(1.0, float(np.abs(target.c2w[:3, 3]).max())):
        return 0.0
    height, width = target.size
    u, v = np.meshgrid((np.arange(steps) + 0.5) / steps * width, (np.arange(steps) + 0.5) / steps * height)
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(steps * steps)])
    H = homographies(target, views)
    most = width / (target.fxfycxcy[0] * away)
    # An eighth of an octave apart, down to a parallax of a thirty-second of the picture.
    candidates = most * 2.0 ** np.arange(0, -5.01, -0.125)
    points = (H[:, :, :3] @ pixels)[:, None] + candidates[None, :, None, None] * H[:, None, :, 3, None]
    x, y, z = np.moveaxis(points, 2, 0)
    sizes = np.array([view.size for view in views])[:, :, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = x / z, y / z
    seen = (z > 0) & (x > 0) & (x < sizes[:, 1]) & (y > 0) & (y < sizes[:, 0])
    enough = (seen.sum(0) >= 2).mean(-1) >= overlap
    return float(candidates[enough.argmax()]) if enough.any() else 0.5 * most
