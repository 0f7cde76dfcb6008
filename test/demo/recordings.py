"""Small recordings for tests: a camera that moves sideways past a coloured wall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from std_msgs.msg import Header

from elvsm_ros.conversions import Intrinsics, camera_info, matrix_to_pose, rgb_to_compressed, rgb_to_image
from elvsm_ros.recordings.bag_writer import CameraBagWriter

CAMERA = Intrinsics(30.0, 31.0, 15.5, 12.25, 32, 24)
SECOND = 1_000_000_000


def pose(seconds: float) -> np.ndarray:
    """Return T_world_cam of a camera that moves along x at 0.5 m/s while it turns about y at 20 degrees a second."""
    angle = np.radians(20 * seconds)
    T = np.eye(4)
    T[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    T[:3, 3] = (0.5 * seconds, 1.0, 2.0)
    return T


def picture(k: int) -> np.ndarray:
    """Return a smooth picture [24, 32, 3] that differs with k."""
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([4 * x + 3 * k, 6 * y, np.full_like(x, 90)], -1).clip(0, 255).astype(np.uint8)


def write_walk(path: Path, images: int = 10, rate: float = 5.0, **options: Any) -> Path:
    """Write a walk with poses at three times the images' rate, at other moments."""
    with CameraBagWriter(path, **options) as bag:
        for k in range(images):
            for third in range(3):
                seconds = (k + (third + 0.25) / 3 - 0.5) / rate
                bag.add_pose(round((1 + seconds) * SECOND), pose(seconds))
            bag.add_image(round((1 + k / rate) * SECOND), picture(k), CAMERA)
        last = (images - 0.25) / rate
        bag.add_pose(round((1 + last) * SECOND), pose(last))
    return path


def message(kind: str, seconds: float = 0.0) -> Any:
    """Return a message of a type such as sensor_msgs/msg/Image, filled as a camera at pose(seconds) would."""
    header = Header(stamp=Time(sec=1 + int(seconds), nanosec=round(seconds % 1 * 1e9)), frame_id="map")
    if kind == "sensor_msgs/msg/CompressedImage":
        return rgb_to_compressed(picture(3), header, "png")
    if kind == "sensor_msgs/msg/Image":
        return rgb_to_image(picture(3), header)
    if kind == "sensor_msgs/msg/CameraInfo":
        return camera_info(CAMERA, header)
    if kind == "geometry_msgs/msg/PoseStamped":
        return PoseStamped(header=header, pose=matrix_to_pose(pose(seconds)))
    if kind == "nav_msgs/msg/Odometry":
        odometry = Odometry(header=header)
        odometry.pose.pose = matrix_to_pose(pose(seconds))
        return odometry
    raise ValueError(kind)


def write_topics(path: Path, topics: dict[str, str], count: int = 4, sqlite: bool = False) -> Path:
    """Write a rosbag2 with `count` messages, 0.1 s apart, on each topic {name: type}; "!" before a type: none."""
    typestore = get_typestore(Stores.ROS2_KILTED)
    plugin = StoragePlugin.SQLITE3 if sqlite else StoragePlugin.MCAP
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {
            name: writer.add_connection(name, kind.strip("!"), typestore=typestore)
            for name, kind in topics.items()
        }
        for k in range(count):
            for name, kind in topics.items():
                if not kind.startswith("!"):
                    data = serialize_message(message(kind, k / 10))
                    writer.write(connections[name], SECOND + k * SECOND // 10, data)
    return path
