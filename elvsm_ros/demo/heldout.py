"""Which frames of a recording are held out, and how a render of one compares with copying a keyframe."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import elvsm_core as ec
from elvsm_ros.conversions import RGB, Intrinsics
from elvsm_ros.recordings.bag_reader import SECOND, PosedImage

SAME_METRES, SAME_RADIANS = 1e-3, 2e-3
"""Poses closer than this are one: a frame so close to a keyframe is that keyframe, or a copy of it."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrueView:
    """A frame as the model would see it: uint8 RGB [H, W, 3] at the model's size, its camera, its stamp."""

    stamp: int
    T_world_cam: NDArray[np.float64]
    image: RGB
    camera: Intrinsics


def fit(frame: PosedImage, size: tuple[int, int]) -> TrueView:
    """Crop and resize a frame to (height, width) pixels as the node does with keyframes."""
    rgb, camera = frame.rgb(), frame.intrinsics
    image, fitted = ec.resize_and_crop(
        rgb,
        ec.Camera(camera.fx, camera.fy, camera.cx, camera.cy, rgb.shape[1], rgb.shape[0], frame.T_world_cam),
        size,
    )
    intrinsics = Intrinsics(*fitted.fxfycxcy, fitted.width, fitted.height)
    return TrueView(frame.stamp, frame.T_world_cam, image.numpy(), intrinsics)


def psnr(a: RGB, b: RGB) -> float:
    """Return the PSNR of two uint8 images, dB."""
    import torch

    first, second = (torch.from_numpy(np.array(x)).permute(2, 0, 1)[None].float() / 255 for x in (a, b))
    return float(ec.metrics.psnr(first, second)[0])


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What the node calls a new view: metres or radians from the nearest keyframe."""

    distance: float
    angle: float


class Walked:
    """The frames that the camera has passed so far, and which of them the node has made keyframes.

    frames: a recording's, oldest first. Only the last `memory` seconds are kept, and what became a keyframe.
    """

    def __init__(self, frames: Iterator[PosedImage], thresholds: Thresholds, memory: float = 6.0):
        self._frames, self._thresholds, self._memory = frames, thresholds, round(memory * SECOND)
        self._next: PosedImage | None = next(frames, None)
        self._recent: collections.deque[PosedImage] = collections.deque()
        # By the bytes of their poses, as the node publishes them; None where the frame was not seen.
        self._taken: dict[bytes, PosedImage | TrueView | None] = {}
        self._unseen: list[NDArray[np.float64]] = []
        self.path: list[NDArray[np.float64]] = []
        self.newest_keyframe = 0

    def advance(self, clock: int) -> None:
        """Take note of the frames up to a stamp."""
        while self._next is not None and self._next.stamp <= clock:
            self._recent.append(self._next)
            self.path.append(self._next.T_world_cam)
            self._unseen = [T for T in self._unseen if not self._take(T, self._next)]
            self._next = next(self._frames, None)
        while self._recent and self._recent[0].stamp < clock - self._memory:
            self._recent.popleft()

    def learn(self, keyframes: NDArray[np.float64]) -> None:
        """Take note of the node's keyframes, T_world_cam [n, 4, 4]."""
        for T in keyframes:
            if T.tobytes() not in self._taken and not any(self._take(T, frame) for frame in self._recent):
                self._taken[T.tobytes()] = None
                self._unseen.append(T)

    def _take(self, T: NDArray[np.float64], frame: PosedImage) -> bool:
        """Note it, and tell, if a keyframe was made of a frame."""
        if not _same(frame.T_world_cam, T[None]):
            return False
        self._taken[T.tobytes()] = frame
        self.newest_keyframe = max(self.newest_keyframe, frame.stamp)
        return True

    def candidate(self, keyframes: NDArray[np.float64], after: int, clock: int) -> PosedImage | None:
        """Return the held-out frame behind the camera that is furthest from all keyframes, or None.

        A frame is held out when the node has had its chance to make it a keyframe and did not: a later one
        has become a keyframe, or two seconds have gone by. after, clock: stamps that it lies between.
        """
        if not len(keyframes):
            return None
        best, most = None, 0.0
        for frame in self._recent:
            settled = frame.stamp < self.newest_keyframe or frame.stamp < clock - 2 * SECOND
            if frame.stamp <= after or not settled or _same(frame.T_world_cam, keyframes):
                continue
            _, away = self.nearest(frame.T_world_cam, keyframes)
            if away > most:
                best, most = frame, away
        return best

    def nearest(self, T: NDArray[np.float64], keyframes: NDArray[np.float64]) -> tuple[int, float]:
        """Return the index of the keyframe nearest to a pose, and how far it is, in thresholds."""
        return ec.keyframes.nearest(T, keyframes, self._thresholds.distance, self._thresholds.angle)

    def keyframe_image(self, T: NDArray[np.float64], size: tuple[int, int]) -> RGB | None:
        """Return the image of a keyframe at (height, width) pixels, None if its frame was not seen."""
        taken = self._taken.get(T.tobytes())
        if isinstance(taken, PosedImage):
            taken = self._taken[T.tobytes()] = fit(taken, size)
        return None if taken is None else taken.image

    def is_keyframe(self, frame: PosedImage, keyframes: NDArray[np.float64]) -> bool:
        """Tell whether a frame is a keyframe, or stands where one was taken."""
        return bool(len(keyframes)) and _same(frame.T_world_cam, keyframes)


def _same(T: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    metres, radians = ec.keyframes.differences(T, others)
    return bool(((metres < SAME_METRES) & (radians < SAME_RADIANS)).any())
