"""Cameras and paths between viser's words and ROS's, as pure functions.

viser's cameras have OpenCV's axes (x right, y down, z forward), like REP 103's optical frames, in the same world:
nothing is turned, only quaternions are written in another order (w first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.viewer.options import UP

Matrix = NDArray[np.float64]


def matrix_of(wxyz: NDArray[np.float64], position: NDArray[np.float64]) -> Matrix:
    """Return T_world_cam [4, 4] of a viser camera. Raises ConversionError for NaN and a norm far from one."""
    w, x, y, z = (float(v) for v in wxyz)
    position = np.asarray(position, np.float64)
    return conversions.parts_to_matrix(position, conversions.check_pose(position, np.array([x, y, z, w])))


def wxyz_of(T: Matrix) -> tuple[float, float, float, float]:
    """Return the rotation of a rigid 4x4 transform as viser wants it."""
    x, y, z, w = conversions.provider().quaternion_from_matrix(np.asarray(T[:3, :3]))
    return float(w), float(x), float(y), float(z)


def camera_of(fov: float, aspect: float, height: int) -> Intrinsics:
    """Return the camera whose picture, stretched over the page, lies under what the page draws.

    fov: vertical, radians. aspect: of the page, width over height. height: of the picture, pixels. Both sides are
    made even (H.264 needs it); the focal lengths differ by what that rounds off the width.
    """
    height = max(2, 2 * round(height / 2))
    width = max(2, 2 * round(height * aspect / 2))
    half = math.tan(fov / 2)
    return Intrinsics(width / (2 * half * aspect), height / (2 * half), width / 2, height / 2, width, height)


def vertical_fov(camera: Intrinsics) -> float:
    """Return a camera's vertical field of view, radians, as if its centre were the picture's."""
    return 2 * math.atan(camera.height / (2 * camera.fy))


def up_direction(poses: Sequence[Matrix] | NDArray[np.float64], wanted: str = "auto") -> tuple[float, ...]:
    """Return the direction of the world that is up.

    auto: the axis nearest to what the cameras hold upright, on average; z, as REP 103 has it, without cameras.
    """
    if wanted != "auto":
        return UP[wanted]
    if not len(poses):
        return UP["+z"]
    mean = -np.asarray(poses)[:, :3, 1].mean(axis=0)
    return max(UP.values(), key=lambda axis: float(np.dot(axis, mean)))


def resample(times: Sequence[float], poses: Sequence[Matrix], rate: float) -> list[Matrix]:
    """Return the poses of a recorded movement at `rate` per second, from its first to its last.

    times: seconds, rising. Positions are interpolated linearly, rotations along the shortest arc.
    """
    if len(poses) < 2:
        return list(poses)
    steps = np.arange(times[0], times[-1] + 1e-9, 1 / rate)
    found = []
    for t in steps:
        after = min(max(int(np.searchsorted(times, t, side="right")), 1), len(poses) - 1)
        a, b = poses[after - 1], poses[after]
        fraction = float(np.clip((t - times[after - 1]) / max(times[after] - times[after - 1], 1e-9), 0, 1))
        quaternions = [conversions.provider().quaternion_from_matrix(T[:3, :3]) for T in (a, b)]
        found.append(
            conversions.parts_to_matrix(
                (1 - fraction) * a[:3, 3] + fraction * b[:3, 3], conversions.slerp(*quaternions, fraction)
            )
        )
    return found


def drawn(count: int, limit: int) -> range:
    """Return which of `count` keyframes are drawn when `limit` may be: all, every second, ...; the newest is."""
    step = max(1, math.ceil(count / limit))
    return range((count - 1) % step, count, step) if count else range(0)
