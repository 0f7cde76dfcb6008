"""What a run of the demo measured, and the words and figures made of it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from elvsm_ros.conversions import RGB


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOutView:
    """A held-out view: pictures uint8 RGB [H, W, 3] at the model's size, and what was measured.

    time: seconds since the walk began. psnr_*: dB against the truth. round_trip: milliseconds as the client
    saw them; inside: as the node reports them. support: 0 to 1. keyframes: stored at that moment; used: for this
    render. away: distance to the nearest keyframe, metres.
    """

    time: float
    T_world_cam: NDArray[np.float64]
    truth: RGB
    render: RGB
    nearest: RGB
    psnr_render: float
    psnr_nearest: float
    round_trip: float
    inside: float
    support: float
    keyframes: int
    used: int
    away: float


@dataclasses.dataclass(frozen=True, eq=False)
class DemoResults:
    """A run: held-out views in the order of time, the keyframes' poses and the camera's path, [n, 4, 4]."""

    views: list[HeldOutView]
    keyframes: NDArray[np.float64]
    path: NDArray[np.float64]
    images_received: int
    images_dropped: int

    @property
    def psnr_render(self) -> float:
        """Mean over the held-out views, dB; NaN when there are none."""
        return float(np.mean([v.psnr_render for v in self.views])) if self.views else math.nan

    @property
    def psnr_nearest(self) -> float:
        """The same for copying the nearest keyframe."""
        return float(np.mean([v.psnr_nearest for v in self.views])) if self.views else math.nan

    @property
    def gain(self) -> float:
        """How much better renders are than copies, dB."""
        return self.psnr_render - self.psnr_nearest

    @property
    def wins(self) -> int:
        """How many renders are better than the copy."""
        return sum(v.psnr_render > v.psnr_nearest for v in self.views)

    def latency(self, percent: float) -> float:
        """Return a percentile of the service's round trips, milliseconds."""
        return float(np.percentile([v.round_trip for v in self.views], percent)) if self.views else math.nan

    def verdict(self) -> str | None:
        """Say why the run is no success, or None."""
        if not self.views:
            return "no held-out view was rendered: the walk was too short, or every frame became a keyframe"
        if not self.gain > 0:
            return (
                f"renders ({self.psnr_render:.2f} dB) are no better than copying the nearest keyframe "
                f"({self.psnr_nearest:.2f} dB): the model has not learnt enough for these images"
            )
        return None


def samples(views: list[HeldOutView], count: int) -> list[HeldOutView]:
    """Pick views for a picture: evenly over the walk, of each part the one with the median gain."""
    picked = []
    for part in np.array_split(np.arange(len(views)), min(count, len(views))):
        gains = [views[k].psnr_render - views[k].psnr_nearest for k in part]
        picked.append(views[part[int(np.argsort(gains)[(len(gains) - 1) // 2])]])
    return picked
