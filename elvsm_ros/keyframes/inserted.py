"""What the device's thread returns about a new keyframe."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Inserted:
    """A new keyframe: its id, the ids that went for it, T_world_cam of it, the mean colour of its image."""

    view: int
    evicted: list[int]
    T_world_cam: NDArray[np.float64]
    colour: Colour


def mean_colour(rgb: NDArray[np.uint8]) -> Colour:
    """Return the mean of an image [H, W, 3], RGB; of a large one by a grid of its pixels."""
    step = max(1, min(rgb.shape[:2]) // 64)
    red, green, blue = rgb[step // 2 :: step, step // 2 :: step].reshape(-1, 3).mean(0)
    return round(red), round(green), round(blue)
