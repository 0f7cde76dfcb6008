"""Which frame a scene has, and which one a request gets that the scene's frame does not suit."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from .frame import MODEL_RANGE, SceneFrame, cross, mean_orientation

MAX_SCALE = 8.0
"""Model units per metre."""


@dataclasses.dataclass(frozen=True)
class FrameGrid:
    """Which frames there are, and which of them suits some views.

    A frame of the set looks in one of the directions that are multiples of `turns` (yaw, pitch and roll, radians),
    has a power of four as its scale, and its anchor on a grid with steps of `cell` along its x, y and z (right,
    down, forward), model units. It is chosen so that the farthest view or target lies between a quarter of
    `spread` and `spread` from the middle of the views. What is chosen depends on the poses given and on nothing
    else.

    The model hardly minds a small scale, an anchor some way ahead or behind, and another yaw; it does mind one that
    lies higher or lower, a pitch and a roll (docs/notebook/selection.md). The steps were chosen accordingly.
    """

    spread: float = 0.4
    cell: tuple[float, float, float] = (0.3, 0.1, 0.6)
    turns: tuple[float, float, float] = (math.radians(15), math.radians(6), math.radians(6))

    def choose(
        self, used: NDArray[np.float64], targets: NDArray[np.float64], max_scale: float = MAX_SCALE
    ) -> SceneFrame:
        """Return the frame for views used [n, 4, 4] and targets [m, 4, 4], T_world_cam in metres.

        max_scale: see `FramePolicy`.
        """
        rotation = self._snapped(mean_orientation(used))
        middle = used[:, :3, 3].mean(0)
        offsets = (np.concatenate([used, targets])[:, :3, 3] - middle) @ rotation
        # The last digits must not decide between two scales.
        farthest = max(float(np.abs(offsets).max()), self.spread / max_scale) * (1 - 1e-9)
        scale = 4.0 ** math.floor(math.log(self.spread / farthest, 4))
        steps = np.array(self.cell) / scale
        anchor = np.eye(4)
        anchor[:3, :3] = rotation
        anchor[:3, 3] = rotation @ (np.round(middle @ rotation / steps) * steps)
        return SceneFrame(anchor, scale)

    def _snapped(self, rotation: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the orientation of the set that is nearest in yaw, pitch and roll.

        The angles are taken about the axis of the world that is nearest to the view's own downward axis, so that
        they mean what their names say however the world is oriented.
        """
        axis = int(np.abs(rotation[:, 1]).argmax())
        down, a, b = np.roll(np.eye(3), -axis, axis=0) * np.sign(rotation[axis, 1])
        forward = rotation[:, 2]
        yaw, pitch, roll = self.turns
        yaw *= round(math.atan2(forward @ b, forward @ a) / yaw)
        pitch *= round(math.asin(min(1.0, max(-1.0, float(forward @ down)))) / pitch)
        level = math.cos(yaw) * a + math.sin(yaw) * b
        right = cross(down, level)
        forward = math.cos(pitch) * level + math.sin(pitch) * down
        below = cross(forward, right)
        roll *= round(math.atan2(rotation[:, 0] @ below, rotation[:, 0] @ right) / roll)
        right = math.cos(roll) * right + math.sin(roll) * below
        return np.array([right, cross(forward, right), forward]).T


@dataclasses.dataclass(frozen=True)
class FramePolicy:
    """When an online scene chooses its frame anew.

    freeze_after: number of keyframes up to which the frame follows them. window: number of newest keyframes
    that a new frame is fitted to. reach: where the farthest of them comes to lie, model units; the rest of
    the range is room to move on. limit: the frame is chosen anew when a keyframe lies farther out than this.
    max_scale: model units per metre, so that the jitter of a camera that stands still is not blown up to the
    whole range. shrink: the frame is also chosen anew when a new one would be larger in scale by this factor,
    because the camera jumped and left a frame behind that spans both places. turn: radians that the newest
    keyframes, or the views that a request uses, may look away from the frame's direction on average. grid: of
    frames for requests that the scene's frame does not suit.

    The defaults were measured on a recorded walk (docs/decisions.md).
    """

    freeze_after: int = 4
    window: int = 4
    reach: float = 0.375 * MODEL_RANGE
    limit: float = MODEL_RANGE
    max_scale: float = MAX_SCALE
    shrink: float = 4.0
    turn: float = math.radians(20)
    grid: FrameGrid = FrameGrid()

    def next_frame(self, current: SceneFrame | None, T_world_cam: NDArray[np.float64]) -> SceneFrame:
        """Return the frame to use for keyframes T_world_cam [n, 4, 4], the newest last.

        Returns `current` itself unless it has to change.
        """
        fresh = SceneFrame.fit(T_world_cam[-self.window :], self.reach, max_scale=self.max_scale)
        if (
            current is None
            or len(T_world_cam) <= self.freeze_after
            or current.extent(T_world_cam[-1:]) > self.limit
            or fresh.scale > self.shrink * current.scale
            or self._turned(current, T_world_cam[-self.window :]) > self.turn
        ):
            return fresh
        return current

    def suits(self, frame: SceneFrame, used: NDArray[np.float64], targets: NDArray[np.float64]) -> bool:
        """Tell whether views used [n, 4, 4] and targets [m, 4, 4] may be rendered in a frame.

        Targets have to lie in its range, and the views to look its way on average.
        """
        return frame.extent(targets) <= self.limit and self._turned(frame, used) <= self.turn

    def frame_for(self, used: NDArray[np.float64], targets: NDArray[np.float64]) -> SceneFrame:
        """Return the frame for a request that the scene's does not suit: views used [n, 4, 4], targets [m, 4, 4]."""
        return self.grid.choose(used, targets, self.max_scale)

    def _turned(self, frame: SceneFrame, T_world_cam: NDArray[np.float64]) -> float:
        """Return by how many radians the mean orientation of poses differs from a frame's."""
        cosine = (np.sum(frame.T_world_anchor[:3, :3] * mean_orientation(T_world_cam)) - 1) / 2
        return math.acos(min(1.0, max(-1.0, float(cosine))))
