"""From messages to keyframe candidates: synchronisation, bad input, admission; no node around it."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from elvsm_ros import conversions, rectification
from elvsm_ros.admission import Admission, Rule
from elvsm_ros.conversions import RGB, ConversionError, Intrinsics, stamp_ns
from elvsm_ros.parameters import Settings
from elvsm_ros.pose_source import PoseBuffer, PoseError
from elvsm_ros.rectification import Calibration, Lens
from elvsm_ros.reports import Reports
from elvsm_ros.sync import ImageSync
from elvsm_ros.tf_source import TfSource
from elvsm_ros.timeline import Order, Timeline

KNOWN_CALIBRATIONS = 8
"""Calibrations that are remembered, with the maps of their lenses (6 bytes a pixel)."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An image that is to become a keyframe: still encoded, with its place in the admission (`key`).

    camera: of `picture()`, which has no distortion in it. stamp: nanoseconds.
    """

    message: Image | CompressedImage
    stamp: int
    T_world_cam: NDArray[np.float64]
    camera: Intrinsics
    key: int
    lens: Lens | None = None

    def picture(self) -> RGB:
        """Decode and rectify: uint8 RGB [H, W, 3] as `camera` sees it. Raises ConversionError."""
        rgb = conversions.image_to_rgb(self.message)
        return rgb if self.lens is None else self.lens.rectify(rgb)


@dataclasses.dataclass
class Counters:
    """What arrived and what became of it, since the node was configured."""

    images_received: int = 0
    poses_received: int = 0
    images_dropped: int = 0
    images_rejected: int = 0


def T_body_cam(settings: Settings) -> NDArray[np.float64]:
    """Return the parameter body_to_camera as a 4x4 transform."""
    values = np.array(settings.body_to_camera)
    return conversions.parts_to_matrix(values[:3], conversions.check_pose(values[:3], values[3:]))


class Intake:
    """Take images, camera infos and poses as they come; hand out those images that become keyframes.

    admit: elvsm_core.keyframes.admit. reports: where faults go; none is raised. tf: where poses come from if
    not from messages. Not to be used from several threads.
    """

    def __init__(
        self, settings: Settings, admit: Callable[..., bool], reports: Reports, tf: TfSource | None = None
    ):
        self.poses = PoseBuffer(settings.pose_buffer, settings.pose_gap, T_body_cam(settings))
        self._tf = tf
        self.admission = Admission(admit)
        self.counters = Counters()
        self.world_frame = settings.world_frame.lstrip("/")
        self.camera: Intrinsics | None = None  # the newest good one: what requests without intrinsics mean
        self.paused = False
        self.held = 0  # while above zero, images are ignored: a reset is under way
        self._images: ImageSync[Image | CompressedImage] = ImageSync(
            tf or self.poses, settings.sync_queue, settings.sync_timeout
        )
        self._sync_timeout = settings.sync_timeout
        self._reports = reports
        # Messages that are far older than the ones before them wait until it is clear what that means.
        self._timeline = Timeline()
        self._old_poses: list[tuple[int, NDArray[np.float64], NDArray[np.float64]]] = []
        self._old_images: list[tuple[int, Image | CompressedImage, float]] = []
        self.on_restart: Callable[[], None] = lambda: None
        """Called when the scene is to be forgotten because the clock was set back."""
        # By stamp, so that an image finds its own camera_info where the driver sends one with every image.
        self._cameras: collections.deque[tuple[int, Calibration | None]] = collections.deque(maxlen=64)
        # By calibration, so that a lens's maps are made once, also when infos of two cameras take turns.
        self._calibrations: collections.OrderedDict[tuple[Any, ...], Calibration | None] = (
            collections.OrderedDict()
        )
        self._images_rectified = settings.images_rectified
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Take over what may change at run time."""
        self._rule_of_jumps = settings.on_time_jump
        self._rule = Rule(
            settings.keyframe_distance, float(np.deg2rad(settings.keyframe_angle)), settings.keyframe_max_rate
        )

    def add_camera_info(self, message: CameraInfo) -> None:
        """Take a CameraInfo. A bad one makes the images it belongs to unusable, until a good one arrives."""
        key = rectification.key(message)
        if key not in self._calibrations:
            self._calibrations[key] = self._read(message)
            if len(self._calibrations) > KNOWN_CALIBRATIONS:
                self._calibrations.popitem(last=False)
        calibration = self._calibrations[key]
        if calibration is not None:
            self.camera = calibration.camera
        self._cameras.append((stamp_ns(message.header.stamp), calibration))

    def _read(self, message: CameraInfo) -> Calibration | None:
        try:
            return rectification.read(message, self._images_rectified)
        except ConversionError as error:
            self._reports.add("camera_info", str(error))
            return None

    def add_pose(self, stamp: Any, frame_id: str, pose: Pose) -> None:
        """Take a pose: message stamp, the frame it is given in, and the pose itself."""
        self.counters.poses_received += 1
        frame_id = frame_id.lstrip("/")
        if not self.world_frame:
            self.world_frame = frame_id
        if frame_id and frame_id != self.world_frame:
            self._reports.add(
                "pose",
                f"pose is given in frame {frame_id!r} but the world frame is {self.world_frame!r}: set "
                f"world_frame, or remap the pose topic to the right source",
            )
            return
        p, q = pose.position, pose.orientation
        parts = stamp_ns(stamp), np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])
        order = self._timeline.see("pose", parts[0])
        if order is Order.STALE:
            return
        if order is Order.JUMP:
            self._jump("pose")
        elif order is Order.OLD:
            self._old_poses.append(parts)
        else:
            self._old_poses.clear()
        self._add_pose(*parts)

    def _add_pose(self, stamp: int, translation: NDArray[np.float64], xyzw: NDArray[np.float64]) -> None:
        try:
            self.poses.add(stamp, translation, xyzw)
        except PoseError as error:
            self._reports.add("pose", str(error))

    def add_image(self, message: Image | CompressedImage, now: float) -> None:
        """Take an image. now: seconds, steady clock."""
        self.counters.images_received += 1
        if self.paused or self.held:
            return
        if self._tf is not None:
            self._tf.see_image(message.header.frame_id)
        stamp = stamp_ns(message.header.stamp)
        order = self._timeline.see("image", stamp)
        if order is Order.STALE:
            self.counters.images_dropped += 1
            return
        if order is Order.OLD:  # not asked for its pose until it is clear which clock its stamp is of
            self._old_images.append((stamp, message, now))
            return
        if order is Order.JUMP:
            self._jump("image")
        else:
            self._reject_old_images(math.inf)
        self._add_image(stamp, message, now)

    def _add_image(self, stamp: int, message: Image | CompressedImage, now: float) -> None:
        for unposed in self._images.add(stamp, message, now):
            self.counters.images_dropped += 1
            self._reports.add("image", unposed.message)

    def _jump(self, stream: str) -> None:
        """Start anew with what came after the clock was set back."""
        poses, images = list(self._old_poses), list(self._old_images)
        self._forget_input()
        reset = self._rule_of_jumps == "reset"
        self._reports.add(
            "clock",
            f"the stamps of {stream}s went back, the clock was set back (a recording started again?): "
            + ("the scene is forgotten" if reset else "the scene is kept")
            + f" (on_time_jump: {self._rule_of_jumps})",
        )
        if reset:
            self.admission.clear()
            self.on_restart()
        for pose in poses:
            self._add_pose(*pose)
        for image in images:
            self._add_image(*image)

    def _reject_old_images(self, before: float) -> None:
        """Give up the late images that arrived before a time."""
        while self._old_images and self._old_images[0][2] < before:
            self._old_images.pop(0)
            self.reject(
                "image is more than a second older than one before it: two cameras on one topic, or a link "
                "that holds messages back"
            )

    def poll(self, now: float) -> list[Candidate]:
        """Return the images that have become candidates. Call it after every message and now and then."""
        self._reject_old_images(now - self._sync_timeout)
        posed, unposed = self._images.poll(now)
        for image in unposed:
            self.reject(image.message)
        candidates = []
        for item in posed:
            calibration = self.calibration_at(item.stamp)
            if calibration is None:
                self.reject(
                    "image has no usable camera_info: is the topic published and remapped, and the camera "
                    "calibrated?"
                )
                continue
            key = self.admission.offer(item.T_world_cam, item.stamp, self._rule)
            if key is not None:
                candidates.append(Candidate(
                    item.payload, item.stamp, item.T_world_cam, calibration.camera, key, calibration.lens
                ))  # fmt: skip
        return candidates

    def reject(self, message: str) -> None:
        """Note that an image was refused as bad input."""
        self.counters.images_rejected += 1
        self._reports.add("image", message)

    def pause(self, paused: bool) -> None:
        """Count images but ignore them from now on, those that wait for a pose included; or stop that."""
        self.paused = paused
        self._images.clear()
        self._old_images.clear()

    def forget_poses(self) -> None:
        """Forget poses and waiting images: the world frame is another one from now on."""
        self._forget_input()

    def clear(self) -> None:
        """Forget poses, waiting images and the places of keyframes; cameras and counters stay."""
        self._forget_input()
        self._timeline.clear()
        self.admission.clear()

    def _forget_input(self) -> None:
        self.poses.clear()
        if self._tf is not None:
            self._tf.clear()
        self._images.clear()
        self._old_poses.clear()
        self._old_images.clear()

    def calibration_at(self, stamp: int) -> Calibration | None:
        """Return what is known of the camera of an image: its own camera_info's, or else the newest."""
        for at, calibration in reversed(self._cameras):
            if at == stamp:
                return calibration
        return self._cameras[-1][1] if self._cameras else None
