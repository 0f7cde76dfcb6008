"""What every page shows of the node: its keyframes as frusta with small pictures, the path, the newest camera."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import viser

from elvsm_ros import KeyframeList
from elvsm_ros.conversions import RGB, Intrinsics
from elvsm_ros.viewer.geometry import drawn, up_direction, vertical_fov, wxyz_of

Key = tuple[int, int]

GREY, RED = (120, 130, 140), (235, 80, 40)
DEFAULT_CAMERA = Intrinsics(111.0, 111.0, 64.0, 64.0, 128, 128)
"""60 degrees, square: drawn before the node's own camera is known."""


@dataclasses.dataclass
class Frustum:
    """A drawn keyframe. asked: whether its picture is here or under way."""

    handle: Any
    pose: np.ndarray
    asked: bool = False


class Scenery:
    """Draw keyframes on a viser server, and change only what has changed. Used from one thread.

    size: length of the frusta, metres. limit: keyframes drawn at most.
    """

    def __init__(self, server: viser.ViserServer, up: str, limit: int, size: float = 0.12):
        self._server, self._up, self._limit, self._size = server, up, limit, size
        self._frusta: dict[Key, Frustum] = {}
        self._newest: Any = None
        self._path: Any = None
        self._shown: tuple[KeyframeList | None, float, bool, Intrinsics | None] = (None, size, True, None)
        self._camera: Intrinsics = DEFAULT_CAMERA
        self.up: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self._frusta)

    @property
    def camera(self) -> Intrinsics:
        """The camera that is drawn."""
        return self._camera

    @property
    def pictures(self) -> int:
        """How many of the drawn keyframes have their small picture."""
        return sum(frustum.handle.image is not None for frustum in self._frusta.values())

    def show(self, held: KeyframeList, camera: Intrinsics | None, size: float, visible: bool) -> None:
        """Draw these keyframes, as cameras of this kind. size: length of the frusta, metres."""
        if self._shown == (
            held,
            size,
            visible,
            camera,
        ):  # compared by identity: held is replaced, not changed
            return
        anew = self._shown[1:] != (size, visible, camera)
        self._shown, self._size = (held, size, visible, camera), size
        self._camera = camera or DEFAULT_CAMERA
        if self.up is None and len(held):
            # With the first keyframes and never again: a horizon that jumps makes people seasick.
            self.up = up_direction(held.poses, self._up)
            self._server.scene.set_up_direction(self.up)
        elif not len(held):
            self.up = None
        keys = list(zip(held.ids, held.stamps, strict=True))
        chosen = {keys[i]: held.poses[i] for i in drawn(len(keys), self._limit)} if visible else {}
        with self._server.atomic():
            for key in [key for key in self._frusta if key not in chosen or anew]:
                self._frusta.pop(key).handle.remove()
            for key, T in chosen.items():
                self._draw(key, T)
            self._draw_path(held.poses if visible else held.poses[:0])
            self._draw_newest(held.poses if visible else held.poses[:0])

    def wants_picture(self) -> tuple[Key, np.ndarray] | None:
        """Return a drawn keyframe without a picture (its key, T_world_cam), the newest first."""
        for key, frustum in reversed(self._frusta.items()):
            if not frustum.asked:
                frustum.asked = True
                return key, frustum.pose
        return None

    def set_picture(self, key: Key, picture: RGB | None) -> None:
        """Put a picture on a keyframe; None: it could not be had, ask again."""
        frustum = self._frusta.get(key)
        if frustum is None:
            return
        frustum.asked = picture is not None
        if picture is not None:
            frustum.handle.image = picture

    def _draw(self, key: Key, T: np.ndarray) -> None:
        frustum = self._frusta.get(key)
        if frustum is None:
            self._frusta[key] = Frustum(self._add(f"/keyframes/k{key[0]}_{key[1]}", T, GREY, self._size), T)
        elif not np.array_equal(frustum.pose, T):  # after a loop closure
            frustum.pose = T
            frustum.handle.wxyz, frustum.handle.position = wxyz_of(T), tuple(T[:3, 3])

    def _draw_newest(self, poses: np.ndarray) -> None:
        # One that is there already is replaced by its name.
        if len(poses):
            self._newest = self._add("/newest_camera", poses[-1], RED, 1.6 * self._size)
        elif self._newest is not None:
            self._newest.remove()
            self._newest = None

    def _draw_path(self, poses: np.ndarray) -> None:
        if len(poses) > 1:
            ends = poses[:, :3, 3]
            self._path = self._server.scene.add_line_segments(
                "/path", np.stack([ends[:-1], ends[1:]], axis=1).astype(np.float32), np.array(RED),
                thickness=2.0, thickness_units="screen",
            )  # fmt: skip
        elif self._path is not None:
            self._path.remove()
            self._path = None

    def _add(self, name: str, T: np.ndarray, color: tuple[int, int, int], size: float) -> Any:
        camera = self._camera
        fov = vertical_fov(camera)
        return self._server.scene.add_camera_frustum(
            name,
            fov=fov,
            aspect=camera.width * camera.fy / (camera.height * camera.fx),
            # viser keeps the volume: a wide lens would become a flat plate, a narrow one a spike.
            scale=size * (2 * math.tan(fov / 2)) ** (1 / 3),
            thickness=1.5,
            thickness_units="screen",
            color=color,
            wxyz=wxyz_of(T),
            position=tuple(T[:3, 3]),
            cast_shadow=False,
            receive_shadow=False,
        )
