"""Photos of real lenses made photos of a pinhole camera, which is all that the model knows.

The two families of distortion that OpenCV undistorts: "opencv", polynomials in the distance from the axis with up to
twelve coefficients k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4, and "fisheye", a polynomial in the angle with k1 k2 k3 k4.
Pixel coordinates are this package's: the centre of the first pixel is at (0.5, 0.5), half a pixel from OpenCV's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..store import DatasetError

WIDEST = math.tan(math.radians(60))
"""Half of the field of view that an undistorted picture has at most, as a tangent: beyond it pixels are smeared."""
NARROWEST = 4.0
"""How many times the focal length may grow until a picture has no blank pixels."""
BORDER = 97
"""Points of each side of a picture that decide whether it has blank pixels."""


@dataclasses.dataclass(frozen=True)
class Lens:
    """A distorted camera: fx, fy, cx, cy, width, height in pixels; model "opencv" or "fisheye"; its coefficients d."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    model: str
    d: tuple[float, ...]

    def scaled(self, width: int, height: int) -> Lens:
        """Return the lens in front of the same image resampled to another size."""
        if (width, height) == (self.width, self.height):
            return self
        sx, sy = width / self.width, height / self.height
        return Lens(self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, width, height, self.model, self.d)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """K [3, 3] as OpenCV counts pixels."""
        return _matrix(self.fx, self.fy, self.cx, self.cy)

    @property
    def pinhole(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy of undistorted pictures: the widest camera without blank pixels, of the same size.

        It keeps the principal point and the ratio of the focal lengths, and shows 120 degrees at most. Raises
        DatasetError when there is none.
        """
        return _pinhole(self)

    def undistort(self, pixels: NDArray[Any], nearest: bool = False) -> NDArray[Any]:
        """Return the picture [H, W] or [H, W, 3] as `pinhole` sees it. nearest: do not mix pixels (depths)."""
        import cv2

        way = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        return np.asarray(cv2.remap(pixels, *_maps(self), way, borderMode=cv2.BORDER_REPLICATE))

    def project(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pixels [n, 2], as OpenCV counts them, where the lens puts directions [n, 2]: x/z and y/z."""
        import cv2

        d = np.array(self.d)
        if self.model == "fisheye":
            return np.asarray(cv2.fisheye.distortPoints(xy[:, None], self.matrix, d)[:, 0])
        points = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
        return np.asarray(cv2.projectPoints(points, np.zeros(3), np.zeros(3), self.matrix, d)[0][:, 0])


def make_lens(
    fxfycxcy: NDArray[np.float64], width: int, height: int, model: str, d: tuple[float, ...], where: str
) -> Lens | None:
    """Return the lens of a camera, None where it has no distortion. Raises DatasetError for coefficients with NaN."""
    if model == "opencv" and not any(d):
        return None
    if not np.isfinite(d).all():
        raise DatasetError(f"{where}: distortion coefficients {list(d)} are not all numbers: calibrate again")
    if model == "opencv":  # the numbers of coefficients that OpenCV knows
        size = next(n for n in (5, 8, 12) if n >= len(d))
        d = (*d, *([0.0] * (size - len(d))))
    fx, fy, cx, cy = (float(v) for v in fxfycxcy)
    return Lens(fx, fy, cx, cy, int(width), int(height), model, tuple(float(v) for v in d))


def _matrix(fx: float, fy: float, cx: float, cy: float) -> NDArray[np.float64]:
    return np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])


@functools.lru_cache(maxsize=1024)
def _pinhole(lens: Lens) -> tuple[float, float, float, float]:
    # Downwards: polynomials fold back far outside of the picture, and what lies there looks valid again.
    best, scale = None, NARROWEST
    while _covers(lens, scale):
        best, scale = scale, scale * 0.9
    for _ in range(8 if best is not None else 0):  # to less than a thousandth
        middle = (best + scale) / 2
        best, scale = (middle, scale) if _covers(lens, middle) else (best, middle)
    if best is None:
        raise DatasetError(
            f"distortion coefficients {list(lens.d)} leave nothing of a picture of {lens.width}x{lens.height} with "
            f"focal length {lens.fx:g}: calibrate the camera again, or undistort the photos beforehand"
        )
    return lens.fx * best, lens.fy * best, lens.cx, lens.cy


def _covers(lens: Lens, scale: float) -> bool:
    """Tell whether the picture with `scale` times the focal length has no blank pixels and is not too wide."""
    width, height, cx, cy = lens.width, lens.height, lens.cx - 0.5, lens.cy - 0.5
    sides = max(cx, width - cx) / lens.fx, max(cy, height - cy) / lens.fy
    if max(sides) / scale > WIDEST:
        return False
    across, down = np.linspace(0, width - 1, BORDER), np.linspace(0, height - 1, BORDER)
    u = np.concatenate([across, across, np.zeros_like(down), np.full_like(down, width - 1)])
    v = np.concatenate([np.zeros_like(across), np.full_like(across, height - 1), down, down])
    xy = np.stack([(u - cx) / (lens.fx * scale), (v - cy) / (lens.fy * scale)], axis=1)
    pixels = lens.project(xy)
    inside = (pixels >= 0).all() and (pixels <= [width - 1, height - 1]).all()
    # Where a polynomial folds back, what lies farther out shows up nearer to the centre.
    radii = [np.linalg.norm(lens.project(xy * share) - [cx, cy], axis=1) for share in (0.5, 0.75, 1.0)]
    grows = (radii[0] <= radii[1]).all() and (radii[1] <= radii[2]).all()
    return bool(np.isfinite(pixels).all() and inside and grows)


@functools.lru_cache(maxsize=4)
def _maps(lens: Lens) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Return where each undistorted pixel comes from, as cv2.remap takes it (6 bytes a pixel)."""
    import cv2

    make: Callable[..., Any] = (
        cv2.fisheye.initUndistortRectifyMap if lens.model == "fisheye" else cv2.initUndistortRectifyMap
    )
    new, size = _matrix(*lens.pinhole), (lens.width, lens.height)
    maps: tuple[NDArray[np.int16], NDArray[np.uint16]] = make(
        lens.matrix, np.array(lens.d), np.eye(3), new, size, cv2.CV_16SC2
    )
    return maps
