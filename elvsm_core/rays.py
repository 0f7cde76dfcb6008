"""Rays of pixels, and the published normalisation of poses. Axes and pixel centres as in `cameras.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from .cameras import CameraError


def compute_rays(
    c2w: Tensor, fxfycxcy: Tensor, size: tuple[int, int], bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the origin and the unit direction of every pixel's ray.

    c2w [..., 4, 4] camera-to-world; fxfycxcy [..., 4] pixels; size (H, W) pixels. Returns two tensors
    [..., 3, H, W], float32 whatever autocast says (bfloat16 rays are off by up to a pixel).
    bf16 rounds directions, rotations and their products as bfloat16 autocast does on CUDA, which is what the
    published weights were trained and evaluated with.
    """
    height, width = size
    with torch.autocast(c2w.device.type, enabled=False):
        c2w, fxfycxcy = c2w.float(), fxfycxcy.float()
        fx, fy, cx, cy = fxfycxcy[..., None, None].unbind(-3)
        u = torch.arange(width, device=c2w.device, dtype=torch.float32) + 0.5
        v = torch.arange(height, device=c2w.device, dtype=torch.float32)[:, None] + 0.5
        x, y = torch.broadcast_tensors((u - cx) / fx, (v - cy) / fy)
        rotation = c2w[..., :3, :3]
        if bf16:
            x, y, rotation = (t.bfloat16().float() for t in (x, y, rotation))
        # Written out, because a matrix product would be rounded to TF32 where that is allowed.
        r0, r1, r2 = rotation[..., None, None].unbind(-3)
        directions = r0 * x.unsqueeze(-3) + r1 * y.unsqueeze(-3) + r2
        if bf16:
            directions = directions.bfloat16().float()
        directions = directions / directions.norm(dim=-3, keepdim=True)
        origins = c2w[..., :3, 3, None, None].expand_as(directions)
    return origins, directions


def mean_pose(c2w: Tensor) -> Tensor:
    """Return the average pose [..., 4, 4] of c2w [..., V, 4, 4]: mean centre, mean forward and down axes.

    The published definition: forward is the normalised mean of the z axes; right is down x forward, with down
    the mean of the y axes; down is forward x right.
    """
    centre = c2w[..., :3, 3].mean(-2)
    forward = torch.nn.functional.normalize(c2w[..., :3, 2].mean(-2), dim=-1)
    down = c2w[..., :3, 1].mean(-2)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=-1)
    down = torch.nn.functional.normalize(torch.linalg.cross(forward, right), dim=-1)
    pose = torch.zeros_like(c2w[..., 0, :, :])
    pose[..., :3, :] = torch.stack([right, down, forward, centre], dim=-1)
    pose[..., 3, 3] = 1
    return pose


def normalize_poses(c2w: Tensor, scale_factor: float = 1.35) -> Tensor:
    """Normalise the poses of one sample as the published training and evaluation do.

    c2w [..., V, 4, 4] camera-to-world, all views of a sample, inputs and targets together. The result is
    relative to their mean pose, with the largest absolute coordinate of a camera centre 1/scale_factor.
    Same shape and dtype.

    Raises CameraError where all camera centres coincide or opposite views cancel out: the published formula
    divides by zero there, and the sample has to be left out or given a scale of its own.
    """
    local = torch.linalg.inv(mean_pose(c2w)).unsqueeze(-3) @ c2w
    extent = local[..., :3, 3].abs().amax((-1, -2))
    if not bool((torch.isfinite(extent) & (extent > 1e-9)).all()):
        raise CameraError(
            "poses cannot be normalised: all camera centres coincide, or the viewing directions cancel out; "
            "leave the sample out, or use a SceneFrame with a scale of your choice"
        )
    local[..., :3, 3] /= (scale_factor * extent)[..., None, None]
    return local
