"""Which images become keyframes: far enough from every stored one, and not too often."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SECOND = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Rule:
    """distance (m) or angle (rad) from the nearest keyframe that is asked for; rate (Hz, 0: any) allowed."""

    distance: float
    angle: float
    rate: float


class Admission:
    """Decide on images by their poses alone, before anything is decoded.

    An admitted image holds its place from that moment on, so that the images right behind it are judged
    against it although it still waits for the device. `release` gives the place up when the image turns out
    to be unusable or its keyframe is evicted. admit: elvsm_core.keyframes.admit.
    """

    def __init__(self, admit: Callable[[NDArray, NDArray, float, float], bool]):
        self._admit = admit
        self._poses = np.empty((64, 4, 4))
        self._keys: list[int] = []  # of the rows of _poses
        self._rows: dict[int, int] = {}  # by key
        self._stamps: dict[int, tuple[int, int]] = {}  # by key: of which camera, and its image's stamp
        self._last: dict[int, int] = {}  # by camera: stamp of its newest keyframe
        self._next = 0

    def __len__(self) -> int:
        return len(self._keys)

    def offer(self, T_world_cam: NDArray[np.float64], stamp: int, rule: Rule, camera: int = 0) -> int | None:
        """Return the key of the place that an image got, or None if it is no keyframe.

        stamp: nanoseconds. camera: which one it is of; each has a rate of its own.
        """
        # By the images' own clock: a recording played twice, at whatever speed, gives the same keyframes.
        last = self._last.get(camera)
        if rule.rate and last is not None and abs(stamp - last) < SECOND / rule.rate:
            return None
        if not self._admit(T_world_cam, self._poses[: len(self._keys)], rule.distance, rule.angle):
            return None
        return self.hold(T_world_cam, stamp, camera)

    def hold(self, T_world_cam: NDArray[np.float64], stamp: int, camera: int = 0) -> int:
        """Return the key of the place of a keyframe that there is already. stamp, camera: as for `offer`."""
        count = len(self._keys)
        if count == len(self._poses):
            self._poses = np.concatenate([self._poses, np.empty_like(self._poses)])
        self._poses[count] = T_world_cam
        key = self._next
        self._next += 1
        self._keys.append(key)
        self._rows[key] = count
        self._stamps[key] = camera, stamp
        self._last[camera] = stamp
        return key

    def release(self, key: int) -> None:
        """Give up a place. A key from before `clear` is ignored."""
        if key not in self._stamps:
            return
        row, last = self._rows[key], len(self._keys) - 1
        self._poses[row], self._keys[row] = self._poses[last], self._keys[last]
        self._rows[self._keys[row]] = row
        self._keys.pop()
        del self._rows[key]
        camera, stamp = self._stamps.pop(key)
        if stamp == self._last.get(camera):
            left = [at for of, at in self._stamps.values() if of == camera]
            self._last.pop(camera)
            if left:
                self._last[camera] = max(left)

    def move(self, key: int, T_world_cam: NDArray[np.float64]) -> None:
        """Say where a keyframe is now. A key that is not held is ignored."""
        if key in self._stamps:
            self._poses[self._rows[key]] = T_world_cam

    def clear(self) -> None:
        """Forget every place."""
        self._keys.clear()
        self._rows.clear()
        self._stamps.clear()
        self._last.clear()
