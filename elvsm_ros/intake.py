"""From messages to keyframe candidates: synchronisation, bad input, admission; no node around it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from elvsm_ros import conversions
from elvsm_ros.admission import Admission, Rule
from elvsm_ros.conversions import ConversionError, Intrinsics, stamp_ns
from elvsm_ros.parameters import Settings
from elvsm_ros.pose_source import PoseBuffer, PoseError
from elvsm_ros.reports import Reports
from elvsm_ros.sync import ImageSync


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An image that is to become a keyframe: still encoded, with its place in the admission (`key`)."""

    message: Image | CompressedImage
    stamp: int
    T_world_cam: NDArray[np.float64]
    camera: Intrinsics
    key: int


@dataclasses.dataclass
class Counters:
    """What arrived and what became of it, since the node was configured."""

    images_received: int = 0
    poses_received: int = 0
    images_dropped: int = 0
    images_rejected: int = 0


class Intake:
    """Take images, camera infos and poses as they come; hand out those images that become keyframes.

    admit: elvsm_core.keyframes.admit. reports: where faults go; none is raised. Not to be used from several
    threads.
    """

    def __init__(self, settings: Settings, admit: Callable[..., bool], reports: Reports):
        body_to_camera = np.array(settings.body_to_camera)
        T_body_cam = conversions.parts_to_matrix(
            body_to_camera[:3], conversions.check_pose(body_to_camera[:3], body_to_camera[3:])
        )
        self.poses = PoseBuffer(settings.pose_buffer, settings.pose_gap, T_body_cam)
        self.admission = Admission(admit)
        self.counters = Counters()
        self.world_frame = settings.world_frame.lstrip("/")
        self.camera: Intrinsics | None = None  # the newest good one: what requests without intrinsics mean
        self.paused = False
        self.held = 0  # while above zero, images are ignored: a reset is under way
        self._images: ImageSync[Image | CompressedImage] = ImageSync(
            self.poses, settings.sync_queue, settings.sync_timeout
        )
        self._reports = reports
        # By stamp, so that an image finds its own camera_info where the driver sends one with every image.
        self._cameras: collections.deque[tuple[int, Intrinsics | None]] = collections.deque(maxlen=64)
        self._last_info: tuple[Any, ...] = ()
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Take over what may change at run time."""
        self._rule = Rule(
            settings.keyframe_distance, float(np.deg2rad(settings.keyframe_angle)), settings.keyframe_max_rate
        )

    def add_camera_info(self, message: CameraInfo) -> None:
        """Take a CameraInfo. A bad one makes the images it belongs to unusable, until a good one arrives."""
        content = (message.width, message.height, message.k.tobytes(), tuple(message.d))
        stamp = stamp_ns(message.header.stamp)
        if content == self._last_info:
            self._cameras.append((stamp, self._cameras[-1][1]))
            return
        self._last_info = content
        camera = None
        try:
            camera = self.camera = conversions.intrinsics(message)
            if conversions.is_distorted(message):
                self._reports.add(
                    "camera_info",
                    f"the image is not rectified (camera_info has {message.distortion_model} distortion), "
                    f"and is used as if it were a pinhole camera's: feed rectified images (image_proc) for "
                    f"renders that fit",
                )
        except ConversionError as error:
            self._reports.add("camera_info", str(error))
        self._cameras.append((stamp, camera))

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
        try:
            self.poses.add(stamp_ns(stamp), np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))
        except PoseError as error:
            self._reports.add("pose", str(error))

    def add_image(self, message: Image | CompressedImage, now: float) -> None:
        """Take an image. now: seconds, steady clock."""
        self.counters.images_received += 1
        if self.paused or self.held:
            return
        for unposed in self._images.add(stamp_ns(message.header.stamp), message, now):
            self.counters.images_dropped += 1
            self._reports.add("image", unposed.message)

    def poll(self, now: float) -> list[Candidate]:
        """Return the images that have become candidates. Call it after every message and now and then."""
        posed, unposed = self._images.poll(now)
        for image in unposed:
            self.reject(image.message)
        candidates = []
        for item in posed:
            camera = self._camera_at(item.stamp)
            if camera is None:
                self.reject(
                    "image has no usable camera_info: is the topic published and remapped, and the camera "
                    "calibrated?"
                )
                continue
            key = self.admission.offer(item.T_world_cam, item.stamp, self._rule)
            if key is not None:
                candidates.append(Candidate(item.payload, item.stamp, item.T_world_cam, camera, key))
        return candidates

    def reject(self, message: str) -> None:
        """Note that an image was refused as bad input."""
        self.counters.images_rejected += 1
        self._reports.add("image", message)

    def pause(self, paused: bool) -> None:
        """Count images but ignore them from now on, those that wait for a pose included; or stop that."""
        self.paused = paused
        self._images.clear()

    def clear(self) -> None:
        """Forget poses, waiting images and the places of keyframes; cameras and counters stay."""
        self.poses.clear()
        self._images.clear()
        self.admission.clear()

    def _camera_at(self, stamp: int) -> Intrinsics | None:
        for at, camera in reversed(self._cameras):
            if at == stamp:
                return camera
        return self._cameras[-1][1] if self._cameras else None
