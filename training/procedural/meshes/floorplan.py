"""The plan of a room, its walls with their openings, and the matrices that put solids and meshes into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bank import SOLIDS

QUAD, BOX, CYLINDER, SPHERE = range(len(SOLIDS))


@dataclass(frozen=True)
class Opening:
    """A hole in a wall: from along `start` to `end` metres, `low` to `high` above the floor."""

    start: float
    end: float
    low: float
    high: float
    kind: str


@dataclass
class Wall:
    """A wall from a to b [2], the room to its left; inward: its normal [2]."""

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    openings: list[Opening] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)  # start, end, low, high

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.b - self.a))

    @property
    def along(self) -> NDArray[np.float64]:
        return np.asarray((self.b - self.a) / self.length)

    @property
    def inward(self) -> NDArray[np.float64]:
        x, y = self.along
        return np.array([-y, x])

    def free(self, start: float, end: float, low: float, high: float, gap: float = 0.04) -> bool:
        """Return whether nothing is on this part of the wall."""
        return (
            start >= 0.02
            and end <= self.length - 0.02
            and not any(
                start < e + gap and s - gap < end and low < h + gap and lo - gap < high
                for s, e, lo, h in self.taken
            )
        )


@dataclass(frozen=True)
class RoomPlan:
    """The floor's plan, metres, the origin in the middle of size [2]; notch: a corner that is no room, low and high
    [2]."""

    size: NDArray[np.float64]
    height: float
    notch: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    walls: list[Wall]

    def inside(self, point: NDArray[Any], margin: float = 0.0) -> NDArray[np.bool_]:
        """Return which points [n, 2] are in the room, at least margin from its walls."""
        good = (np.abs(point) < self.size / 2 - margin).all(-1)
        if self.notch is not None:
            low, high = self.notch
            good &= ~((point > low - margin) & (point < high + margin)).all(-1)
        return good


def draw_plan(rng: np.random.Generator, l_shaped: float = 0.35) -> RoomPlan:
    """Draw the floor plan of a room."""
    size = np.array([2.6 + 5.0 * rng.random() ** 1.3, 2.6 + 5.0 * rng.random() ** 1.3])
    height = 2.3 + 0.9 * rng.random() ** 1.5
    half = size / 2
    corner = [(-half[0], -half[1]), (half[0], -half[1]), (half[0], half[1]), (-half[0], half[1])]
    notch = None
    if rng.random() < l_shaped and size.min() > 3.4:
        cut = size * (0.25 + 0.25 * rng.random(2))
        which = int(rng.integers(4))
        sign = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)][which])
        outer, inner = half * sign, (half - cut) * sign
        notch = (np.minimum(outer, inner), np.maximum(outer, inner))
        bend = [(inner[0], outer[1]), (inner[0], inner[1]), (outer[0], inner[1])]
        corner[which : which + 1] = bend if which % 2 else bend[::-1]
    points = [np.array(c, float) for c in corner]
    walls = [Wall(a, b) for a, b in zip(points, [*points[1:], points[0]], strict=True)]
    return RoomPlan(size, float(height), notch, [w for w in walls if w.length > 1e-6])


def frame(origin: Any, x: Any, y: Any, z: Any) -> NDArray[np.float64]:
    """Return a matrix whose columns are the images of the axes and of the origin."""
    out = np.eye(4)
    out[:3] = np.stack([np.asarray(v, float) for v in (x, y, z, origin)], 1)
    return out


def quad(centre: Any, x: Any, y: Any) -> NDArray[np.float64]:
    """Return the matrix of a quad with sides x and y [3]; it faces x cross y."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    n = np.cross(x, y)
    return frame(centre, x, y, n / max(float(np.linalg.norm(n)), 1e-9))


def block(centre: Any, size: Any, yaw: float = 0.0) -> NDArray[np.float64]:
    """Return the matrix of a box, cylinder or sphere of a size [3], turned about z."""
    c, s = np.cos(yaw), np.sin(yaw)
    w, d, h = size
    return frame(centre, [c * w, s * w, 0], [-s * d, c * d, 0], [0, 0, h])


def standing(at: Any, z: float, inward: Any, stretch: Any = (1.0, 1.0, 1.0)) -> NDArray[np.float64]:
    """Return the matrix of a mesh whose back (its +y) looks against `inward` [2], at a point [2] of the plan, z
    metres up."""
    y = -np.asarray(inward, float)
    x = np.array([y[1], -y[0]])
    sx, sy, sz = (float(s) for s in np.broadcast_to(stretch, 3))
    return frame([*at, z], [*(x * sx), 0], [*(y * sy), 0], [0, 0, sz])
