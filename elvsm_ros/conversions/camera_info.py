"""Between sensor_msgs/CameraInfo and pinhole cameras."""

from __future__ import annotations

import dataclasses

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from elvsm_core.cameras import CameraError, check_intrinsics
from elvsm_ros.conversions.errors import ConversionError


@dataclasses.dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without a pose: fx, fy, cx, cy, width, height in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def fitted(self, width: int, height: int) -> Intrinsics:
        """Return the camera of the image after a centre crop to the aspect of width x height and a resize.

        This is what the images of keyframes go through (elvsm_core.resize_and_crop), pixel for pixel.
        """
        if (width, height) == (self.width, self.height):
            return self
        scale = min(self.height / height, self.width / width)
        crop_w = min(self.width, max(1, round(width * scale)))
        crop_h = min(self.height, max(1, round(height * scale)))
        left, top = (self.width - crop_w) // 2, (self.height - crop_h) // 2
        cut = Intrinsics(self.fx, self.fy, self.cx - left, self.cy - top, crop_w, crop_h)
        return cut.stretched(width, height)

    def stretched(self, width: int, height: int) -> Intrinsics:
        """Return the camera of the whole image resampled to width x height, whatever the aspect."""
        sx, sy = width / self.width, height / self.height
        return Intrinsics(self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, width, height)


def intrinsics(message: CameraInfo, projection: bool = False) -> Intrinsics:
    """Return the pinhole camera of the image that a CameraInfo goes with: its k, or p with `projection`.

    k and p are for the full resolution (sensor_msgs/CameraInfo): the region of interest and the binning are
    applied here. Distortion is not looked at: see rectification.py. Raises ConversionError for an
    uncalibrated camera (zeros), NaN, focal lengths or sizes that are not positive, numbers that float32 does not
    hold, skew, and a region outside of the image.
    """
    name = "p" if projection and message.p[0] else "k"  # p stays empty where nobody has rectified
    k = np.asarray(getattr(message, name), dtype=np.float64).reshape(3, -1)
    if not np.isfinite(k).all():
        raise ConversionError(f"camera_info has NaN or infinite entries in {name}: calibrate the camera")
    if k[0, 0] <= 0 or k[1, 1] <= 0:
        raise ConversionError(
            f"camera_info has focal lengths {k[0, 0]:g} and {k[1, 1]:g} in {name}: the camera is not "
            f"calibrated, or its driver does not fill camera_info in"
        )
    if message.width < 1 or message.height < 1:
        raise ConversionError(
            f"camera_info says {message.width}x{message.height} pixels: set width and height to the size "
            f"that k is for"
        )
    if abs(k[0, 1]) > 1e-6 * k[0, 0]:
        raise ConversionError(
            f"camera_info has a skew of {k[0, 1]:g} in {name}, which the model cannot use: rectify first"
        )
    roi, (bx, by) = message.roi, (max(1, message.binning_x), max(1, message.binning_y))
    # A width or height of zero says: all of it.
    width, height = roi.width or message.width, roi.height or message.height
    if roi.x_offset + width > message.width or roi.y_offset + height > message.height:
        raise ConversionError(
            f"camera_info has a region of interest of {width}x{height} at {roi.x_offset}, {roi.y_offset}, which "
            f"is not within its {message.width}x{message.height} pixels: width and height are those before "
            f"cutting and binning"
        )
    if width < bx or height < by:
        raise ConversionError(f"camera_info bins {width}x{height} pixels by {bx}x{by}: nothing is left")
    try:
        return Intrinsics(*check_intrinsics(
            k[0, 0] / bx, k[1, 1] / by, (k[0, 2] - roi.x_offset) / bx, (k[1, 2] - roi.y_offset) / by,
            width // bx, height // by,
        ))  # fmt: skip
    except CameraError as error:
        raise ConversionError(f"camera_info: {error}") from error


def is_blank(message: CameraInfo) -> bool:
    """Tell whether a CameraInfo was left as it is made, all zeros in k."""
    return not np.any(np.asarray(message.k))


def is_distorted(message: CameraInfo) -> bool:
    """Tell whether a CameraInfo belongs to an image that still has lens distortion in it."""
    return any(value != 0 for value in message.d)


def camera_info(camera: Intrinsics, header: Header) -> CameraInfo:
    """Make the CameraInfo of a rectified pinhole camera."""
    fx, fy, cx, cy = (float(v) for v in (camera.fx, camera.fy, camera.cx, camera.cy))
    return CameraInfo(
        header=header, width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0], r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )  # fmt: skip
