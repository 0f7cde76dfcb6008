"""Between ROS messages and arrays: the one seam, with two providers behind it.

Where ROS is installed, cv_bridge and tf_transformations do the work; elsewhere rosbags-image and scipy do,
which PyPI has. Both give the same results, and the same tests run over whichever is there. What both get
wrong or leave open (row padding, sizes that do not add up, colour order that an encoding does not tell,
truncated files) is settled here.

Images are uint8 RGB [H, W, 3]. Poses are 4x4 float64, metres. Every refusal is a ConversionError.
"""

from __future__ import annotations

import array
import functools
import importlib
import io
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from elvsm_core import limits
from elvsm_ros.conversions.camera_info import Intrinsics as Intrinsics
from elvsm_ros.conversions.camera_info import camera_info as camera_info
from elvsm_ros.conversions.camera_info import intrinsics as intrinsics
from elvsm_ros.conversions.camera_info import is_blank as is_blank
from elvsm_ros.conversions.camera_info import is_distorted as is_distorted
from elvsm_ros.conversions.errors import ConversionError as ConversionError
from elvsm_ros.quoting import quoted

NORM_TOLERANCE = 1e-2
"""How far a quaternion's norm may be from one: more than rounding, less than a mistake."""

RGB = NDArray[np.uint8]


class Provider(Protocol):
    """What the two sets of packages are used for."""

    name: str

    def image_to_rgb(self, message: Image) -> RGB:
        """Return a raw image's picture, uint8 RGB [H, W, 3]. Raises what its library raises."""
        ...

    def matrix_from_quaternion(self, xyzw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rotation [3, 3] of a unit quaternion [4] (x, y, z, w)."""
        ...

    def quaternion_from_matrix(self, rotation: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the unit quaternion [4] (x, y, z, w) of a rotation [3, 3]."""
        ...

    def slerp(self, a: NDArray[np.float64], b: NDArray[np.float64], fraction: float) -> NDArray[np.float64]:
        """Interpolate between unit quaternions [4] (x, y, z, w) along the shorter arc: a at 0, b at 1."""
        ...

    def cloud(self, header: Header, fields: list[PointField], points: NDArray[Any]) -> PointCloud2:
        """Make a PointCloud2 of points [n], a structured array whose members are the fields."""
        ...


@functools.cache
def provider() -> Provider:
    """Return the provider that this installation has: ROS's own packages first."""
    # PyPI has a "cv_bridge" too, a ROS 1 one that breaks here: only what ROS installed is registered with
    # ament.
    if _ament_has("cv_bridge") and _ament_has("tf_transformations"):
        return importlib.import_module("elvsm_ros.providers.ros").RosProvider()
    return importlib.import_module("elvsm_ros.providers.pypi").PypiProvider()


def _ament_has(package: str) -> bool:
    try:
        from ament_index_python import has_resource
    except ImportError:
        return False
    try:
        return bool(has_resource("packages", package))
    except OSError:  # AMENT_PREFIX_PATH is not set
        return False


# Images

BYTES_PER_PIXEL = {
    "mono8": 1, "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4,
    "bayer_rggb8": 1, "bayer_bggr8": 1, "bayer_gbrg8": 1, "bayer_grbg8": 1,
    "yuv422": 2, "uyvy": 2, "yuv422_yuy2": 2, "yuyv": 2,
    "mono16": 2, "rgb16": 6, "bgr16": 6, "rgba16": 8, "bgra16": 8,
    "bayer_rggb16": 2, "bayer_bggr16": 2, "bayer_gbrg16": 2, "bayer_grbg16": 2,
}  # fmt: skip
"""Encodings whose colours are known. 16-bit ones are scaled from 0..65535 to 0..255."""


def image_to_rgb(message: Image | CompressedImage) -> RGB:
    """Return the picture of an Image or CompressedImage as uint8 RGB [H, W, 3].

    Raises ConversionError for an encoding that says nothing of colours, data that do not fit the size, and
    files that are truncated or corrupt.
    """
    if hasattr(message, "format"):
        return _decompress(message)
    _check_layout(message)
    try:
        rgb = provider().image_to_rgb(_without_padding(message))
    except Exception as error:  # each provider has its own, OpenCV's among them
        raise ConversionError(
            f"image of {message.width}x{message.height} in {message.encoding} cannot be converted: {error}"
        ) from error
    if rgb.dtype != np.uint8 or rgb.shape != (message.height, message.width, 3):
        raise ConversionError(
            f"{provider().name} made {rgb.shape} {rgb.dtype} of an image in {message.encoding}"
        )
    return np.ascontiguousarray(rgb)


def _check_pixels(width: int, height: int) -> None:
    """Raise ConversionError for a picture that is too large, before it is decoded."""
    try:
        limits.check_pixels(width, height)
    except limits.TooLargeError as error:
        raise ConversionError(str(error)) from error


def _check_layout(message: Image) -> None:
    size = BYTES_PER_PIXEL.get(message.encoding)
    if size is None:
        raise ConversionError(
            f"image encoding {quoted(message.encoding)} is none that tells colours (depth, perhaps, or without an "
            f"order of channels): publish one of {', '.join(BYTES_PER_PIXEL)}"
        )
    if message.width < 1 or message.height < 1:
        raise ConversionError(
            f"image is {message.width}x{message.height} pixels: the driver sends empty images"
        )
    _check_pixels(message.width, message.height)
    if message.encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv") and message.width % 2:
        raise ConversionError(f"image in {message.encoding} must have an even width, got {message.width}")
    row = message.width * size
    step = message.step or row
    if step < row or len(message.data) < step * (message.height - 1) + row:
        raise ConversionError(
            f"image of {message.width}x{message.height} in {message.encoding} needs rows of {row} bytes, but "
            f"has a step of {message.step} and {len(message.data)} bytes altogether: fix width, height, step "
            f"or encoding"
        )


def _without_padding(message: Image) -> Image:
    """Return the image with rows without gaps between them (rosbags-image takes that for granted)."""
    row = message.width * BYTES_PER_PIXEL[message.encoding]
    if message.step in (0, row) and len(message.data) == row * message.height:
        return message
    step = message.step or row
    data = np.frombuffer(message.data, np.uint8)
    rows = np.lib.stride_tricks.as_strided(data, (message.height, row), (step, 1))
    return Image(
        header=message.header, height=message.height, width=message.width, encoding=message.encoding,
        is_bigendian=message.is_bigendian, step=row, data=_bytes(np.ascontiguousarray(rows)),
    )  # fmt: skip


def _decompress(message: CompressedImage) -> RGB:
    if "compressedDepth" in message.format:
        raise ConversionError(
            f"compressed image has format {quoted(message.format)}, a depth image: use a colour topic"
        )
    # Pillow, because OpenCV fills the missing part of some damaged files with grey and says nothing.
    try:
        with PillowImage.open(io.BytesIO(bytes(message.data)), formats=("JPEG", "PNG")) as picture:
            _check_pixels(*picture.size)  # the header has been read, nothing else
            if picture.mode.startswith(("I", "F")):
                raise ConversionError(
                    f"compressed image is a 16-bit grey {picture.format}, probably depth: use a colour topic"
                )
            return np.array(picture.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ConversionError(
            f"compressed image of {len(message.data)} bytes with format {quoted(message.format)} is neither JPEG "
            f"nor PNG"
        ) from error
    except PillowImage.DecompressionBombError as error:  # Pillow's own limit, which it looks at first
        raise ConversionError(
            f"{error}: {limits.MAX_PIXELS} pixels at most are decoded: publish smaller images"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(
            f"compressed image of {len(message.data)} bytes cannot be decoded, it is truncated or corrupt "
            f"({error}): look for a lossy link or a driver that cuts messages"
        ) from error


def rgb_to_image(rgb: RGB, header: Header) -> Image:
    """Make an Image in rgb8 of uint8 RGB [H, W, 3]."""
    height, width = rgb.shape[:2]
    return Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=_bytes(rgb))


def depth_to_image(depth: NDArray[np.float32], header: Header) -> Image:
    """Make an Image in 32FC1 of depths [H, W], metres (REP 118)."""
    height, width = depth.shape
    return Image(
        header=header, height=height, width=width, encoding="32FC1", step=4 * width,
        is_bigendian=sys.byteorder == "big", data=_bytes(depth.astype(np.float32, copy=False)),
    )  # fmt: skip


def share_to_image(share: NDArray[np.float32], header: Header) -> Image:
    """Make an Image in mono8 of numbers [H, W] from 0 to 1: 255 is 1."""
    height, width = share.shape
    grey = np.round(share * 255).astype(np.uint8)
    return Image(header=header, height=height, width=width, encoding="mono8", step=width, data=_bytes(grey))


def image_to_depth(message: Image) -> NDArray[np.float32]:
    """Return the depths [H, W] of an Image in 32FC1, metres. Raises ConversionError."""
    _check_single(message, "32FC1", 4)
    order = ">f4" if message.is_bigendian else "<f4"
    return np.frombuffer(message.data, order).reshape(message.height, message.width).astype(np.float32)


def image_to_share(message: Image) -> NDArray[np.float32]:
    """Return the numbers [H, W] from 0 to 1 of an Image in mono8. Raises ConversionError."""
    _check_single(message, "mono8", 1)
    return (
        np.frombuffer(message.data, np.uint8).reshape(message.height, message.width).astype(np.float32) / 255
    )


def _check_single(message: Image, encoding: str, size: int) -> None:
    """Raise ConversionError unless an image without padding has one channel of this encoding."""
    if message.encoding != encoding or len(message.data) != message.height * message.width * size:
        raise ConversionError(
            f"an image of {message.width}x{message.height} in {quoted(message.encoding)} with {len(message.data)} "
            f"bytes is none in {encoding} without padding"
        )


def rgb_to_compressed(rgb: RGB, header: Header, encoding: str, quality: int = 90) -> CompressedImage:
    """Make a CompressedImage of uint8 RGB [H, W, 3]. encoding: "jpeg" or "png"; quality: JPEG, 1 to 100."""
    if encoding not in ("jpeg", "png"):
        raise ConversionError(f"compressed encoding must be jpeg or png, got {quoted(encoding)}")
    buffer = io.BytesIO()
    # The lowest effort: the receiver waits for the answer longer than for a few more bytes.
    options = {"quality": quality} if encoding == "jpeg" else {"compress_level": 1}
    PillowImage.fromarray(rgb).save(buffer, encoding, **options)
    return CompressedImage(header=header, format=encoding, data=_bytes(buffer.getbuffer()))


def resize(rgb: RGB, width: int, height: int) -> RGB:
    """Resample uint8 RGB [H, W, 3] to width x height pixels, bicubic, antialiased when it shrinks."""
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.array(PillowImage.fromarray(rgb).resize((width, height), PillowImage.Resampling.BICUBIC))


def _bytes(data: Any) -> array.array:
    """Copy a contiguous buffer into what rclpy takes without looking at every element."""
    out = array.array("B")
    out.frombytes(np.ascontiguousarray(data).view(np.uint8).data.cast("B"))
    return out


# Points


def cloud(points: NDArray[Any], header: Header) -> PointCloud2:
    """Make a PointCloud2 of points [n], a structured array of float32 and uint32 without gaps."""
    kinds = {"<f4": PointField.FLOAT32, "<u4": PointField.UINT32}
    fields = [
        PointField(name=name, offset=offset, datatype=kinds[dtype.str], count=1)
        for name, (dtype, offset, *_) in (points.dtype.fields or {}).items()
    ]
    return provider().cloud(header, fields, points)


# Poses


def check_pose(translation: NDArray[np.float64], xyzw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quaternion at unit length. Raises ConversionError for NaN and a norm far from one."""
    if not (np.isfinite(translation).all() and np.isfinite(xyzw).all()):
        raise ConversionError(
            "pose has NaN or infinite entries: the localisation lost track, or failed to start"
        )
    norm = math.sqrt(float(xyzw @ xyzw))
    if abs(norm - 1) > NORM_TOLERANCE:
        raise ConversionError(
            f"pose has a quaternion of norm {norm:.4g} instead of 1: fill in the orientation "
            f"(w = 1 for none), in the order x, y, z, w, and normalise it"
        )
    return xyzw / norm


def pose_to_parts(pose: Pose) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return translation [3], metres, and unit quaternion [4] (x, y, z, w). Raises ConversionError."""
    p, q = pose.position, pose.orientation
    translation = np.array([p.x, p.y, p.z], dtype=np.float64)
    return translation, check_pose(translation, np.array([q.x, q.y, q.z, q.w], dtype=np.float64))


def parts_to_matrix(translation: NDArray[np.float64], xyzw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 4x4 transform of a translation [3] and a unit quaternion [4] (x, y, z, w)."""
    T = np.eye(4)
    T[:3, :3] = provider().matrix_from_quaternion(xyzw)
    T[:3, 3] = translation
    return T


def pose_to_matrix(pose: Pose) -> NDArray[np.float64]:
    """Return the 4x4 transform of a Pose. Raises ConversionError for NaN and non-unit quaternions."""
    return parts_to_matrix(*pose_to_parts(pose))


def check_poses(
    poses: Sequence[Pose], name: Callable[[int], str] = "pose {}".format
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return translations [n, 3], metres, and unit quaternions [n, 4] (x, y, z, w); quick, for thousands.

    Raises ConversionError for the first one that is none. name: what it is called by its place.
    """
    parts = [(p.position, p.orientation) for p in poses]
    numbers = np.array([(t.x, t.y, t.z, q.x, q.y, q.z, q.w) for t, q in parts], np.float64).reshape(-1, 7)
    norms = np.linalg.norm(numbers[:, 3:], axis=1)
    good = np.isfinite(numbers).all(1) & (np.abs(norms - 1) <= NORM_TOLERANCE)
    if not good.all():
        index = int(np.argmin(good))
        try:
            check_pose(numbers[index, :3], numbers[index, 3:])
        except ConversionError as error:
            raise ConversionError(f"{name(index)}: {error}") from error
    return numbers[:, :3], numbers[:, 3:] / norms[:, None]


def poses_to_matrices(
    poses: Sequence[Pose], name: Callable[[int], str] = "pose {}".format
) -> NDArray[np.float64]:
    """Return the 4x4 transforms [n, 4, 4] of Poses. Raises as `check_poses` does."""
    translations, xyzw = check_poses(poses, name)
    T = np.tile(np.eye(4), (len(poses), 1, 1))
    v, w = xyzw[:, :3], xyzw[:, 3, None, None]
    # R = (2w² - 1) + 2vvᵀ + 2w[v]ₓ
    x, y, z = v.T
    zero = np.zeros_like(x)
    cross = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    T[:, :3, :3] = (2 * w**2 - 1) * np.eye(3) + 2 * v[:, :, None] * v[:, None, :] + 2 * w * cross
    T[:, :3, 3] = translations
    return T


def matrix_to_pose(T: NDArray[np.float64]) -> Pose:
    """Make the Pose of a rigid 4x4 transform."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = (float(v) for v in T[:3, 3])
    x, y, z, w = (float(v) for v in provider().quaternion_from_matrix(np.asarray(T[:3, :3])))
    pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w = x, y, z, w
    return pose


def slerp(a: NDArray[np.float64], b: NDArray[np.float64], fraction: float) -> NDArray[np.float64]:
    """Interpolate between unit quaternions [4] (x, y, z, w) along the shorter arc."""
    return provider().slerp(a, b, fraction)


def stamp_ns(stamp: Any) -> int:
    """Return a message's stamp in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def stamp_of(nanoseconds: int) -> Time:
    """Make a message's stamp of nanoseconds."""
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
