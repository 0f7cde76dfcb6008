"""Which pixels of a target an input sees, from exact depth."""

from __future__ import annotations

import torch
from torch import Tensor

from ..compilation import fused

RELATIVE, ABSOLUTE = 0.03, 0.01
"""A point is seen where the input's depth is the point's up to this share and so many metres."""


def seen_by_inputs(
    depth: Tensor,
    c2w: Tensor,
    fxfycxcy: Tensor,
    input_depth: Tensor,
    input_c2w: Tensor,
    input_fxfycxcy: Tensor,
) -> Tensor:
    """Return which target pixels show what at least one input sees, too, bool [b, M, h, w].

    depth [b, M, h, w], metres along the target's z axis; c2w [b, M, 4, 4], fxfycxcy [b, M, 4] pixels of the targets'
    windows; input_depth [b, V, H, W], input_c2w, input_fxfycxcy of the inputs. Poses are the true ones, in metres. Each
    target pixel is taken to the inputs and compared with the depths around where it falls, so that edges of objects do
    not count as hidden.
    """
    one = fused(_seen_by_one, depth.is_cuda)
    seen = torch.zeros_like(depth, dtype=torch.bool)
    for view in range(input_depth.shape[1]):
        own = (input_depth[:, view], input_c2w[:, view], input_fxfycxcy[:, view])
        # Copies, not views: the function is compiled once more for each layout.
        seen = seen | one(
            depth, c2w, fxfycxcy, *(x.clone(memory_format=torch.contiguous_format) for x in own)
        )
    return seen


def _seen_by_one(
    depth: Tensor,
    c2w: Tensor,
    fxfycxcy: Tensor,
    input_depth: Tensor,
    input_c2w: Tensor,
    input_fxfycxcy: Tensor,
) -> Tensor:
    """Do it for one input of each scene: input_depth [b, H, W], input_c2w [b, 4, 4], input_fxfycxcy [b, 4]."""
    h, w = depth.shape[-2:]
    height, width = input_depth.shape[-2:]
    fx, fy, cx, cy = (fxfycxcy[..., i, None, None] for i in range(4))
    x = (torch.arange(w, device=depth.device) + 0.5 - cx) / fx
    y = (torch.arange(h, device=depth.device)[:, None] + 0.5 - cy) / fy
    # From the target's axes to the input's; sums, because a matrix product may be rounded to TF32.
    turn = input_c2w[:, None, :3, :3]
    r = (turn[..., :, :, None] * c2w[..., :3, None, :3]).sum(-3)
    t = (turn * (c2w[..., :3, 3] - input_c2w[:, None, :3, 3])[..., :, None]).sum(-2)
    point = [
        depth * (r[..., i, 0, None, None] * x + r[..., i, 1, None, None] * y + r[..., i, 2, None, None])
        + t[..., i, None, None]
        for i in range(3)
    ]
    k = [input_fxfycxcy[:, i, None, None, None] for i in range(4)]
    z = point[2].clamp_min(1e-3)
    u, v = point[0] / z * k[0] + k[2], point[1] / z * k[1] + k[3]
    inside = (point[2] > 1e-2) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    slack = RELATIVE * z + ABSOLUTE
    flat = input_depth.flatten(1)
    near = torch.zeros_like(inside)
    for right, down in ((0.0, 0.0), (0.5, 0.5), (-0.5, 0.5), (0.5, -0.5), (-0.5, -0.5)):
        column = (u + right).clamp(0, width - 1).long()
        row = (v + down).clamp(0, height - 1).long()
        there = flat.gather(1, (row * width + column).flatten(1)).reshape(z.shape)
        near = near | ((there.float() - z).abs() < slack)
    return inside & near
