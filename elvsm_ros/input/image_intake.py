"""From messages to keyframe candidates: synchronisation, bad input, admission; no node around it."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from elvsm_ros import conversions
from elvsm_ros.conversions import RGB, ConversionError, Intrinsics, stamp_ns
from elvsm_ros.input.admission import Admission, Rule
from elvsm_ros.input.camera_input import CameraInput, pose_source
from elvsm_ros.input.clock_jumps import Order, Timeline
from elvsm_ros.input.pose_source import PoseBuffer, PoseError, PoseSource
from elvsm_ros.input.quality import Gate
from elvsm_ros.input.rectification import Calibration, Lens
from elvsm_ros.input.tf_source import MountedByTf, TfTree
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings
from elvsm_ros.quoting import LONGEST_FRAME, quoted

CAMERA_PATIENCE = 0.25
"""Seconds for which an image waits for older ones of the other cameras."""
OLD_PATIENCE = 2.0
"""Seconds after which messages with old stamps are late ones, and not the first of a clock that was set back."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An image that is to become a keyframe: still encoded, with its place in the admission (`key`).

    camera: of `picture()`, which has no distortion in it. stamp: nanoseconds. gate: what the picture must be
    like.
    """

    message: Image | CompressedImage
    stamp: int
    T_world_cam: NDArray[np.float64]
    camera: Intrinsics
    key: int
    lens: Lens | None = None
    gate: Gate | None = None

    def picture(self) -> RGB:
        """Decode, judge and rectify: uint8 RGB [H, W, 3] as `camera` sees it. Raises ConversionError."""
        rgb = conversions.image_to_rgb(self.message)
        if self.gate is not None:
            self.gate.check(rgb)
        return rgb if self.lens is None else self.lens.rectify(rgb)


@dataclasses.dataclass
class Counters:
    """What arrived and what became of it, since the node was configured."""

    images_received: int = 0
    poses_received: int = 0
    images_dropped: int = 0
    images_rejected: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Ready:
    """An image that is complete and waits to be judged; `camera` is its camera's place among the settings'."""

    stamp: int
    camera: int
    message: Image | CompressedImage
    T_world_cam: NDArray[np.float64]


class Intake:
    """Take images, camera infos and poses as they come; hand out those images that become keyframes.

    Which images these are depends on their stamps, not on when messages happen to arrive: an image is judged
    when it is complete and all older ones have been.

    admit: elvsm_core.keyframes.admit. reports: where faults go; none is raised. tf: TF where it is listened to;
    or, with pose_source 'tf', any other source of the poses of a single camera. Not to be used from several
    threads.
    """

    def __init__(
        self,
        settings: Settings,
        admit: Callable[..., bool],
        reports: Reports,
        tf: TfTree | PoseSource | None = None,
    ):
        self.poses = PoseBuffer(settings.pose_buffer, settings.pose_gap)
        self._tf = tf
        self.admission = Admission(admit)
        self.counters = Counters()
        self.world_frame = self._set_world_frame = settings.world_frame.lstrip("/")
        self.camera: Intrinsics | None = None
        """The first camera's newest good calibration: what requests without intrinsics mean."""
        self.paused = False
        self.held = 0  # while above zero, images are ignored: a reset is under way
        self._reports = reports
        names = settings.image_topics if len(settings.image_topics) > 1 else [""]
        self._cameras = [
            CameraInput(name, settings, pose_source(settings, index, self.poses, tf), reports)
            for index, name in enumerate(names)
        ]
        self._ready: list[Ready] = []  # by stamp
        # Messages that are far older than the ones before them wait until it is clear what that means.
        self._timeline = Timeline()
        self._old_poses: list[tuple[int, NDArray[np.float64], NDArray[np.float64]]] = []
        self._old_poses_since: float | None = None
        self.on_restart: Callable[[], None] = lambda: None
        """Called when the scene is to be forgotten because the clock was set back."""
        self._no_extrinsics = settings.extrinsics == "parameter" and settings.body_to_camera[:7] == (
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0,
        )  # fmt: skip
        self._body_frame = ""
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Take over what may change at run time."""
        self._rule_of_jumps = settings.on_time_jump
        self._gate = Gate(settings.max_blur, settings.max_clipped)
        self._rule = Rule(
            settings.keyframe_distance, float(np.deg2rad(settings.keyframe_angle)), settings.keyframe_max_rate
        )
        self._backlog_limit = settings.insert_queue
        self._ready_limit = settings.insert_queue + len(self._cameras) * settings.sync_queue
        self.poses.limit(settings.pose_gap)
        for camera in self._cameras:
            camera.images.limit(settings.sync_queue, settings.sync_timeout)

    def add_camera_info(self, message: CameraInfo, camera: int = 0) -> None:
        """Take a CameraInfo. A bad one makes the images it belongs to unusable, until a good one arrives."""
        calibration = self._cameras[camera].add_camera_info(message)
        if camera == 0 and calibration is not None:
            self.camera = calibration.camera

    def add_pose(self, stamp: Any, frame_id: str, pose: Pose, body_frame: str = "") -> None:
        """Take a pose: message stamp, the frame it is given in, the pose itself, the frame that has it."""
        self.counters.poses_received += 1
        frame_id = frame_id.lstrip("/")
        p, q = pose.position, pose.orientation
        parts = stamp_ns(stamp), np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])
        if not self.world_frame and not self._decide_world_frame(frame_id, *parts[1:]):
            return
        if frame_id and frame_id != self.world_frame:
            self._reports.add(
                "pose",
                f"pose is given in frame {quoted(frame_id)} but the world frame is {quoted(self.world_frame)}: set "
                f"world_frame, or remap the pose topic to the right source",
            )
            return
        if body_frame and body_frame != self._body_frame:
            self._see_body(body_frame)
        order = self._timeline.see("pose", parts[0])
        if order is Order.STALE:
            return
        if order is Order.JUMP:
            self._jump("pose")
        elif order is Order.OLD:  # not refused until it is clear which clock its stamp is of
            self._old_poses.append(parts)
            return
        else:
            self._refuse_old_poses()
        if order is Order.BACK:
            self._drop_pose_ahead(parts[0])
        self._add_pose(*parts)

    def _decide_world_frame(
        self, frame_id: str, translation: NDArray[np.float64], xyzw: NDArray[np.float64]
    ) -> bool:
        """Let the frame of a pose be the world frame, unless the pose is none."""
        try:
            conversions.check_pose(translation, xyzw)
        except ConversionError as error:
            self._reports.add("pose", str(error))
            return False
        if len(frame_id) > LONGEST_FRAME:
            self._reports.add(
                "pose", f"pose is given in frame {quoted(frame_id)}, which is too long for a name"
            )
            return False
        self.world_frame = frame_id
        return True

    def _refuse_old_poses(self) -> None:
        """Have the buffer say what is wrong with the late poses."""
        for parts in self._old_poses:
            self._add_pose(*parts)
        self._old_poses.clear()
        self._old_poses_since = None

    def _drop_pose_ahead(self, stamp: int) -> None:
        newest = self.poses.newest
        if newest is not None and newest > stamp:
            self.poses.drop_newest()
            self._reports.add(
                "pose",
                f"pose is {(newest - stamp) / 1e9:.0f} s ahead of the next one and is left out: does a second source "
                f"publish it, with another clock?",
            )

    def _see_body(self, frame_id: str) -> None:
        self._body_frame = frame_id
        for camera in self._cameras:
            if isinstance(camera.poses, MountedByTf):
                camera.poses.see_body(frame_id)

    def _add_pose(self, stamp: int, translation: NDArray[np.float64], xyzw: NDArray[np.float64]) -> None:
        try:
            self.poses.add(stamp, translation, xyzw)
        except PoseError as error:
            self._reports.add("pose", str(error))

    def add_image(self, message: Image | CompressedImage, now: float, camera: int = 0) -> None:
        """Take an image. now: seconds, steady clock. camera: its place in image_topics."""
        self.counters.images_received += 1
        if self.paused or self.held:
            return
        source = self._cameras[camera]
        stamp = source.see(message, now)
        self._check_extrinsics(message.header.frame_id.lstrip("/"))
        order = self._timeline.see(source.stream, stamp)
        if order is Order.STALE:
            self.counters.images_dropped += 1
            return
        if order is Order.OLD:  # not asked for its pose until it is clear which clock its stamp is of
            source.old.append((stamp, message, now))
            return
        if order is Order.JUMP:
            self._jump(source.stream)
            source.newest = stamp
        else:
            self._reject_old_images(source, math.inf)
        self._add_image(source, stamp, message, now)

    def _add_image(
        self, source: CameraInput, stamp: int, message: Image | CompressedImage, now: float
    ) -> None:
        for unposed in source.images.add(stamp, message, now):
            self.counters.images_dropped += 1
            self._reports.add("image", unposed.message)

    def _check_extrinsics(self, frame_id: str) -> None:
        """Say so, once, when a body's poses are about to be taken for a camera's."""
        if self._no_extrinsics and self._body_frame and frame_id and frame_id != self._body_frame:
            self._no_extrinsics = False
            self._reports.add(
                "pose",
                f"odometry tells where {quoted(self._body_frame)} is, images come from {quoted(frame_id)}, and "
                f"body_to_camera says that both are the same: unless they are, set body_to_camera, or extrinsics to tf",
            )

    def _jump(self, stream: str) -> None:
        """Start anew with what came after the clock was set back."""
        poses = list(self._old_poses)
        images = [(camera, *image) for camera in self._cameras for image in camera.old]
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

    def _reject_old_images(self, camera: CameraInput, before: float) -> None:
        """Give up the late images that arrived before a time."""
        while camera.old and camera.old[0][2] < before:
            camera.old.pop(0)
            self.reject(
                "image is more than a second older than one before it: two cameras on one topic, or a link "
                "that holds messages back"
            )

    def poll(self, now: float) -> list[Candidate]:
        """Return the images that have become candidates, all that can be judged by now."""
        self.collect(now)
        candidates = []
        while (candidate := self.next(now)) is not None:
            candidates.append(candidate)
        return candidates

    @property
    def backlog(self) -> int:
        """Number of images that are complete, and wait to be judged."""
        return len(self._ready)

    def collect(self, now: float) -> None:
        """See which images are complete. Call it after every message and now and then. now: seconds, steady."""
        if self._old_poses:
            self._old_poses_since = now if self._old_poses_since is None else self._old_poses_since
            if now - self._old_poses_since > OLD_PATIENCE:
                self._refuse_old_poses()
        for index, camera in enumerate(self._cameras):
            self._reject_old_images(camera, now - OLD_PATIENCE)
            posed, unposed = camera.images.poll(now)
            for image in unposed:
                self.reject(image.message)
            for item in posed:
                ready = Ready(item.stamp, index, item.payload, item.T_world_cam)
                bisect.insort(self._ready, ready, key=lambda r: (r.stamp, r.camera))
        self._drop_oldest(self._ready_limit)

    def make_room(self) -> None:
        """Keep only the newest insert_queue of the complete images: nothing can become of them for now."""
        self._drop_oldest(self._backlog_limit)

    def _drop_oldest(self, limit: int) -> None:
        excess = len(self._ready) - limit
        if excess > 0:
            del self._ready[:excess]
            self.counters.images_dropped += excess
            self._reports.add(
                "image",
                f"more than {limit} images wait while the device corrects or clears the scene, or for those of other "
                f"cameras: the oldest are left out",
            )

    def next(self, now: float, busy: bool = False) -> Candidate | None:
        """Judge complete images, oldest first, and return the first that becomes a keyframe, or None.

        busy: it is not known yet what became of the candidate before; images are judged without that only
        when more than insert_queue of them wait.
        """
        while self._ready and len(self._ready) > (self._backlog_limit if busy else 0):
            if self._waits_for_others(self._ready[0], now):
                return None
            item = self._ready.pop(0)
            candidate = self._judge(item)
            if candidate is not None:
                return candidate
        return None

    def _waits_for_others(self, item: Ready, now: float) -> bool:
        """Tell whether an older image may still come before this one."""
        for index, camera in enumerate(self._cameras):
            oldest = camera.images.oldest
            if oldest is not None and oldest < item.stamp:
                return True
            if index == item.camera or now - camera.seen > CAMERA_PATIENCE or camera.newest is None:
                continue
            if camera.newest < item.stamp:
                return True
        return False

    def _judge(self, item: Ready) -> Candidate | None:
        calibration = self._cameras[item.camera].calibration_at(item.stamp)
        if isinstance(calibration, str):
            self.reject(calibration, "camera_info")
            return None
        key = self.admission.offer(item.T_world_cam, item.stamp, self._rule, item.camera)
        if key is None:
            return None
        return Candidate(
            item.message, item.stamp, item.T_world_cam, calibration.camera, key, calibration.lens, self._gate
        )

    def reject(self, message: str, kind: str = "image") -> None:
        """Note that an image was refused as bad input. kind: of the report."""
        self.counters.images_rejected += 1
        self._reports.add(kind, message)

    def pause(self, paused: bool) -> None:
        """Count images but ignore them from now on, those that wait for a pose included; or stop that."""
        self.paused = paused
        self._forget_images()

    def forget_poses(self) -> None:
        """Forget poses and waiting images: the world frame is another one from now on."""
        self._forget_input()

    def forget_world_frame(self) -> None:
        """Let the next pose decide the world frame anew, unless it is set."""
        self.world_frame = self._set_world_frame

    def clear(self) -> None:
        """Forget poses, waiting images and the places of keyframes; cameras and counters stay."""
        self._forget_input()
        self._timeline.clear()
        self.admission.clear()

    def _forget_images(self) -> None:
        self._ready.clear()
        for camera in self._cameras:
            camera.forget()

    def _forget_input(self) -> None:
        self.poses.clear()
        if self._tf is not None:
            self._tf.clear()
        self._forget_images()
        self._old_poses.clear()
        self._old_poses_since = None

    def calibration_at(self, stamp: int, camera: int = 0) -> Calibration | None:
        """Return what is known of the camera of an image, or None where that is nothing good."""
        calibration = self._cameras[camera].calibration_at(stamp)
        return None if isinstance(calibration, str) else calibration

    def from_frame(self, frame_id: str) -> NDArray[np.float64]:
        """Return T_world_frame [4, 4] by TF. Raises PoseError where that is not known."""
        if not isinstance(self._tf, TfTree):
            raise PoseError("frame", "only the world frame is known here: transform them first")
        if not self.world_frame:
            raise PoseError(
                "frame", "no pose has arrived that tells the world frame: wait, or set world_frame"
            )
        return self._tf.from_frame(self.world_frame, frame_id)
