"""Where pieces stand in a room: footprints that do not overlap, and how a piece is chosen and put down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bank import MeshBank, Shape
from .floorplan import RoomPlan, standing
from .materials import Stylist
from .scene import Light, MeshScene, Piece

THEMES = ("Living room", "Kitchen", "Bedroom", "Office", "Bathroom")


@dataclass(eq=False)
class Footprint:
    """A rectangle on the floor: centre [2], half sides [2], its axes [2, 2] as rows; low, high: its reach in z."""

    centre: NDArray[np.float64]
    half: NDArray[np.float64]
    axes: NDArray[np.float64]
    low: float
    high: float

    def corners(self) -> NDArray[np.float64]:
        signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        return self.centre + (signs * self.half) @ self.axes

    def meets(self, other: Footprint, gap: float = 0.02) -> bool:
        """Return whether two rectangles overlap or come nearer than gap, metres."""
        if self.low >= other.high - 1e-3 or other.low >= self.high - 1e-3:
            return False
        d = other.centre - self.centre
        for axis in (*self.axes, *other.axes):
            reach = np.abs(self.axes @ axis) @ self.half + np.abs(other.axes @ axis) @ other.half
            if abs(d @ axis) > reach + gap:
                return False
        return True


class Placing:
    """Puts pieces into one room. `scene` grows; lamps' lights go with the group of their piece."""

    def __init__(self, scene: MeshScene, plan: RoomPlan, stylist: Stylist, rng: np.random.Generator) -> None:
        self.scene, self.plan, self.stylist, self.rng = scene, plan, stylist, rng
        self.bank: MeshBank = scene.bank
        self.placed: list[Footprint] = []
        self.supports: list[tuple[Piece, float]] = []  # with how likely something stands on it
        self.theme = str(rng.choice([*THEMES, "any"], p=[0.28, 0.16, 0.17, 0.19, 0.06, 0.14]))
        self.lit = bool(rng.random() < 0.75)
        self.choices: dict[tuple[tuple[str, ...], float], tuple[list[int], NDArray[np.float64]]] = {}
        for wall in plan.walls:
            for o in wall.openings:
                if o.kind != "window":  # a door needs room
                    at = wall.a + wall.along * (o.start + o.end) / 2 + wall.inward * 0.45
                    self.placed.append(
                        Footprint(
                            at,
                            np.array([(o.end - o.start) / 2, 0.45]),
                            np.stack([wall.along, wall.inward]),
                            0.0,
                            2.0,
                        )
                    )

    def choose(self, *roles: str, most: float = 9.0) -> int | None:
        """Return a mesh of a role, rather one of the room's theme; most: its longest side, metres."""
        key = (roles, most)
        if key not in self.choices:
            numbers = [
                n
                for role in roles
                for n in self.bank.roles.get(role, ())
                if max(self.bank.shapes[n].size) <= most
            ]
            kinds = [self.bank.shapes[n].category for n in numbers]
            shares = [
                1.0 if self.theme in ("any", k) else 0.5 if k == "Miscellaneous" else 0.1 for k in kinds
            ]
            self.choices[key] = (numbers, np.cumsum(shares))
        numbers, total = self.choices[key]
        return numbers[int(np.searchsorted(total, self.rng.random() * total[-1]))] if numbers else None

    def put(
        self, number: int, at: Any, z: float, yaw_back: Any, *, group: int | None = None, solid: bool = False,
        obstacle: bool = True,
        fixed: bool = False, stretch: Any = None, check: bool = True, gap: float = 0.02,
    ) -> Piece | None:  # fmt: skip
        """Put a mesh at a point [2] of the plan with its back towards a direction [2]; None where it does not fit."""
        shape = self.bank.shapes[number]
        scale = np.ones(3) if stretch is None else np.array(stretch, float)
        matrix = standing(at, z, -np.asarray(yaw_back), scale)
        print_ = self.footprint(shape, matrix)
        if check and (
            not self.plan.inside(print_.corners(), 0.005).all()
            or any(print_.meets(p, gap) for p in self.placed)
        ):
            return None
        if obstacle and check:
            self.placed.append(print_)
        if group is None:
            group = self.scene.groups
            self.scene.groups += 1
        piece = self.scene.add(
            number,
            matrix,
            self.stylist.of_shape(shape, self.lit),
            group=group,
            solid=solid,
            obstacle=obstacle,
            fixed=fixed,
        )
        self.lamps(shape, piece)
        return piece

    def footprint(self, shape: Shape, matrix: NDArray[np.float64]) -> Footprint:
        low, high = np.array(shape.low), np.array(shape.high)
        middle = matrix @ np.array([*(low + high) / 2, 1.0])
        x, y = matrix[:2, 0], matrix[:2, 1]
        lengths = np.array([np.linalg.norm(x), np.linalg.norm(y)])
        scale_z = matrix[2, 2]
        return Footprint(
            middle[:2], (high - low)[:2] / 2 * lengths, np.stack([x, y]) / np.maximum(lengths[:, None], 1e-9),
            float(matrix[2, 3] + low[2] * scale_z), float(matrix[2, 3] + high[2] * scale_z),
        )  # fmt: skip

    def stretch(self, mirror: bool = True) -> NDArray[np.float64]:
        """Draw a slight change of size, and a mirror image for half of the pieces."""
        rng = self.rng
        scale = np.full(3, math.exp(rng.normal(0, 0.06))) * np.exp(rng.normal(0, 0.03, 3))
        if mirror and rng.random() < 0.5:
            scale[0] *= -1
        return scale

    def lamps(self, shape: Shape, piece: Piece) -> None:
        """Let the lamps of a piece shine."""
        if not self.lit or len(self.scene.lights) >= 4:
            return
        for lamp in shape.lamps[:1]:
            local = np.array(shape.low) + np.array(lamp) * np.array(shape.size)
            if shape.role == "ceiling":
                local[2] = shape.low[2] - 0.04  # below the shade
            at = (piece.matrix @ np.array([*local, 1.0]))[:3]
            strong = 1.0 if shape.role == "ceiling" else 0.3
            self.scene.lights.append((Light(tuple(at), tuple(strong * self.lamp_power())), piece.group))

    def lamp_power(self) -> NDArray[np.float64]:
        warm = self.rng.random()
        return np.asarray(
            (0.5 + 1.6 * self.rng.random()) * np.array([1.0, 0.93 - 0.15 * warm, 0.85 - 0.4 * warm])
        )
