"""Decisions about keyframes: pure functions on poses.

Poses are T_world_cam, [n, 4, 4] float64, metres, optical axes. What chooses views for a request runs before every
render: at its sizes a call of numpy costs more than what it computes, hence few calls on single precision.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .cameras import Camera

Poses = NDArray[np.float64]

SAMPLE_DEPTHS = (0.75, 1.5, 3.0, 6.0)
"""Metres: where a surface may be, as the depth of a scene is not known."""
SAMPLE_GRID = 3
"""Points across the image, each way."""
NEAR_DISTANCE, NEAR_ANGLE = 0.6, float(np.deg2rad(40))
"""Metres and radians over which views come to differ."""
SHORTLIST = (32, 64)
"""Stored views that are looked at closely when the most useful ones are chosen: four for each, within these."""
FARTHEST = 1e15
"""Metres: centres are taken to be no farther from the origin, because squares must fit into single precision."""
MANY = 2000
"""Stored views from which on it pays to find out first which ones can be among the best."""
MARGIN = 0.1
"""How far around a request that is found out, in the units of `shortlist`'s costs: 20 cm or three degrees."""


def differences(T_world_cam: ArrayLike, stored: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return distance (metres) and rotation angle (radians) [n] from one pose to n stored ones."""
    pose = np.asarray(T_world_cam, dtype=np.float64)
    others = np.asarray(stored, dtype=np.float64).reshape(-1, 4, 4)
    apart = others[:, :3, 3] - pose[:3, 3]
    # Among thousands of poses it pays to read all sixteen numbers in a row.
    rotation = np.zeros((4, 4))
    rotation[:3, :3] = pose[:3, :3]
    trace = np.einsum("nk,k->n", others.reshape(-1, 16), rotation.ravel())
    return np.sqrt(np.einsum("ni,ni->n", apart, apart)), np.arccos(np.clip((trace - 1) / 2, -1, 1))


def difference(
    T_world_cam: ArrayLike, stored: ArrayLike, distance: float, angle: float
) -> NDArray[np.float64]:
    """Return how different n stored poses are from one: the larger of metres/distance, radians/angle."""
    metres, radians = differences(T_world_cam, stored)
    return np.maximum(metres / distance, radians / angle)


def nearest(T_world_cam: ArrayLike, stored: ArrayLike, distance: float, angle: float) -> tuple[int, float]:
    """Return the index of the nearest stored pose and how far it is, in units of the thresholds.

    distance (metres) and angle (radians) set how the two are weighed: the difference of two poses is the
    larger of metres/distance and radians/angle. Raises ValueError when nothing is stored.
    """
    units = difference(T_world_cam, stored, distance, angle)
    if not len(units):
        raise ValueError("there is no stored pose to compare with")
    index = int(units.argmin())
    return index, float(units[index])


def admit(T_world_cam: ArrayLike, stored: ArrayLike, distance: float, angle: float) -> bool:
    """Tell whether a pose is new: at least `distance` metres or `angle` radians from every stored pose."""
    if not len(np.asarray(stored)):
        return True
    return nearest(T_world_cam, stored, distance, angle)[1] >= 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """The cameras of a request as arrays, made once for all that has to be found out about them.

    All float64. rotations [m, 3, 3]: camera to world. centres [m, 3, 1]: metres. points [m, 3, p]: what is looked
    at, metres from each camera's centre along the world's axes. distances [m, p]: how far away it is.
    """

    rotations: NDArray[np.float64]
    centres: NDArray[np.float64]
    points: NDArray[np.float64]
    distances: NDArray[np.float64]

    @classmethod
    def of(cls, cameras: Sequence[Camera]) -> Targets:
        """Look SAMPLE_DEPTHS metres ahead, at SAMPLE_GRID points across the image each way."""
        poses = np.array([camera.T_world_cam for camera in cameras])
        samples = [_samples(*camera.fxfycxcy, camera.width, camera.height) for camera in cameras]
        rotations, centres = poses[:, :3, :3], np.clip(poses[:, :3, 3:], -FARTHEST, FARTHEST)
        points = rotations @ np.array([local for local, _ in samples])
        return cls(rotations, centres, points, np.array([distances for _, distances in samples]))

    def __len__(self) -> int:
        return len(self.centres)


@functools.lru_cache(maxsize=256)
def _samples(
    fx: float, fy: float, cx: float, cy: float, width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points [3, p] in a camera's axes and their distances [p], metres; not to be written to."""
    steps = (np.arange(SAMPLE_GRID) + 0.5) / SAMPLE_GRID
    u, v, z = (grid.ravel() for grid in np.meshgrid(steps, steps, SAMPLE_DEPTHS, indexing="ij"))
    points = np.stack([(u * width - cx) / fx * z, (v * height - cy) / fy * z, z])
    return points, np.linalg.norm(points, axis=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Stored views as arrays.

    T_world_cam [n, 4, 4] float64. numbers [12, n] float64: of each view its centre, metres, and three vectors that
    take the z, x and y of its image from what lies in a direction of the world: z is the depth, and x/z and y/z go
    from -1 to 1 across the image. near: what was found out about these views, if somebody remembers it.
    """

    T_world_cam: Poses
    numbers: NDArray[np.float64]
    near: Neighbourhood | None = None

    @classmethod
    def of(cls, cameras: Sequence[Camera]) -> Views:
        """Make them of the views' cameras."""
        poses = np.array([camera.T_world_cam for camera in cameras])
        fx, fy, cx, cy = np.array([camera.fxfycxcy for camera in cameras]).T
        height, width = np.array([camera.size for camera in cameras]).T
        x, y, z, centres = poses[:, :3].transpose(2, 1, 0)
        x, y = (2 * fx * x + (2 * cx - width) * z) / width, (2 * fy * y + (2 * cy - height) * z) / height
        numbers = np.vstack([np.clip(centres, -FARTHEST, FARTHEST), z, x, y])
        return cls(poses, np.ascontiguousarray(numbers))

    def __len__(self) -> int:
        return len(self.T_world_cam)

    def copy(self) -> Views:
        return Views(self.T_world_cam.copy(), self.numbers.copy())

    def __getitem__(self, rows: Sequence[int] | NDArray[np.int64]) -> Views:
        return Views(self.T_world_cam[rows], self.numbers.take(rows, axis=1))


def most_useful(targets: Targets, views: Views, max_views: int) -> NDArray[np.int64]:
    """Return the indices, increasing, of the views to render targets from, at most `max_views`."""
    least, most = SHORTLIST
    rows = shortlist(targets, views, max(max_views, min(max(4 * max_views, least), most)))
    if len(rows) <= max_views:
        return rows
    closer = views[rows]
    return np.sort(rows[select(visibilities(targets, closer), closeness(targets, closer), max_views)])


def shortlist(targets: Targets, views: Views, count: int) -> NDArray[np.int64]:
    """Return the indices, increasing, of the views that may be useful for any target, at most `count`.

    A cheap look at thousands of views before `visibilities` has a close one: two metres of distance count as much
    as 60 degrees between the viewing directions. Half of the indices are shared out evenly, so that no target of a
    request is left without views.
    """
    n, m = len(views), len(targets)
    if n <= count:
        return np.arange(n)
    wanted = np.concatenate([targets.centres[..., 0], targets.rotations[..., 2]], axis=1).T
    stored = views.numbers[:6]
    rows = (views.near or Neighbourhood()).rows(wanted, stored, count) if n > MANY else None
    cost = _costs(wanted, stored if rows is None else stored.take(rows, axis=1))
    best = cost.min(axis=0)
    if m > 1:
        for _ in range(max(1, count // (2 * m))):
            first = cost.argmin(axis=1)
            best[first] = -np.inf
            cost[np.arange(m), first] = np.inf
    few = _lowest(best, count)
    return few if rows is None else rows[few]


def _costs(wanted: NDArray[np.float64], stored: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return how little n views promise for m targets, [m, n]: half the metres between them, minus 2 cos.

    Both are centres and viewing directions, [6, m] and [6, n].
    """
    # From an origin nearby, so that what is multiplied out keeps its digits.
    origin = wanted[:3, :1]
    here, there = (wanted[:3] - origin).astype(np.float32), (stored[:3] - origin).astype(np.float32)
    cost = _products(-2 * here, there)
    cost += np.einsum("in,in->n", there, there)
    cost += np.einsum("im,im->m", here, here)[:, None]
    np.sqrt(np.abs(cost, out=cost), out=cost)
    cost *= np.float32(0.5)
    cost -= _products((2 * wanted[3:]).astype(np.float32), stored[3:].astype(np.float32))
    return cost


def _products(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the products [m, n] of vectors [3, m] and [3, n]."""
    # Some builds of OpenBLAS wake all of their threads for a product with one vector, which takes longer than it.
    return np.einsum("im,in->mn", a, b) if a.shape[1] == 1 else a.T @ b


class Neighbourhood:
    """Which of thousands of views can matter around a place, remembered for the next requests from there.

    Whoever keeps it calls `forget` when views change or go; views that come are noticed.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._count = 0

    def rows(
        self, wanted: NDArray[np.float64], stored: NDArray[np.float64], count: int
    ) -> NDArray[np.int64] | None:
        """Return indices, increasing, of all views that can be among the `count` best for any target; None: all.

        wanted [6, m], stored [6, n]: centres and viewing directions.
        """
        n = stored.shape[1]
        if not (count <= self._count and n - self._searched < MANY // 8 and self._reaches(wanted)):
            self._search(wanted, stored, count)
        if self._rows is None or n == self._searched:
            return self._rows
        return np.concatenate([self._rows, np.arange(self._searched, n)])

    def _reaches(self, wanted: NDArray[np.float64]) -> bool:
        away = _farthest(wanted, self._place)
        return away <= self._reach <= away + 3 * MARGIN

    def _search(self, wanted: NDArray[np.float64], stored: NDArray[np.float64], count: int) -> None:
        self._place = wanted.mean(axis=1, keepdims=True)
        self._reach = _farthest(wanted, self._place) + MARGIN
        self._count, self._searched = count, stored.shape[1]
        cost = _costs(self._place, stored)[0]
        # The costs of no target within reach differ by more from those of the place.
        limit = np.partition(cost, count - 1)[count - 1] + np.float32(2 * self._reach)
        rows = np.flatnonzero(cost <= limit)
        self._rows = rows if len(rows) < self._searched // 2 else None


def _farthest(wanted: NDArray[np.float64], place: NDArray[np.float64]) -> float:
    """Return by how much the costs of any view can differ between targets [6, m] and a place [6, 1], at most."""
    metres, turned = np.sqrt(np.square(wanted - place).reshape(2, 3, -1).sum(axis=1))
    return float((metres / 2 + 2 * turned).max())


def _lowest(cost: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the indices, increasing, of the `count` lowest; of equal ones the first."""
    rows = np.flatnonzero(cost <= np.partition(cost, count - 1)[count - 1])
    if len(rows) > count:
        rows = np.sort(rows[np.argsort(cost[rows], kind="stable")[:count]])
    return rows


def visibilities(targets: Targets, views: Views) -> NDArray[np.float32]:
    """Return how well each of n views sees the points that each target looks at, [n, m, p].

    In [0, 1]: 0 outside of the view's frustum, and less the larger the angle between the lines of sight
    (0.6 at 20 degrees, 0.06 at 45: cos^8) and the farther away the view is (in proportion, from the target's
    distance on). Occlusion is not known and not considered. Targets do not depend on each other.
    """
    n, (m, _, p) = len(views), targets.points.shape
    # From each target's own centre, so that single precision is enough wherever they are.
    centres = views.numbers[:3] - targets.centres
    vectors = views.numbers[3:].reshape(3, 3, n)
    # All is linear in (point, 1, squared distance) and made relative to the squared distance from the target.
    squares = np.square(targets.distances)[:, None]
    columns = np.empty((m, 5, p), dtype=np.float32)
    columns[:, :3], columns[:, 3:4], columns[:, 4] = targets.points / squares, 1 / squares, 1
    image = np.empty((m, 4, 3, n), dtype=np.float32)
    image[:, :3], image[:, 3] = vectors.swapaxes(0, 1), -np.einsum("kin,min->mkn", vectors, centres)
    z, x, y = (image.reshape(m, 4, 3 * n).swapaxes(1, 2) @ columns[:, :4]).reshape(m, 3, n, p).swapaxes(0, 1)
    inside = np.maximum(np.abs(x, out=x), np.abs(y, out=y), out=x) <= z
    # Lines of sight from target and view: their product, and the squared length of the latter.
    sight = np.empty((m, 5, n), dtype=np.float32)
    sight[:, :3], sight[:, 3], sight[:, 4] = -centres, 0, 1
    product = sight.swapaxes(1, 2) @ columns
    sight[:, :3] *= 2
    sight[:, 3] = np.einsum("min,min->mn", centres, centres)
    far = sight.swapaxes(1, 2) @ columns
    inside &= product > 0
    product *= product
    np.maximum(far, product, out=far)
    far += np.float32(1e-12)
    product /= far
    product *= product
    product *= product
    np.maximum(far, np.ones_like(far), out=far)
    product /= np.sqrt(far, out=far)
    seen = np.empty((n, m, p), dtype=np.float32)
    np.multiply(product, inside, out=seen.swapaxes(0, 1))
    return seen


def closeness(targets: Targets, views: Views) -> NDArray[np.float64]:
    """Return how near n views are to each target in pose, [n, m]: 1 at the same pose.

    1/e at 60 cm or 40 degrees away, or half of each. Neighbours show surfaces as the target sees them, whatever
    stands in front of them, and views that are near each other fill the range that the model knows.
    """
    apart = views.numbers[:3] - targets.centres
    metres = np.sqrt(np.einsum("min,min->nm", apart, apart))
    trace = views.T_world_cam[:, :3, :3].reshape(-1, 9) @ targets.rotations.reshape(-1, 9).T
    radians = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    return np.exp(-metres / NEAR_DISTANCE - radians / NEAR_ANGLE)


def select(seen: NDArray[np.float32], near: NDArray[np.float64], max_views: int) -> list[int]:
    """Choose the most useful views for a set of targets, best first.

    seen [views, targets, points] from `visibilities`, near [views, targets] from `closeness`. Greedy: every step
    takes the view that adds most to what the chosen ones see best, and, a tenth as much each, the one that sees
    most by itself and the one whose pose is nearest. Returns at most max_views indices.
    """
    # What each view would add to the chosen ones, point by point.
    more = seen.reshape(len(seen), -1).copy()
    zeros = np.zeros_like(more)
    gain = np.einsum("vp->v", more)
    own = 0.1 * (gain + seen.shape[2] * near.sum(1))
    chosen: list[int] = []
    for left in reversed(range(min(max_views, len(seen)))):
        chosen.append(int((gain + own).argmax()))
        if left:
            own[chosen[-1]] = -np.inf
            more -= more[chosen[-1]].copy()
            np.maximum(more, zeros, out=more)
            gain = np.einsum("vp->v", more)
    return chosen


def support(seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return per target which share of its points the used views see, [targets] in [0, 1].

    seen [views, targets, points] of the views used. 0 tells that a render is invention.
    """
    return (seen.max(0) > 0).mean(1).astype(np.float32)
