"""Camera poses, and frames of requests, from TF. The one place that knows tf2_ros, which PyPI does not have."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.time import Time

from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError
from elvsm_ros.pose_source import PoseError


class TfMissingError(RuntimeError):
    """TF is asked for, and this installation has no tf2_ros."""


class TfSource:
    """Ask TF where the camera was at an image's stamp; TF interpolates by itself.

    node: what listens to /tf and /tf_static, from now until `close`. world_frame: frame that poses are wanted
    in. camera_frame: the optical frame; empty: the frame_id of the first image (`see_image`).
    T_body_cam: 4x4, the optical frame in camera_frame, for drivers whose frame is not an optical one.
    length: seconds of transforms to keep. Raises TfMissingError.
    """

    def __init__(
        self,
        node: Any,
        world_frame: str,
        camera_frame: str = "",
        T_body_cam: NDArray[np.float64] | None = None,
        length: float = 10.0,
    ):
        try:
            tf2_ros: Any = importlib.import_module("tf2_ros")
        except ImportError as error:
            raise TfMissingError(
                f"pose_source is 'tf', but this installation has no tf2_ros ({error}): install ROS's package "
                f"tf2_ros (PyPI has none) and source its setup file, or set pose_source to pose or odom"
            ) from error
        from rclpy.duration import Duration

        self._exception: type[Exception] = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer(cache_time=Duration(seconds=length))
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._world_frame, self._camera_frame = world_frame, camera_frame.lstrip("/")
        self._T_body_cam = np.eye(4) if T_body_cam is None else T_body_cam
        self._why = "no image has told its frame"

    def see_image(self, frame_id: str) -> None:
        """Take note of the frame_id of an image."""
        self._camera_frame = self._camera_frame or frame_id.lstrip("/")

    def lookup(self, stamp: int) -> NDArray[np.float64] | None:
        """Return T_world_cam [4, 4] at a stamp (ns); None while TF does not know it (`missing` says why).

        Raises PoseError for a transform with NaN in it.
        """
        if not self._camera_frame:
            return None
        try:
            return self._transform(self._camera_frame, Time(nanoseconds=stamp)) @ self._T_body_cam
        except self._exception as error:  # it comes yet, perhaps: whoever waits for it sets the limit
            self._why = str(error)
            return None

    @property
    def missing(self) -> str:
        """Say what the newest lookup that found nothing was about, and what to do."""
        return (
            f"TF knows no transform from {self._camera_frame!r} to {self._world_frame!r} at an image's stamp "
            f"({self._why}): is the localisation running, on the clock of the images? world_frame and "
            f"camera_frame name the ends"
        )

    def from_frame(self, frame_id: str) -> NDArray[np.float64]:
        """Return T_world_frame [4, 4], the newest that TF has. Raises PoseError when it has none."""
        try:
            return self._transform(frame_id, Time())
        except self._exception as error:
            raise PoseError(
                "frame", f"TF knows no transform from {frame_id!r} to {self._world_frame!r}: {error}"
            ) from error

    def clear(self) -> None:
        """Forget all transforms but the static ones."""
        self._buffer.clear()

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()

    def _transform(self, frame_id: str, time: Time) -> NDArray[np.float64]:
        found = self._buffer.lookup_transform(self._world_frame, frame_id, time).transform
        p, q = found.translation, found.rotation
        translation = np.array([p.x, p.y, p.z])
        try:
            xyzw = conversions.check_pose(translation, np.array([q.x, q.y, q.z, q.w]))
        except ConversionError as error:
            raise PoseError("invalid", f"TF's {frame_id!r} in {self._world_frame!r}: {error}") from error
        return conversions.parts_to_matrix(translation, xyzw)
