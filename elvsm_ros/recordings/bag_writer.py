"""Write the recording of a posed camera: a rosbag2 with CompressedImage, CameraInfo and PoseStamped."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from elvsm_core.files import owned
from elvsm_ros.conversions import RGB, Intrinsics, camera_info, matrix_to_pose, rgb_to_compressed
from elvsm_ros.recordings.bag_reader import CAMERA_INFO, COMPRESSED, POSE, SECOND, RecordedTopic, Streams

STREAMS = Streams(
    RecordedTopic("/camera/image/compressed", COMPRESSED, 0),
    RecordedTopic("/camera/camera_info", CAMERA_INFO, 0),
    RecordedTopic("/camera/pose", POSE, 0),
)
"""What is written; the counts say nothing."""
PARTIAL = "unfinished recording"
"""The kind of the temporary folders, see `elvsm_core.files.owned`."""


class CameraBagWriter:
    """Write images and poses into a new rosbag2 (mcap); a context manager.

    The folder `path` appears, complete, when the block ends without an exception; until then there is only a
    hidden temporary folder beside it. Stamps are nanoseconds and must not go backwards within a topic; they are
    also the time of recording. owned_as: kind of a recording that the program may delete (see `owned`); None: it
    belongs to the user. Raises FileExistsError when `path` is there already.
    """

    def __init__(
        self,
        path: str | Path,
        world_frame: str = "map",
        camera_frame: str = "camera_optical_frame",
        owned_as: str | None = None,
    ):
        self.path = Path(path)
        if self.path.exists() or self.path.is_symlink():
            raise FileExistsError(f"{self.path} is there already: move it away, or write elsewhere")
        self._owned_as = owned_as
        self.world_frame, self.camera_frame = world_frame, camera_frame

    def __enter__(self) -> CameraBagWriter:
        self._cleanup = contextlib.ExitStack()
        self._folder = self._cleanup.enter_context(owned.temporary(self.path, PARTIAL))
        typestore = get_typestore(Stores.ROS2_KILTED)
        self._writer = Writer(self._folder / self.path.name, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections = {
            topic: self._writer.add_connection(topic.name, topic.type, typestore=typestore)
            for topic in (STREAMS.image, STREAMS.camera_info, STREAMS.pose)
        }
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._writer.close()
            if kind is None:
                if self._owned_as is not None:
                    owned.mark(self._folder / self.path.name, self._owned_as)
                os.replace(self._folder / self.path.name, self.path)
        finally:
            self._cleanup.close()

    def add_image(self, stamp: int, rgb: RGB, camera: Intrinsics, quality: int = 92) -> None:
        """Write an image, uint8 RGB [H, W, 3], as JPEG, and the CameraInfo that belongs to it."""
        header = Header(stamp=_time(stamp), frame_id=self.camera_frame)
        self._write(STREAMS.image, stamp, rgb_to_compressed(rgb, header, "jpeg", quality))
        self._write(STREAMS.camera_info, stamp, camera_info(camera, header))

    def add_encoded(self, stamp: int, data: bytes, encoding: str, camera: Intrinsics) -> None:
        """Write an image that is encoded already ("jpeg" or "png", RGB) as it is, after its CameraInfo."""
        header = Header(stamp=_time(stamp), frame_id=self.camera_frame)
        self._write(STREAMS.camera_info, stamp, camera_info(camera, header))
        self._write(STREAMS.image, stamp, CompressedImage(header=header, format=encoding, data=data))

    def add_pose(self, stamp: int, T_world_cam: NDArray[np.float64]) -> None:
        """Write a pose of the camera's optical frame, 4x4 in metres."""
        header = Header(stamp=_time(stamp), frame_id=self.world_frame)
        self._write(STREAMS.pose, stamp, PoseStamped(header=header, pose=matrix_to_pose(T_world_cam)))

    def _write(self, topic: RecordedTopic, stamp: int, message: Any) -> None:
        self._writer.write(self._connections[topic], stamp, serialize_message(message))


def _time(stamp: int) -> Time:
    return Time(sec=stamp // SECOND, nanosec=stamp % SECOND)
