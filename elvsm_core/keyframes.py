"""Decisions about keyframes: pure functions on poses.

Poses are T_world_cam, [n, 4, 4] float64, metres, optical axes.
"""

from __future__ import annotations

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


def differences(T_world_cam: ArrayLike, stored: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return distance (metres) and rotation angle (radians) [n] from one pose to n stored ones."""
    pose = np.asarray(T_world_cam, dtype=np.float64)
    others = np.asarray(stored, dtype=np.float64).reshape(-1, 4, 4)
    distance = np.linalg.norm(others[:, :3, 3] - pose[:3, 3], axis=1)
    trace = np.einsum("nij,ij->n", others[:, :3, :3], pose[:3, :3])
    return distance, np.arccos(np.clip((trace - 1) / 2, -1, 1))


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


def shortlist(targets: Sequence[Camera], stored: Poses, count: int) -> NDArray[np.int64]:
    """Return the indices, increasing, of the stored poses that may be useful for any target, at most `count`.

    A cheap look at thousands of poses before `visibilities` has a close one: two metres of distance count as
    much as 60 degrees between the viewing directions.
    """
    if len(stored) <= count:
        return np.arange(len(stored))
    poses = np.stack([target.T_world_cam for target in targets])
    # Squares multiplied out, from an origin nearby: one matrix product, where differences would fill memory.
    origin = poses[:, :3, 3].mean(0)
    here, there = poses[:, :3, 3] - origin, stored[:, :3, 3] - origin
    squares = (here**2).sum(1)[:, None] + (there**2).sum(1) - 2 * here @ there.T
    cost = np.sqrt(np.maximum(squares, 0)) / 2 - 2 * poses[:, :3, 2] @ stored[:, :3, 2].T
    best = cost.min(axis=0)
    # Half of the places are shared out evenly, so that no target of a request is left without views.
    share = max(1, count // (2 * len(targets)))
    best[np.argpartition(cost, share - 1, axis=1)[:, :share]] = -np.inf
    return np.sort(np.argpartition(best, count - 1)[:count])


def frustum_points(cameras: Sequence[Camera], depths: Sequence[float] = SAMPLE_DEPTHS) -> NDArray[np.float64]:
    """Return world points [n, g·g·len(depths), 3], spread over each camera's image and `depths` metres."""
    fx, fy, cx, cy, width, height = np.array([(*c.fxfycxcy, c.width, c.height) for c in cameras]).T[..., None]
    steps = (np.arange(SAMPLE_GRID) + 0.5) / SAMPLE_GRID
    u, v, z = (grid.ravel() for grid in np.meshgrid(steps, steps, depths, indexing="ij"))
    local = np.stack(
        [(u * width - cx) / fx * z, (v * height - cy) / fy * z, np.broadcast_to(z, (len(fx), len(z)))], -1
    )
    poses = np.stack([camera.T_world_cam for camera in cameras])
    return local @ poses[:, :3, :3].transpose(0, 2, 1) + poses[:, None, :3, 3]


def visibilities(
    targets: Sequence[Camera], T_world_cam: Poses, fxfycxcy: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return how well each of n views sees the points that each target looks at, [n, targets, points].

    In [0, 1]: 0 outside of the view's frustum, and less the larger the angle between the lines of sight
    (0.6 at 20 degrees, 0.06 at 45) and the farther away the view is. The points are `frustum_points` of the
    targets; T_world_cam [n, 4, 4] and fxfycxcy [n, 4] are of the views, size (height, width) pixels is that of
    all of them. Occlusion is not known and not considered.
    """
    n, m = len(T_world_cam), len(targets)
    origins = np.stack([target.T_world_cam[:3, 3] for target in targets])
    # From an origin nearby, so that what is multiplied out below keeps its digits.
    shift = origins.mean(0)
    points = frustum_points(targets)
    sight = (points - origins[:, None]).reshape(-1, 3)
    flat, centres = points.reshape(-1, 3) - shift, T_world_cam[:, :3, 3] - shift
    axes = T_world_cam[:, :3, :3].transpose(0, 2, 1)
    x, y, z = ((axes.reshape(-1, 3) @ flat.T).reshape(n, 3, -1) - axes @ centres[..., None]).transpose(
        1, 0, 2
    )
    ahead = z > 1e-6
    inverse = 1 / np.where(ahead, z, 1.0)
    fx, fy, cx, cy = fxfycxcy.T[..., None]
    u, v = fx * x * inverse + cx, fy * y * inverse + cy
    inside = ahead & (u >= 0) & (v >= 0) & (u <= size[1]) & (v <= size[0])
    from_target = np.sqrt((sight**2).sum(1)) + 1e-9
    from_view = np.sqrt(x * x + y * y + z * z) + 1e-9
    cosine = ((flat * sight).sum(1) - centres @ sight.T) / (from_view * from_target)
    agreement = np.square(np.square(np.square(np.clip(cosine, 0, 1))))
    return (inside * agreement * np.minimum(1, from_target / from_view)).reshape(n, m, -1)


def closeness(targets: Sequence[Camera], T_world_cam: Poses) -> NDArray[np.float64]:
    """Return how near n views are to each target in pose, [n, targets]: 1 at the same pose.

    1/e at 60 cm or 40 degrees away, or half of each. Neighbours show surfaces as the target sees them, whatever
    stands in front of them, and views that are near each other fill the range that the model knows.
    """
    pairs = [differences(target.T_world_cam, T_world_cam) for target in targets]
    metres, radians = (np.stack(column, axis=1) for column in zip(*pairs, strict=True))
    return np.exp(-metres / NEAR_DISTANCE - radians / NEAR_ANGLE)


def select(seen: NDArray[np.float64], near: NDArray[np.float64], max_views: int) -> list[int]:
    """Choose the most useful views for a set of targets, best first.

    seen [views, targets, points] from `visibilities`, near [views, targets] from `closeness`. Greedy: every step
    takes the view that adds most to what the chosen ones see best, and, a tenth as much each, the one that sees
    most by itself and the one whose pose is nearest. Returns at most max_views indices.
    """
    flat = seen.reshape(len(seen), -1)
    own = 0.1 * (flat.sum(1) + seen.shape[2] * near.sum(1))
    best = np.zeros(flat.shape[1])
    chosen: list[int] = []
    for _ in range(min(max_views, len(flat))):
        gain = np.maximum(flat - best, 0).sum(1) + own
        gain[chosen] = -1
        index = int(gain.argmax())
        chosen.append(index)
        best = np.maximum(best, flat[index])
    return chosen


def support(seen: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return per target which share of its frustum points the used views see, [targets] in [0, 1].

    seen [views, targets, points] of the views used. 0 tells that a render is invention.
    """
    return (seen.max(0) > 0).mean(1).astype(np.float32)
