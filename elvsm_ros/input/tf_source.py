"""Camera poses, and frames of requests, from TF. The one place that knows tf2_ros, which PyPI does not have."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.time import Time

from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError
from elvsm_ros.input.pose_source import PoseBuffer, PoseError
from elvsm_ros.parameters.table import Settings
from elvsm_ros.quoting import quoted


class TfMissingError(RuntimeError):
    """TF is asked for, and this installation has no tf2_ros."""


class UnknownTransform(LookupError):
    """TF does not know a transform, or not yet. The text is TF's own."""


class TfTree:
    """Listen to /tf and /tf_static, from now until `close`. TF interpolates by itself.

    node: what listens. length: seconds of transforms to keep. Raises ImportError without tf2_ros.
    """

    def __init__(self, node: Any, length: float = 10.0):
        tf2_ros: Any = importlib.import_module("tf2_ros")
        from rclpy.duration import Duration

        self._exception: type[Exception] = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer(cache_time=Duration(seconds=length))
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def lookup(self, target: str, source: str, stamp: int | None = None) -> NDArray[np.float64]:
        """Return T_target_source [4, 4] at a stamp (ns), or the newest.

        Raises UnknownTransform, and PoseError for a transform with NaN in it.
        """
        time = Time() if stamp is None else Time(nanoseconds=stamp)
        try:
            found = self._buffer.lookup_transform(target, source, time).transform
        except self._exception as error:
            raise UnknownTransform(str(error)) from error
        p, q = found.translation, found.rotation
        translation = np.array([p.x, p.y, p.z])
        try:
            xyzw = conversions.check_pose(translation, np.array([q.x, q.y, q.z, q.w]))
        except ConversionError as error:
            raise PoseError("invalid", f"TF's {quoted(source)} in {quoted(target)}: {error}") from error
        return conversions.parts_to_matrix(translation, xyzw)

    def from_frame(self, world_frame: str, frame_id: str) -> NDArray[np.float64]:
        """Return T_world_frame [4, 4], the newest that TF has. Raises PoseError when it has none."""
        try:
            return self.lookup(world_frame, frame_id)
        except UnknownTransform as error:
            raise PoseError(
                "frame", f"TF knows no transform from {quoted(frame_id)} to {quoted(world_frame)}: {error}"
            ) from error

    def clear(self) -> None:
        """Forget all transforms but the static ones."""
        self._buffer.clear()

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()


def listen(node: Any, settings: Settings) -> TfTree | None:
    """Return a TfTree if the settings have a use for one and tf2_ros is installed.

    Raises TfMissingError if they cannot do without.
    """
    needed = next((name for name in ("pose_source", "extrinsics") if getattr(settings, name) == "tf"), None)
    if needed is None and not settings.tf_requests:
        return None
    try:
        return TfTree(node, settings.pose_buffer)
    except ImportError as error:
        if needed is None:
            return None
        instead = {
            "pose_source": "set pose_source to pose or odom",
            "extrinsics": "set extrinsics to parameter and fill in body_to_camera",
        }
        raise TfMissingError(
            f"{needed} is 'tf', but this installation has no tf2_ros ({error}): install ROS's package tf2_ros "
            f"(PyPI has none) and source its setup file, or {instead[needed]}"
        ) from error


class TfPoses:
    """Ask TF where a camera is in the world at an image's stamp.

    camera_frame: the optical frame; empty: the frame_id of the camera's first image (`see_image`).
    T_frame_cam: 4x4, the optical frame in camera_frame, for drivers whose frame is not an optical one.
    """

    def __init__(
        self, tree: TfTree, world_frame: str, camera_frame: str, T_frame_cam: NDArray[np.float64]
    ) -> None:
        self._tree, self._world_frame, self._camera_frame = tree, world_frame, camera_frame.lstrip("/")
        self._T_frame_cam = T_frame_cam
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
            return self._tree.lookup(self._world_frame, self._camera_frame, stamp) @ self._T_frame_cam
        except UnknownTransform as error:  # it comes yet, perhaps: whoever waits for it sets the limit
            self._why = str(error)
            return None

    @property
    def missing(self) -> str:
        """Say what the newest lookup that found nothing was about, and what to do."""
        return (
            f"TF knows no transform from {quoted(self._camera_frame)} to {quoted(self._world_frame)} at an "
            f"image's stamp ({self._why}): is the localisation running, on the clock of the images? world_frame and "
            f"camera_frames name the ends"
        )

    def clear(self) -> None:
        """Do nothing: whoever made the tree clears it."""


class MountedByTf:
    """Poses of a body from messages, and from TF where a camera is on that body.

    body_frame: frame whose poses arrive; empty: what the messages say (`see_body`). The rest is as in TfPoses.
    """

    def __init__(
        self,
        body: PoseBuffer,
        tree: TfTree,
        body_frame: str,
        camera_frame: str,
        T_frame_cam: NDArray[np.float64],
    ) -> None:
        self._body, self._tree = body, tree
        self._body_frame, self._camera_frame = body_frame.lstrip("/"), camera_frame.lstrip("/")
        self._T_frame_cam = T_frame_cam
        self.missing: str | None = None

    def see_image(self, frame_id: str) -> None:
        """Take note of the frame_id of an image."""
        self._camera_frame = self._camera_frame or frame_id.lstrip("/")

    def see_body(self, frame_id: str) -> None:
        """Take note of the frame whose pose a message holds."""
        self._body_frame = self._body_frame or frame_id.lstrip("/")

    def lookup(self, stamp: int) -> NDArray[np.float64] | None:
        """Return T_world_cam [4, 4] at a stamp (ns); None while it is not known. Raises PoseError."""
        self.missing = None
        T_world_body = self._body.lookup(stamp)
        if T_world_body is None:
            return None
        if not (self._body_frame and self._camera_frame):
            self.missing = (
                "extrinsics is 'tf', but "
                + ("the poses do not tell their body" if self._camera_frame else "the image has no frame_id")
                + ": set body_frame and camera_frames"
            )
            return None
        try:
            # At the stamp, and not the newest: a camera may sit on something that turns.
            T_body_frame = self._tree.lookup(self._body_frame, self._camera_frame, stamp)
        except UnknownTransform as error:
            self.missing = (
                f"TF knows no transform from {quoted(self._camera_frame)} to {quoted(self._body_frame)} at an "
                f"image's stamp ({error}): is robot_state_publisher running, or a static_transform_publisher for the "
                f"camera? body_frame and camera_frames name the ends"
            )
            return None
        return T_world_body @ T_body_frame @ self._T_frame_cam

    def clear(self) -> None:
        """Do nothing: whoever made them clears body and tree."""
