"""Semi-global aggregation (Hirschmüller, PAMI 2008): costs smoothed along rows and columns, and their minimum."""

from __future__ import annotations

import torch
from torch import Tensor

FORBIDDEN = 1e4


def aggregate(costs: Tensor, render: Tensor, smooth: float, jump: float, edge: float) -> Tensor:
    """Return costs [D, h, w] averaged over the best paths from left, right, above and below.

    render [3, h, w] says where surfaces may end: a change of the plane by one costs `smooth`, by more `jump`, and
    less where neighbouring pixels differ by `edge` or more.
    """
    across = _two_ways(costs.permute(2, 0, 1), render.permute(2, 0, 1), smooth, jump, edge).permute(1, 2, 0)
    down = _two_ways(costs.permute(1, 0, 2), render.permute(1, 0, 2), smooth, jump, edge).permute(1, 0, 2)
    return (across + down) * 0.25


def _two_ways(costs: Tensor, render: Tensor, smooth: float, jump: float, edge: float) -> Tensor:
    """Return the sum of both directions along the first axis; costs [L, D, n], render [L, 3, n]."""
    length, planes, n = costs.shape
    steps = (render[1:] - render[:-1]).abs().mean(1)
    jumps = smooth + (jump - smooth) * torch.exp(steps * (-1 / edge))
    both = torch.stack([costs, costs.flip(0)], 1).contiguous()
    jumps = torch.stack([jumps, jumps.flip(0)], 1)[:, :, None]
    # A row of forbidden planes on either side spares all questions about neighbours.
    path = costs.new_full((2, planes + 2, n), FORBIDDEN)
    inner = path[:, 1:-1]
    inner.copy_(both[0])
    for i in range(1, length):
        least = inner.amin(1, keepdim=True)
        best = torch.minimum(path[:, :-2], path[:, 2:]).add_(smooth)
        best = torch.minimum(best, inner)
        best = torch.minimum(best, least + jumps[i - 1]).sub_(least)
        torch.add(both[i], best, out=both[i])
        inner.copy_(both[i])
    return both[:, 0] + both[:, 1].flip(0)


def soft_minimum(costs: Tensor, planes: Tensor, softness: float, reach: int = 2) -> Tensor:
    """Return the inverse depth [h, w] around the cheapest plane: its neighbours' mean, weighted by exp(-cost/softness).

    costs [D, h, w]; planes [D], increasing. Farther planes than `reach` have no say, as they are other surfaces.
    """
    best = costs.argmin(0, keepdim=True)
    offsets = torch.arange(-reach, reach + 1, device=costs.device)[:, None, None]
    near = best + offsets
    index = near.clamp(0, len(planes) - 1)
    local = torch.where(near == index, costs.gather(0, index), FORBIDDEN)
    weight = torch.softmax(local * (-1 / softness), 0)
    return (weight * planes[index]).sum(0)
