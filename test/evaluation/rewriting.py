"""The same recording in other forms: compressed, as ROS 1 wrote it, with TF for poses, with a lens, damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from far_away import CAMERA, SECOND, pose
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.convert import convert
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header

from elvsm_ros.conversions import image_to_rgb, matrix_to_pose, rgb_to_compressed, stamp_of
from elvsm_ros.recordings.bag_reader import TF

STORE = get_typestore(Stores.ROS2_KILTED)


def copied(
    source: Path,
    target: Path,
    mode: CompressionMode = CompressionMode.NONE,
    drop: tuple[str, ...] = (),
    change: Callable[[Connection, bytes], bytes] = lambda connection, data: data,
    more: Callable[[Writer], None] = lambda writer: None,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    chunk: int = 0,
) -> Path:
    """Copy a rosbag2. drop: topics, by their last name. change: makes other messages. more: writes further ones.

    chunk: messages in a chunk of the mcap file; 0: by size, as ever.
    """
    writer = Writer(target, version=9, storage_plugin=plugin)
    if mode != CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with Reader(source) as reader, writer:
        kept = [c for c in reader.connections if c.topic.rsplit("/", 1)[1] not in drop]
        new = {c.id: writer.add_connection(c.topic, c.msgtype, typestore=STORE) for c in kept}
        for count, (connection, time, data) in enumerate(reader.messages(kept), 1):
            writer.write(new[connection.id], time, change(connection, bytes(data)))
            if chunk and count % chunk == 0:
                writer.storage.close_chunk()
        more(writer)
    return target


def as_ros1(source: Path, target: Path) -> Path:
    """Convert a rosbag2 into a bag of ROS 1."""
    store = get_typestore(Stores.ROS1_NOETIC)
    empty: tuple[str, ...] = ()
    convert([source], target, "mcap", 9, None, "file", STORE, store, empty, empty, empty, empty)
    return target


T_BASE_CAMERA = np.eye(4)
T_BASE_CAMERA[:3, :3] = Rotation.from_euler("yz", [10, -80], degrees=True).as_matrix()
T_BASE_CAMERA[:3, 3] = (0.3, -0.1, 0.5)
T_MAP_ODOM = np.eye(4)
T_MAP_ODOM[:3, :3] = Rotation.from_euler("z", 40, degrees=True).as_matrix()
T_MAP_ODOM[:3, 3] = (2.0, 1.0, 0.0)


def with_tf(source: Path, target: Path, static: bool = True, until: float = np.inf) -> Path:
    """Copy a recording of `write_turning`, poses replaced by the chain map, odom, base_link, camera_optical_frame.

    static: the last of them is on /tf_static. until: seconds after which the odometry is silent.
    """

    def add(writer: Writer) -> None:
        tf = writer.add_connection("/tf", TF, typestore=STORE)
        fixed = writer.add_connection("/tf_static" if static else "/robot/tf", TF, typestore=STORE)
        camera = transform("base_link", "camera_optical_frame", 10.0, T_BASE_CAMERA)
        writer.write(fixed, 10 * SECOND, camera)
        T_odom_map = np.linalg.inv(T_MAP_ODOM)
        for k in range(-2, 60):  # at the moments of the images, which come eight times a second
            seconds = k / 8
            at = round((10 + seconds) * SECOND)
            if k % 6 == 0:
                writer.write(tf, at, transform("map", "odom", 10 + seconds, T_MAP_ODOM))
            if seconds <= until:
                T = T_odom_map @ pose(seconds) @ np.linalg.inv(T_BASE_CAMERA)
                writer.write(tf, at, transform("odom", "base_link", 10 + seconds, T))

    return copied(source, target, drop=("pose",), more=add)


def transform(parent: str, child: str, seconds: float, T: np.ndarray) -> bytes:
    """Return the CDR of a TFMessage with one transform."""
    kinds = STORE.types
    at = round(seconds * SECOND)
    stamp = kinds["builtin_interfaces/msg/Time"](sec=at // SECOND, nanosec=at % SECOND)
    header = kinds["std_msgs/msg/Header"](stamp=stamp, frame_id=parent)
    x, y, z = (float(v) for v in T[:3, 3])
    qx, qy, qz, qw = (float(v) for v in Rotation.from_matrix(T[:3, :3]).as_quat())
    value = kinds["geometry_msgs/msg/Transform"](
        translation=kinds["geometry_msgs/msg/Vector3"](x=x, y=y, z=z),
        rotation=kinds["geometry_msgs/msg/Quaternion"](x=qx, y=qy, z=qz, w=qw),
    )
    stamped = kinds["geometry_msgs/msg/TransformStamped"](
        header=header, child_frame_id=child, transform=value
    )
    return bytes(STORE.serialize_cdr(kinds[TF](transforms=[stamped]), TF))


def tf_message(*transforms: tuple[str, str, float, np.ndarray]) -> Any:
    """Return the TFMessage of (parent, child, seconds, 4x4)."""
    messages = [STORE.deserialize_cdr(transform(*each), TF) for each in transforms]
    return STORE.types[TF](transforms=[message.transforms[0] for message in messages])


DISTORTION = [1.5, 0.0, 0.002, -0.003, 0.0]


def through_a_lens(source: Path, target: Path) -> Path:
    """Copy a recording as a distorted lens (plumb_bob) would have taken it."""
    import cv2

    c = CAMERA
    K = np.array([[c.fx, 0, c.cx], [0, c.fy, c.cy], [0, 0, 1]])
    u, v = np.meshgrid(np.arange(c.width), np.arange(c.height))
    pixels = np.stack([u, v], -1).reshape(-1, 1, 2).astype(np.float64)
    straight = cv2.undistortPoints(pixels, K, np.array(DISTORTION), P=K).reshape(c.height, c.width, 2)
    map_x, map_y = (straight[..., k].astype(np.float32) for k in range(2))

    def change(connection: Connection, data: bytes) -> bytes:
        if connection.msgtype.endswith("CompressedImage"):
            message = deserialize_message(data, CompressedImage)
            rgb = cv2.remap(
                image_to_rgb(message), map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )
            return serialize_message(rgb_to_compressed(rgb, Header(stamp=message.header.stamp), "png"))
        if connection.msgtype.endswith("CameraInfo"):
            info = deserialize_message(data, CameraInfo)
            info.distortion_model, info.d = "plumb_bob", DISTORTION
            return serialize_message(info)
        return data

    return copied(source, target, change=change)


def as_odometry(source: Path, target: Path) -> Path:
    """Copy a recording with odometry of base_link in place of poses: the camera's, as if both were the same."""

    def add(writer: Writer) -> None:
        topic = writer.add_connection("/odom", "nav_msgs/msg/Odometry", typestore=STORE)
        for k in range(-2, 30):
            at = round((10 + k / 8) * SECOND)
            header = Header(stamp=stamp_of(at), frame_id="map")
            message = Odometry(header=header, child_frame_id="base_link")
            message.pose.pose = matrix_to_pose(pose(k / 8))
            writer.write(topic, at, serialize_message(message))

    return copied(source, target, drop=("pose",), more=add)
