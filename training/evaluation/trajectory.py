"""Camera paths for videos: through the given views, or a spiral in front of one of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation, Slerp

Poses = NDArray[np.float64]


class TrajectoryError(ValueError):
    """Views that no path can be laid through."""


def greedy_order(c2w: ArrayLike) -> list[int]:
    """Return an order of the views c2w [V, 4, 4]: first 0, then always the nearest camera centre left."""
    centres = np.asarray(c2w, dtype=np.float64)[:, :3, 3]
    order, left = [0], list(range(1, len(centres)))
    while left:
        distances = np.linalg.norm(centres[left] - centres[order[-1]], axis=1)
        order.append(left.pop(int(distances.argmin())))
    return order


def interpolate(
    c2w: ArrayLike, fxfycxcy: ArrayLike, frames: int, loop: bool = False, ordered: bool = False
) -> tuple[Poses, NDArray[np.float64]]:
    """Interpolate between consecutive views.

    c2w [V, 4, 4], V at least 2; fxfycxcy [V, 4] pixels. frames: per transition, both ends included, so that
    every view in between comes twice, as in the published videos. Rotations follow the shortest arc (slerp),
    centres and intrinsics a line. loop: go back to the first view at the end. ordered: visit the views in the
    order of `greedy_order`. Returns float64 c2w [n, 4, 4] and fxfycxcy [n, 4], n = frames * transitions.
    """
    poses, intrinsics = np.asarray(c2w, dtype=np.float64), np.asarray(fxfycxcy, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or intrinsics.shape != (len(poses), 4):
        raise TrajectoryError(
            f"expected c2w [V, 4, 4] and fxfycxcy [V, 4], got {poses.shape} and {intrinsics.shape}"
        )
    if len(poses) < 2 or frames < 1:
        raise TrajectoryError(
            f"a path needs at least two views and one frame per transition, got {len(poses)} and {frames}"
        )
    stops = greedy_order(poses) if ordered else list(range(len(poses)))
    if loop:
        stops.append(stops[0])
    t = np.linspace(0, 1, frames)
    path, cameras = [], []
    for a, b in itertools.pairwise(stops):
        pose = np.tile(np.eye(4), (frames, 1, 1))
        pose[:, :3, :3] = Slerp([0, 1], Rotation.from_matrix(poses[[a, b], :3, :3]))(t).as_matrix()
        pose[:, :3, 3] = _line(poses[a, :3, 3], poses[b, :3, 3], t)
        path.append(pose)
        cameras.append(_line(intrinsics[a], intrinsics[b], t))
    return np.concatenate(path), np.concatenate(cameras)


def _line(a: NDArray[np.float64], b: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    return (1 - t)[:, None] * a + t[:, None] * b


def spiral(c2w: ArrayLike, frames: int, depth: float = 2.5) -> Poses:
    """Circle twice in front of the view c2w [4, 4] while moving forward, looking at one point.

    The point lies on the view's optical axis at `depth`. Offsets of the centre, in the view's axes: 0.12 to
    the right, 0.2 up and 0.14 to 0.84 forward, all in the units of c2w, which are meant to be the model's.
    Down is the world's +y axis. Returns float64 [frames, 4, 4].
    """
    pose = np.asarray(c2w, dtype=np.float64)
    if pose.shape != (4, 4) or frames < 1:
        raise TrajectoryError(f"expected c2w [4, 4] and at least one frame, got {list(pose.shape)}, {frames}")
    angle = np.linspace(0, 4 * math.pi, frames, endpoint=False)
    advance = 0.7 * (0.2 + angle / (4 * math.pi))
    offset = np.stack([0.12 * np.cos(angle), -0.2 * np.sin(angle), advance], axis=-1)
    centre = pose[:3, 3] + offset @ pose[:3, :3].T
    z = _unit(pose[:3, 3] + depth * pose[:3, 2] - centre)
    x = _unit(np.cross([0.0, 1.0, 0.0], z))
    path = np.tile(np.eye(4), (frames, 1, 1))
    path[:, :3, :] = np.stack([x, np.cross(z, x), z, centre], axis=-1)
    return path


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if bool((length < 1e-9).any()):
        raise TrajectoryError("the spiral is not defined for a camera that looks straight up or down")
    return vectors / length
