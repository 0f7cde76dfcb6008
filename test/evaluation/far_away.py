"""A world painted on a sphere far away: images of it are related by rotations exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

import elvsm_core as ec
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.recordings.bag_writer import CameraBagWriter

CAMERA = Intrinsics(40.0, 42.0, 23.0, 17.0, 48, 32)
SECOND = 1_000_000_000
# The optical frame of a camera that looks along the world's x axis, z up.
LEVEL = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=np.float64)


def pose(seconds: float) -> np.ndarray:
    """Return T_world_cam of a camera that turns by 24 degrees a second and nods, and moves a little."""
    T = np.eye(4)
    turn = Rotation.from_euler("zy", [24 * seconds, 8 * np.sin(3 * seconds)], degrees=True).as_matrix()
    T[:3, :3] = turn @ LEVEL
    T[:3, 3] = (0.1 * seconds, 0.05 * seconds, 1.0)
    return T


def camera(T_world_cam: np.ndarray) -> ec.Camera:
    """Return the camera of the images at a pose."""
    c = CAMERA
    return ec.Camera(c.fx, c.fy, c.cx, c.cy, c.width, c.height, T_world_cam)


def picture(view: ec.Camera) -> np.ndarray:
    """Return what a camera sees, uint8 [H, W, 3]: smooth waves of colour over all directions."""
    u, v = np.meshgrid(np.arange(view.width) + 0.5, np.arange(view.height) + 0.5)
    rays = np.stack([(u - view.cx) / view.fx, (v - view.cy) / view.fy, np.ones_like(u)], -1)
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    world = rays @ view.T_world_cam[:3, :3].T
    waves = np.random.default_rng(1).normal(size=(3, 3)) * 7
    return np.round(127.5 + 120 * np.sin(world @ waves)).astype(np.uint8)


def write_turning(
    path: Path,
    recorded: Callable[[np.ndarray], np.ndarray] = lambda T: T,
    images: int = 24,
    poses_until: float = np.inf,
    pause: tuple[float, float] = (np.inf, np.inf),
    rate: float = 8.0,
) -> Path:
    """Write a recording. recorded: what is written in place of T_world_cam.

    poses_until: seconds after which poses stop. pause: seconds from which, and up to which, there are no poses.
    """
    with CameraBagWriter(path) as bag:

        def add_pose(seconds: float) -> None:
            if seconds <= poses_until and not pause[0] < seconds < pause[1]:
                bag.add_pose(round((10 + seconds) * SECOND), recorded(pose(seconds)))

        for k in range(images):
            add_pose((k - 0.5) / rate)
            bag.add_image(round((10 + k / rate) * SECOND), picture(camera(pose(k / rate))), CAMERA)
        add_pose((images - 0.5) / rate)
    return path
