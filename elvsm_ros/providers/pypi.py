"""Conversions with packages from PyPI: rosbags-image and scipy. Used where ROS is not installed."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.image import image_to_cvimage
from scipy.spatial.transform import Rotation, Slerp
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header


class PypiProvider:
    name = "rosbags-image and scipy"

    def image_to_rgb(self, message: Image) -> NDArray[np.uint8]:
        return np.asarray(image_to_cvimage(message, "rgb8"))  # type: ignore[arg-type]

    def matrix_from_quaternion(self, xyzw: NDArray[np.float64]) -> NDArray[np.float64]:
        return Rotation.from_quat(xyzw).as_matrix()

    def quaternion_from_matrix(self, rotation: NDArray[np.float64]) -> NDArray[np.float64]:
        return Rotation.from_matrix(rotation).as_quat(canonical=True)

    def slerp(self, a: NDArray[np.float64], b: NDArray[np.float64], fraction: float) -> NDArray[np.float64]:
        return Slerp([0.0, 1.0], Rotation.from_quat(np.stack([a, b])))(fraction).as_quat(canonical=True)

    def cloud(self, header: Header, fields: list[PointField], points: NDArray[Any]) -> PointCloud2:
        return PointCloud2(
            header=header, height=1, width=len(points), fields=fields, is_bigendian=False, is_dense=True,
            point_step=points.itemsize, row_step=points.nbytes, data=array.array("B", points.tobytes()),
        )  # fmt: skip
