"""Put solids together: pieces of furniture in frames of their own, collected by kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .room import KINDS

# The most boxes, cylinders and ellipsoids a room holds: about half of what could be there is, on average.
LIMITS = (144, 24, 32)


@dataclass
class Builder:
    """Collects solids by kind while a batch of rooms is furnished."""

    groups: int = 0
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]] = field(
        default_factory=lambda: {kind: [] for kind in KINDS}
    )

    def add(
        self,
        kind: str,
        centre: Tensor,
        half: Tensor,
        axes: Tensor,
        valid: Tensor,
        material: Tensor,
        group: Tensor,
    ) -> None:
        """Add solids [B, n, ...] with their group numbers [n]."""
        self.parts[kind].append((centre, half, axes, valid, material, group))


@dataclass(frozen=True)
class Placement:
    """Where S pieces of furniture of one sort stand: origin on the floor [B, S, 3], yaw [B, S], valid [B, S]."""

    builder: Builder
    origin: Tensor
    yaw: Tensor
    valid: Tensor
    first_group: int

    def put(
        self,
        kind: str,
        centre: tuple[Tensor | float, Tensor | float, Tensor | float],
        half: tuple[Tensor | float, Tensor | float, Tensor | float],
        material: Tensor,
        tilt: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> None:
        """Add one solid to each piece, in the piece's own frame: x along its front, y to its back, z up.

        tilt [B, S, 3, 3]: a rotation in that frame. Tensors broadcast to [B, S].
        """
        shape = self.yaw.shape
        local, size = (
            torch.stack(
                [x.expand(shape) if isinstance(x, Tensor) else torch.full_like(self.yaw, x) for x in three],
                -1,
            )
            for three in (centre, half)
        )
        turn = rotation_z(self.yaw)
        axes = turn if tilt is None else turn @ tilt
        position = self.origin + torch.einsum("bsij,bsj->bsi", turn, local)
        group = self.first_group + torch.arange(shape[1], device=self.yaw.device)
        ok = self.valid if valid is None else self.valid & valid
        self.builder.add(kind, position, size, axes, ok, material, group)


def rotation_z(angle: Tensor) -> Tensor:
    """Return rotations about z, [..., 3, 3]."""
    c, s, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = torch.stack([c, -s, zero, s, c, zero, zero, zero, zero + 1], -1)
    return rows.reshape(*angle.shape, 3, 3)


def rotation_x(angle: Tensor) -> Tensor:
    """Return rotations about x, [..., 3, 3]."""
    c, s, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = torch.stack([zero + 1, zero, zero, zero, c, -s, zero, s, c], -1)
    return rows.reshape(*angle.shape, 3, 3)
