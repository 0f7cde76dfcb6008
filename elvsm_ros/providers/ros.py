"""Conversions with the packages of a ROS installation: cv_bridge and tf_transformations."""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_transformations
from cv_bridge import CvBridge
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header


class RosProvider:
    name = "cv_bridge and tf_transformations"

    def __init__(self) -> None:
        self._bridge = CvBridge()

    def image_to_rgb(self, message: Image) -> NDArray[np.uint8]:
        return np.asarray(self._bridge.imgmsg_to_cv2(message, "rgb8"))

    def matrix_from_quaternion(self, xyzw: NDArray[np.float64]) -> NDArray[np.float64]:
        return tf_transformations.quaternion_matrix(xyzw)[:3, :3]

    def quaternion_from_matrix(self, rotation: NDArray[np.float64]) -> NDArray[np.float64]:
        T = np.eye(4)
        T[:3, :3] = rotation
        xyzw = tf_transformations.quaternion_from_matrix(T)
        return -xyzw if xyzw[3] < 0 else xyzw

    def slerp(self, a: NDArray[np.float64], b: NDArray[np.float64], fraction: float) -> NDArray[np.float64]:
        xyzw = tf_transformations.quaternion_slerp(a, b, fraction)
        return -xyzw if xyzw[3] < 0 else xyzw

    def cloud(self, header: Header, fields: list[PointField], points: NDArray[Any]) -> PointCloud2:
        from sensor_msgs_py import point_cloud2

        return point_cloud2.create_cloud(header, fields, points)
