"""Pictures that are too blurred, too dark or too bright to learn a place from."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from elvsm_ros.conversions import RGB, ConversionError

SIDE = 256
"""Short side in pixels that pictures are shrunk to before they are judged: finer blur than that of the size
that models work at does no harm."""
WIDTH = 9
"""Width in pixels of the blur that a picture is compared with."""
BLACK, WHITE = 8, 247
"""Grey values from which on nothing can be told any more."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a keyframe must be like. max_blur: see `blur`; max_clipped: see `clipped`; 1 lets everything pass."""

    max_blur: float = 1.0
    max_clipped: float = 1.0

    def check(self, rgb: RGB) -> None:
        """Raise ConversionError for a picture, uint8 RGB [H, W, 3], that is not good enough."""
        if self.max_clipped >= 1 and self.max_blur >= 1:
            return
        grey = shrunk(rgb)
        if self.max_clipped < 1 and (share := clipped(grey)) > self.max_clipped:
            raise ConversionError(
                f"image is black or burnt out in {share:.0%} of its pixels, more than max_clipped "
                f"({self.max_clipped:.0%}): look at the exposure, or raise the parameter"
            )
        if self.max_blur < 1 and (value := blur(grey)) > self.max_blur:
            raise ConversionError(
                f"image has a blur of {value:.2f}, more than max_blur ({self.max_blur:g}): move more slowly, "
                f"expose for a shorter time, or raise the parameter"
            )


def shrunk(rgb: RGB) -> RGB:
    """Return the picture in grey, uint8 [h, w], with a short side of `SIDE` pixels at most."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = SIDE / min(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, dtype=np.uint8)


def blur(grey: RGB) -> float:
    """Return how little a picture, uint8 [h, w], changes when it is blurred: 0 sharp, 1 flat or blurred already.

    The no-reference measure of Crete et al., The blur effect (SPIE 2007): differences between neighbours along
    an axis, and what is left of them after a box filter along that axis. The larger of both axes, so that blur
    of a motion counts whatever its direction.
    """
    values = grey.astype(np.float32)
    worst = 0.0
    for axis in (0, 1):
        smooth = cv2.blur(values, (WIDTH, 1) if axis else (1, WIDTH))
        before = np.abs(np.diff(values, axis=axis))
        lost = np.maximum(0, before - np.abs(np.diff(smooth, axis=axis))).sum(dtype=np.float64)
        total = before.sum(dtype=np.float64)
        worst = max(worst, 1 - lost / total if total else 1.0)
    return float(worst)


def clipped(grey: RGB) -> float:
    """Return the share of pixels of a picture, uint8 [h, w], that are black or white."""
    return float(((grey < BLACK) | (grey > WHITE)).mean())
