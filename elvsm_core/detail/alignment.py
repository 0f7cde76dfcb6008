"""Small corrections of the keyframes' poses: Gauss-Newton on their difference from the network's render."""

from __future__ import annotations

import torch
from torch import Tensor

from .warp import project, sample

Correction = tuple[Tensor, Tensor]
"""Rotations [V, 3, 3] and translations [V, 3]: a point X of a view lies at R X + t in it."""


def align(
    pictures: Tensor, H: Tensor, K: Tensor, render: Tensor, r: Tensor, doubt: float, stiffness: float
) -> Correction:
    """Return the step that brings each keyframe nearer to the render, given the inverse depth r [h, w].

    pictures [V, 3, h', w'], H [V, 3, 4] and intrinsics K [V, 3, 3] of one level; render [3, h, w]. Pixels that differ
    by much more than `doubt` have little say. stiffness: share of the pixels' weight that holds the pose where it is.
    Forward-additive Gauss-Newton as in Engel et al., Direct Sparse Odometry (PAMI 2018), without its depths.
    """
    x, y, z = project(H, r[None])
    gradient = torch.zeros_like(pictures), torch.zeros_like(pictures)
    gradient[0][..., 1:-1] = 0.5 * (pictures[..., 2:] - pictures[..., :-2])
    gradient[1][..., 1:-1, :] = 0.5 * (pictures[..., 2:, :] - pictures[..., :-2, :])
    stack, inside = sample(torch.cat([pictures, *gradient], 1), x, y, z)
    colours, gx, gy = stack[:, 0].split(3, 1)
    error = colours - render
    differs = error.abs().mean(1)
    weight = inside[:, 0] * torch.exp(differs * (-1 / doubt))
    fx, fy = K[:, 0, 0, None, None], K[:, 1, 1, None, None]
    a, b = (x[:, 0] - K[:, 0, 2, None, None]) / fx, (y[:, 0] - K[:, 1, 2, None, None]) / fy
    own = r / z[:, 0].clamp_min(1e-6)  # inverse depth in the view
    zero = torch.zeros_like(a)
    # A parallax is measured in the mean inverse depth, so that the translation's unit is the rotation's.
    scale = (own * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-6)
    near = own / scale.clamp_min(1e-9)[:, None, None]
    along_x = torch.stack([-a * b, 1 + a * a, -b, near, zero, -a * near], 1) * fx[:, None]
    along_y = torch.stack([-1 - b * b, a * b, a, zero, near, -b * near], 1) * fy[:, None]
    J = gx[:, :, None] * along_x[:, None] + gy[:, :, None] * along_y[:, None]
    J = J.flatten(3).transpose(1, 2).flatten(2)
    weight, error = weight[:, None].expand_as(error).flatten(1), error.flatten(1)
    A = (J * weight[:, None]) @ J.transpose(1, 2)
    g = (J * weight[:, None]) @ error[..., None]
    strength = A.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * stiffness
    eye = torch.eye(6, device=A.device) * (strength + 1e-6)
    step = torch.linalg.solve(A + eye, -g)[..., 0].clamp(-0.05, 0.05)
    return rotation(step[:, :3]), step[:, 3:] / scale.clamp_min(1e-9)[:, None]


def rotation(w: Tensor) -> Tensor:
    """Return the rotations [V, 3, 3] by the vectors w [V, 3], radians."""
    zero = torch.zeros_like(w[:, 0])
    x, y, z = w.unbind(1)
    return torch.linalg.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3))


def then(first: Correction, second: Correction) -> Correction:
    """Return the correction that does one after the other."""
    (R, t), (R2, t2) = first, second
    return R2 @ R, (R2 @ t[..., None])[..., 0] + t2


def corrected(H: Tensor, K: Tensor, correction: Correction) -> Tensor:
    """Return H [V, 3, 4] of views with intrinsics K after a correction."""
    R, t = correction
    out = K @ R @ torch.linalg.inv(K) @ H
    out[:, :, 3] += (K @ t[..., None])[..., 0]
    return out
