"""What a procedural room is made of: convex solids in a box-shaped shell, materials and lights, as batched tensors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KINDS = ("box", "cylinder", "ellipsoid")
# Columns of a material row.
TILE, SCALE, U0, V0, RED, GREEN, BLUE, AMOUNT, GAIN, SPECULAR, SHININESS, EMISSION, FIT = range(13)
MATERIAL = 13
# Rows of the shell's surfaces, behind the objects' rows: -x, +x, -y, +y walls, floor, ceiling, skirting board.
SHELL = ("wall_left", "wall_right", "wall_back", "wall_front", "floor", "ceiling", "skirting")


@functools.lru_cache(maxsize=1024)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a small constant tensor, made once per device: copying it each time would make the GPU wait."""
    return torch.tensor(values, device=device, dtype=dtype)


@dataclass(frozen=True)
class Room:
    """A batch of B rooms. World frame: metres, z up, the floor at z = 0, the origin in the floor's middle.

    size [B, 3]: width (x), depth (y), height (z). counts: number of boxes, cylinders, ellipsoids; the objects'
    tensors hold them in this order. centre [B, N, 3]; axes [B, N, 3, 3], world from object; half [B, N, 3], half
    extents along the object's axes; valid [B, N]; group [B, N]: objects of one piece of furniture share
    a number, less than groups.
    material [B, N + 7, 13]: a row per object, then the shell's surfaces (SHELL). skirting [B], height in metres.
    lights [B, L, 3] positions; power [B, L, 3] RGB; ambient [B, 2, 3] RGB light from below and from above.
    tone [B, 2]: exposure and gamma of the camera.
    """

    size: Tensor
    counts: tuple[int, int, int]
    centre: Tensor
    axes: Tensor
    half: Tensor
    valid: Tensor
    group: Tensor
    groups: int
    material: Tensor
    skirting: Tensor
    lights: Tensor
    power: Tensor
    ambient: Tensor
    tone: Tensor

    def __len__(self) -> int:
        return self.size.shape[0]

    @property
    def device(self) -> torch.device:
        return self.size.device

    def map(self, function: Callable[[Tensor], Tensor]) -> Room:
        """Return the rooms with a function applied to each of their tensors."""
        moved: dict[str, Any] = {
            f.name: function(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    def to(self, device: torch.device | str) -> Room:
        """Return the same rooms on another device."""
        return self.map(lambda x: x.to(device))

    def clearance(self, points: Tensor) -> Tensor:
        """Return the distance, metres, of points [B, n, 3] to every object [B, n, N]; negative inside.

        Exact outside boxes, a lower bound for the others (their bounding box counts); infinite for invalid ones.
        """
        offset = points[:, :, None] - self.centre[:, None]
        local = torch.einsum("bnoi,boij->bnoj", offset, self.axes)
        excess = local.abs() - self.half[:, None]
        distance = excess.clamp_min(0).norm(dim=-1) + excess.amax(-1).clamp_max(0)
        return distance.masked_fill(~self.valid[:, None], float("inf"))

    def without_obstacles(self, points: Tensor, margin: float) -> Room:
        """Return the rooms without any furniture that is closer than margin (metres) to points [B, n, 3].

        Whole groups go: no table is left without its legs.
        """
        near = (self.clearance(points) < margin).any(1)
        groups = torch.zeros(len(self), self.groups, device=self.device)
        groups.scatter_add_(1, self.group, near.float())
        return dataclasses.replace(self, valid=self.valid & (groups.gather(1, self.group) == 0))

    def compact(self, limits: tuple[int, int, int]) -> Room:
        """Return the rooms with fewer places for objects: valid ones first, those beyond a limit left out."""
        kept, first = [], 0
        for count, limit in zip(self.counts, limits, strict=True):
            order = (
                self.valid[:, first : first + count]
                .to(torch.int8)
                .argsort(dim=1, descending=True, stable=True)
            )
            kept.append(first + order[:, :limit])
            first += count
        index = torch.cat(kept, 1)
        rooms = torch.arange(len(self), device=self.device)[:, None]
        shell = self.material[:, first:]
        return dataclasses.replace(
            self,
            counts=tuple(min(a, b) for a, b in zip(self.counts, limits, strict=True)),  # type: ignore[arg-type]
            centre=self.centre[rooms, index],
            axes=self.axes[rooms, index],
            half=self.half[rooms, index],
            valid=self.valid[rooms, index],
            group=self.group[rooms, index],
            material=torch.cat([self.material[rooms, index], shell], 1),
        )

    def single(self, i: int) -> Room:
        """Return room i as a batch of one."""
        return self.map(lambda x: x[i : i + 1])
