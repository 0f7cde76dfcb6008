"""What a SceneClient returns and raises, and how its arguments become messages."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import ArrayLike, NDArray
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from elvsm_core.cameras import CameraError, check_pose
from elvsm_ros import conversions
from elvsm_ros.conversions import RGB


class SceneClientError(RuntimeError):
    """A request that failed. The message names the cause and the remedy."""


class NodeUnavailable(SceneClientError):
    """The node is not running, not configured, or went away before it answered."""


class CallTimeout(SceneClientError, TimeoutError):
    """The node did not answer in time."""


class RequestRejected(SceneClientError):
    """The node answered that it did not do what was asked, or the arguments are invalid."""


class PinholeCamera(Protocol):
    """Intrinsics in pixels: elvsm_core.Camera, whose pose is ignored here, and conversions.Intrinsics have them."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int


@dataclasses.dataclass(frozen=True, eq=False)
class RenderedViews:
    """The answer to one request, in the order of its poses.

    images: uint8 RGB [H, W, 3] each. support: 0 to 1 each, how well keyframes cover the view. views_used: keyframes
    that were used. latency_ms: milliseconds inside the node; round_trip_ms: as seen by the client. depths: float32
    [H, W] each, metres along z, and confidences: float32 [H, W] in [0, 1] each; both empty unless depth was asked for.
    """

    images: list[RGB]
    support: list[float]
    views_used: int
    latency_ms: float
    round_trip_ms: float
    depths: list[NDArray[np.float32]] = dataclasses.field(default_factory=list)
    confidences: list[NDArray[np.float32]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, eq=False)
class KeyframeList:
    """The node's keyframes at one moment, oldest first.

    ids: never used again. stamps: of their images, nanoseconds. poses: T_world_cam [n, 4, 4], camera (optical axes) to
    world, metres. frame_id: the world frame.
    """

    ids: tuple[int, ...]
    stamps: tuple[int, ...]
    poses: NDArray[np.float64]
    frame_id: str = ""

    def __len__(self) -> int:
        return len(self.ids)


NO_KEYFRAMES = KeyframeList((), (), np.zeros((0, 4, 4)))


def pose_message(pose: Pose | ArrayLike) -> Pose:
    """Return a pose as a message. A matrix is 4x4, metres. Raises RequestRejected for one that is not rigid."""
    if isinstance(pose, Pose):
        return pose
    try:
        return conversions.matrix_to_pose(check_pose(pose, "a pose"))
    except CameraError as error:
        raise RequestRejected(str(error)) from error


def camera_message(camera: PinholeCamera | CameraInfo | None) -> CameraInfo:
    """Return a camera as a message; None: the empty one, which stands for the camera that the node watches."""
    if camera is None:
        return CameraInfo()
    return camera if isinstance(camera, CameraInfo) else conversions.camera_info(camera, Header())


def depths(message: Any) -> list[NDArray[np.float32]]:
    """Return the depths of an answer, float32 [H, W] each, metres. Raises ConversionError."""
    return [conversions.image_to_depth(image) for image in message.depth_images]


def confidences(message: Any) -> list[NDArray[np.float32]]:
    """Return the confidences of an answer, float32 [H, W] in [0, 1] each. Raises ConversionError."""
    return [conversions.image_to_share(image) for image in message.confidence_images]


def pictures(message: Any) -> list[RGB]:
    """Return the images of an answer or of a piece of a trajectory, uint8 RGB [H, W, 3]. Raises ConversionError."""
    return [conversions.image_to_rgb(image) for image in [*message.images, *message.compressed_images]]
