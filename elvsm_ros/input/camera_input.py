"""One of the cameras that look at the scene: its images, its calibrations, and where its poses come from."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError, stamp_ns
from elvsm_ros.input import rectification
from elvsm_ros.input.pose_source import Mounted, PoseBuffer, PoseSource
from elvsm_ros.input.rectification import Calibration
from elvsm_ros.input.sync import ImageSync
from elvsm_ros.input.tf_source import MountedByTf, TfPoses, TfTree
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings

KNOWN_CALIBRATIONS = 8
"""Calibrations that are remembered, with the maps of their lenses (6 bytes a pixel)."""
INFO_PATIENCE = 0.25
"""Seconds that an image waits for its own camera_info, where they have come in pairs."""


def T_body_cam(settings: Settings, index: int = 0) -> NDArray[np.float64]:
    """Return the parameter body_to_camera as a 4x4 transform, for one of the cameras."""
    start = 7 * index if len(settings.body_to_camera) > 7 else 0
    values = np.array(settings.body_to_camera[start : start + 7])
    return conversions.parts_to_matrix(values[:3], conversions.check_pose(values[:3], values[3:]))


def pose_source(
    settings: Settings, index: int, body: PoseBuffer, tf: TfTree | PoseSource | None
) -> PoseSource:
    """Return what is asked where a camera was. body: poses that arrive as messages. tf: as Intake takes it."""
    if settings.pose_source == "tf" and tf is not None and not isinstance(tf, TfTree):
        return tf
    T = T_body_cam(settings, index)
    frame = settings.camera_frames[index] if index < len(settings.camera_frames) else ""
    if settings.pose_source == "tf":
        assert isinstance(tf, TfTree)
        return TfPoses(tf, settings.world_frame.lstrip("/"), frame, T)
    if settings.extrinsics == "tf":
        assert isinstance(tf, TfTree)
        return MountedByTf(body, tf, settings.body_frame, frame, T)
    return Mounted(body, T)


class CameraInput:
    """Images of one camera until their pose and their calibration are known.

    name: of its topic, for messages to people; empty when there is but one camera. poses: see `pose_source`.
    reports: where bad calibrations go.
    """

    def __init__(self, name: str, settings: Settings, poses: PoseSource, reports: Reports):
        self.stream = f"image on {name}" if name else "image"
        self.poses = poses
        self.images: ImageSync[Image | CompressedImage] = ImageSync(
            poses, settings.sync_queue, settings.sync_timeout, self._complete
        )
        self.old: list[tuple[int, Image | CompressedImage, float]] = []
        """Images that are far older than the ones before them: it is not clear yet what that means."""
        self.newest: int | None = None  # stamp of an image
        self.seen = -float("inf")  # when it came
        self._name, self._reports, self._rectified = name, reports, settings.images_rectified
        # By stamp, so that an image finds its own camera_info where the driver sends one with every image.
        self._infos: collections.deque[tuple[int, Calibration | str]] = collections.deque(maxlen=64)
        self._unpaired: collections.deque[int] = collections.deque(
            maxlen=8
        )  # stamps of images without theirs
        self._paired = False
        # By calibration, so that a lens's maps are made once, also when infos take turns.
        self._calibrations: collections.OrderedDict[tuple[Any, ...], Calibration | str] = (
            collections.OrderedDict()
        )

    def see(self, message: Image | CompressedImage, now: float) -> int:
        """Take note of an image that arrives, and return its stamp. now: seconds, steady clock."""
        stamp = stamp_ns(message.header.stamp)
        self.newest, self.seen = stamp, now
        see_image = getattr(self.poses, "see_image", None)
        if see_image is not None:
            see_image(message.header.frame_id)
        if any(at == stamp for at, _ in self._infos):
            self._paired = True
        else:
            self._unpaired.append(stamp)
        return stamp

    def add_camera_info(self, message: CameraInfo) -> Calibration | None:
        """Take a CameraInfo, and return what it says; None for a bad one, whose images are unusable."""
        key = rectification.key(message)
        if key not in self._calibrations:
            self._calibrations[key] = self._read(message)
            if len(self._calibrations) > KNOWN_CALIBRATIONS:
                self._calibrations.popitem(last=False)
        calibration = self._calibrations[key]
        stamp = stamp_ns(message.header.stamp)
        self._paired = self._paired or stamp in self._unpaired
        self._infos.append((stamp, calibration))
        return None if isinstance(calibration, str) else calibration

    def _read(self, message: CameraInfo) -> Calibration | str:
        """Return what a message says, or what is wrong with it."""
        try:
            return rectification.read(message, self._rectified)
        except ConversionError as error:
            text = (f"{self._name}: " if self._name else "") + str(error)
            self._reports.add("camera_info", text)
            return text

    def calibration_at(self, stamp: int) -> Calibration | str:
        """Return what is known of the camera of an image, or why it is not.

        That is what its own camera_info says, or else the newest before it.
        """
        before: tuple[int, Calibration | str] | None = None
        for at, calibration in reversed(self._infos):
            if at == stamp:
                return calibration
            if at < stamp and (before is None or at > before[0]):
                before = at, calibration
        if before is not None:
            return before[1]
        if self._infos:  # with stamps of another clock, or the image is from before the first one
            return self._infos[-1][1]
        return (
            "image has no usable camera_info: is the topic published and remapped, and the camera calibrated?"
        )

    def _complete(self, stamp: int, waited: float) -> bool:
        """Tell whether an image need not wait for camera_info: what it is judged by must not hang on luck."""
        if not self._infos:
            return False
        if not self._paired or any(at >= stamp for at, _ in self._infos):
            return True
        if waited > INFO_PATIENCE:
            self._paired = False  # until the next pair: no use in waiting for every image
        return not self._paired

    def forget(self) -> None:
        """Forget images and their clock; calibrations stay."""
        self.images.clear()
        self.old.clear()
        self.newest = None
        self._unpaired.clear()
