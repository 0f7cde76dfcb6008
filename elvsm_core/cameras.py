"""Pinhole cameras at a pose. Importable without torch.

Axes are OpenCV's, which are also ROS's optical frame (REP 103): x right, y down, z forward. Pixel (column u,
row v) has its centre at (u + 0.5, v + 0.5).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROTATION_TOLERANCE = 1e-3
"""Largest deviation of RᵀR from identity that still counts as a rotation."""

MAX_POSITION = 1e10
"""Largest |coordinate| of a pose: any place on Earth (UTM, ECEF) in metres or millimetres, which float64 still resolves
to two micrometres and whose square float32 still holds."""
FOCAL_RANGE = (1e-3, 1e7)
"""Pixels: beyond, rays overflow float32, or all pixels look the same way."""
MAX_PRINCIPAL_POINT = 1e7
"""Largest |cx| and |cy|, pixels: beyond, float32 does not tell pixels apart."""
MAX_SIDE = 65535
"""Largest width and height, pixels: what image formats hold."""


LONGEST = 4
"""Times the model's short side that a side of its pictures is long: attention takes time by the square of it, and a
strip of 1x128 pixels kept the device for minutes."""


class CameraError(ValueError):
    """A camera whose intrinsics or pose cannot be used."""


def check_pose(T: ArrayLike, name: str = "T_world_cam") -> NDArray[np.float64]:
    """Return T as a float64 4x4 array.

    Raises CameraError unless T is a finite rigid transform: rotation within ROTATION_TOLERANCE, position within
    MAX_POSITION.
    """
    if hasattr(T, "detach"):  # a tensor, on whatever device
        T = T.detach().cpu().numpy()
    try:
        array = np.array(T, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CameraError(f"{name} is not an array of numbers: {error}") from error
    if array.shape != (4, 4):
        raise CameraError(f"{name} must be a 4x4 matrix, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise CameraError(f"{name} has NaN or infinite entries: drop this pose")
    if np.abs(array[:3, 3]).max() > MAX_POSITION:
        raise CameraError(
            f"{name} lies at {', '.join(f'{value:.4g}' for value in array[:3, 3])}, but coordinates must be within "
            f"{MAX_POSITION:g}: drop this pose, and check its unit"
        )
    rotation = np.clip(array[:3, :3], -1e9, 1e9)  # nothing overflows below, where NaN would pass
    deviation = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if deviation > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise CameraError(
            f"{name} has no rotation in its upper left 3x3 block (|RᵀR-1| = {deviation:.2g}, "
            f"determinant {np.linalg.det(rotation):.3g}): normalise the quaternion, and check for a mirrored "
            f"axis or a scale"
        )
    if np.abs(array[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise CameraError(f"{name} must end in the row (0, 0, 0, 1), got {array[3].tolist()}")
    return array


def check_intrinsics(
    fx: float, fy: float, cx: float, cy: float, width: float, height: float
) -> tuple[float, float, float, float, int, int]:
    """Return the numbers of a pinhole camera, pixels, as floats and whole sizes.

    Raises CameraError for values that are not finite, focal lengths outside of FOCAL_RANGE, a principal point beyond
    MAX_PRINCIPAL_POINT, and sizes that are not whole or not in 1 to MAX_SIDE: with these bounds the rays of all pixels
    are finite in float32.
    """
    values = [float(value) for value in (fx, fy, cx, cy)]
    for name, value in zip(("fx", "fy", "cx", "cy"), values, strict=True):
        if not math.isfinite(value):
            raise CameraError(f"camera {name} is {value}: check the calibration (CameraInfo.k)")
    fx, fy, cx, cy = values
    if fx <= 0 or fy <= 0:
        raise CameraError(
            f"camera focal lengths must be positive, got fx {fx}, fy {fy}: the camera is not "
            f"calibrated, or its CameraInfo is not filled in"
        )
    low, high = FOCAL_RANGE
    if not (low <= fx <= high and low <= fy <= high):
        raise CameraError(
            f"camera focal lengths must be between {low:g} and {high:g} pixels, got fx {fx:g}, fy {fy:g}: check the "
            f"calibration (CameraInfo.k is in pixels)"
        )
    if max(abs(cx), abs(cy)) > MAX_PRINCIPAL_POINT:
        raise CameraError(
            f"camera principal point ({cx:g}, {cy:g}) is more than {MAX_PRINCIPAL_POINT:g} pixels away: check the "
            f"calibration (CameraInfo.k)"
        )
    for name, size in (("width", width), ("height", height)):
        if not math.isfinite(size) or int(size) != size or not 1 <= size <= MAX_SIDE:
            raise CameraError(
                f"camera {name} must be a positive number of pixels, {MAX_SIDE} at most, got {size}"
            )
    return fx, fy, cx, cy, int(width), int(height)


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A calibrated pinhole camera without distortion, at a pose.

    fx, fy, cx, cy: pixels. width, height: pixels. T_world_cam: 4x4, camera (optical axes) to world, metres,
    float64, read-only.

    Raises CameraError for values that are not finite or beyond what `check_intrinsics` and `check_pose` accept, and
    poses that are not rigid.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    T_world_cam: NDArray[np.float64]

    def __post_init__(self) -> None:
        numbers = check_intrinsics(self.fx, self.fy, self.cx, self.cy, self.width, self.height)
        for name, value in zip(("fx", "fy", "cx", "cy", "width", "height"), numbers, strict=True):
            object.__setattr__(self, name, value)
        pose = check_pose(self.T_world_cam)
        pose.setflags(write=False)
        object.__setattr__(self, "T_world_cam", pose)

    @property
    def fxfycxcy(self) -> tuple[float, float, float, float]:
        """(fx, fy, cx, cy), pixels."""
        return (self.fx, self.fy, self.cx, self.cy)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return (self.height, self.width)

    def at(self, T_world_cam: ArrayLike) -> Camera:
        """Return this camera at another pose, 4x4, camera to world, metres. Raises CameraError for one that is none."""
        return dataclasses.replace(self, T_world_cam=np.asarray(T_world_cam, dtype=np.float64))

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """Return the camera of a cut-out that starts at (left, top) pixels."""
        return dataclasses.replace(self, cx=self.cx - left, cy=self.cy - top, width=width, height=height)

    def resized(self, width: int, height: int) -> Camera:
        """Return the camera of the same image resampled to width x height pixels."""
        sx, sy = width / self.width, height / self.height
        return dataclasses.replace(
            self,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
            width=width,
            height=height,
        )


def patched_size(size: tuple[int, int], scale: float, native: tuple[int, int], patch: int) -> tuple[int, int]:
    """Return a (height, width) times `scale`, in whole patches: what a model of a native size renders a picture at.

    No side is longer than LONGEST times the model's short one: of a strip, the pixels are not square.
    """
    longest = max(LONGEST * min(native), *native)
    height, width = (max(patch, round(min(longest, side * scale) / patch) * patch) for side in size)
    return height, width
