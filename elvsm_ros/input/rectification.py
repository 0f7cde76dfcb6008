"""Images of real lenses made images of a pinhole camera, which is all that the model knows.

Distortion models are those of sensor_msgs/CameraInfo: plumb_bob, rational_polynomial and equidistant, computed by
OpenCV. Pixel coordinates are CameraInfo's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from elvsm_ros import conversions
from elvsm_ros.conversions import RGB, ConversionError, Intrinsics
from elvsm_ros.quoting import quoted

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
"""Numbers of distortion coefficients that each model may have."""
WIDEST = math.tan(math.radians(60))
"""Half of the field of view that a rectified picture has at most, as a tangent: beyond it pixels are smeared."""
NARROWEST = 4.0
"""How many times the focal length may grow until a picture has no blank pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Lens:
    """A distorted camera. raw: pinhole part, of the image as it arrives. model, d: of CameraInfo."""

    raw: Intrinsics
    model: str
    d: NDArray[np.float64]

    @functools.cached_property
    def camera(self) -> Intrinsics:
        """The pinhole camera of rectified images: the widest one whose picture has no blank pixels.

        It looks where the lens does, keeps size, principal point and the ratio of the focal lengths, and shows
        120 degrees at most. Raises ConversionError when there is none.
        """
        raw = self.raw
        # Downwards: polynomials fold back far outside of the picture, and what lies there looks valid again.
        best, scale = None, NARROWEST
        while self._covers(scale):
            best, scale = scale, scale * 0.9
        for _ in range(8 if best is not None else 0):  # to less than a thousandth
            middle = (best + scale) / 2
            best, scale = (middle, scale) if self._covers(middle) else (best, middle)
        if best is None:
            raise ConversionError(
                f"camera_info has {self.model} coefficients {self.d.tolist()} that leave nothing of a picture of "
                f"{raw.width}x{raw.height} with focal length {raw.fx:g}: calibrate the camera again"
            )
        return dataclasses.replace(raw, fx=raw.fx * best, fy=raw.fy * best)

    @functools.cached_property
    def maps(self) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
        """Where each rectified pixel comes from, as cv2.remap takes it. Made once, at the first use."""
        new = self.camera
        size = (new.width, new.height)
        make: Callable[..., tuple[NDArray, NDArray]] = (
            cv2.fisheye.initUndistortRectifyMap
            if self.model == "equidistant"
            else cv2.initUndistortRectifyMap
        )
        return make(_matrix(self.raw), self.d, np.eye(3), _matrix(new), size, cv2.CV_16SC2)

    def rectify(self, rgb: RGB) -> RGB:
        """Return uint8 RGB [H, W, 3] as `camera` sees it. Raises ConversionError for another size than its."""
        height, width = rgb.shape[:2]
        if (width, height) != (self.raw.width, self.raw.height):
            raise ConversionError(
                f"image is {width}x{height} but its camera is calibrated for {self.raw.width}x{self.raw.height}: "
                f"let the driver publish camera_info for the size that it publishes images in"
            )
        return np.asarray(cv2.remap(rgb, *self.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    def project(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pixels [n, 2] where the lens puts directions [n, 2], given as x/z and y/z."""
        K = _matrix(self.raw)
        if self.model == "equidistant":
            return cv2.fisheye.distortPoints(xy[:, None], K, self.d)[:, 0]
        points = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
        return cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, self.d)[0][:, 0]

    def _covers(self, scale: float) -> bool:
        """Tell whether the picture with `scale` times the focal length has no blank pixels and is not too wide.

        Its border decides, at 97 points a side.
        """
        raw = self.raw
        sides = max(raw.cx, raw.width - raw.cx) / raw.fx, max(raw.cy, raw.height - raw.cy) / raw.fy
        if max(sides) / scale > WIDEST:
            return False
        across, down = np.linspace(0, raw.width - 1, 97), np.linspace(0, raw.height - 1, 97)
        u = np.concatenate([across, across, np.zeros_like(down), np.full_like(down, raw.width - 1)])
        v = np.concatenate([np.zeros_like(across), np.full_like(across, raw.height - 1), down, down])
        xy = np.stack([(u - raw.cx) / (raw.fx * scale), (v - raw.cy) / (raw.fy * scale)], axis=1)
        pixels = self.project(xy)
        return bool(
            np.isfinite(pixels).all()
            and (pixels >= 0).all()
            and (pixels <= [raw.width - 1, raw.height - 1]).all()
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What a CameraInfo says of its images.

    camera: of the picture to use. lens: makes that picture; None: the image is used as it is.
    """

    camera: Intrinsics
    lens: Lens | None = None


def key(message: CameraInfo) -> tuple:
    """Return what tells one calibration from another, whatever the stamp."""
    roi = message.roi
    return (
        message.width, message.height, message.distortion_model, tuple(message.d), message.k.tobytes(),
        message.p.tobytes(), message.binning_x, message.binning_y,
        roi.x_offset, roi.y_offset, roi.width, roi.height,
    )  # fmt: skip


def read(message: CameraInfo, rectified: bool = False) -> Calibration:
    """Understand a CameraInfo. rectified: its images have no distortion any more, and p is theirs.

    Raises ConversionError for a camera that is not calibrated, a distortion model that nobody here knows, and
    coefficients that do not fit it.
    """
    if rectified:
        return Calibration(conversions.intrinsics(message, projection=True))
    raw = conversions.intrinsics(message)
    if not conversions.is_distorted(message):
        return Calibration(raw)
    model = "equidistant" if message.distortion_model == "fisheye" else message.distortion_model
    allowed = COEFFICIENTS.get(model)
    if allowed is None:
        raise ConversionError(
            f"camera_info has the distortion model {quoted(message.distortion_model)}, which is none of "
            f"{', '.join(COEFFICIENTS)}: let image_proc or the driver rectify, and set images_rectified"
        )
    d = np.asarray(message.d, dtype=np.float64)
    if len(d) not in allowed or not np.isfinite(d).all():
        raise ConversionError(
            f"camera_info has {d.tolist()} as {model} coefficients, which must be "
            f"{' or '.join(map(str, allowed))} numbers: calibrate the camera again"
        )
    lens = Lens(raw, model, d)
    return Calibration(lens.camera, lens)


def _matrix(camera: Intrinsics) -> NDArray[np.float64]:
    return np.array([[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]])
