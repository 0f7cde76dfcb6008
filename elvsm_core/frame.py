"""The similarity between the robot's world and the coordinates that the model was trained in."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .cameras import CameraError, check_pose, mean_pose

MODEL_RANGE = 1 / 1.35
"""Largest |coordinate| of a camera centre in training, model units."""


@dataclasses.dataclass(frozen=True, eq=False)
class SceneFrame:
    """A similarity from world to model coordinates: an anchor pose and one scale.

    T_world_anchor: 4x4, the pose that becomes the model's identity, metres. scale: model units per metre.
    Everything is computed in float64, so that a map whose origin is far away (UTM, say) loses nothing.
    """

    T_world_anchor: NDArray[np.float64]
    scale: float

    def __post_init__(self) -> None:
        anchor = check_pose(self.T_world_anchor, "T_world_anchor")
        anchor.setflags(write=False)
        object.__setattr__(self, "T_world_anchor", anchor)
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise CameraError(f"the scale of a SceneFrame must be positive, got {self.scale}")

    @classmethod
    def fit(
        cls,
        T_world_cam: ArrayLike,
        reach: float = MODEL_RANGE,
        default_scale: float = 0.5,
        max_scale: float = math.inf,
    ) -> SceneFrame:
        """Return the frame whose anchor is the mean pose and in which the farthest camera lies at `reach`.

        T_world_cam [n, 4, 4]. With reach = 1/1.35 this is the published normalisation of these views. Where
        the centres coincide (a single view, a robot turning on the spot), the scale is default_scale; it is
        never more than max_scale.
        """
        poses = np.asarray(T_world_cam, dtype=np.float64)
        anchor = mean_pose(torch.from_numpy(poses)).numpy()
        if not np.allclose(anchor[:3, :3] @ anchor[:3, :3].T, np.eye(3), atol=1e-6):
            anchor = poses[-1].copy()  # views that face all ways have no mean direction
            anchor[:3, 3] = poses[:, :3, 3].mean(0)
        extent = float(np.abs((poses[:, :3, 3] - anchor[:3, 3]) @ anchor[:3, :3]).max())
        # Below a millimetre the baseline is noise, and the scale would be, too.
        return cls(anchor, min(reach / extent, max_scale) if extent > 1e-3 else default_scale)

    @functools.cached_property
    def _T_anchor_world(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.inv(self.T_world_anchor), dtype=np.float64)

    def to_model(self, T_world_cam: ArrayLike) -> NDArray[np.float32]:
        """Map poses [n, 4, 4] in the world to camera-to-model poses [n, 4, 4], float32."""
        local = self._T_anchor_world @ np.asarray(T_world_cam, dtype=np.float64)
        local[..., :3, 3] *= self.scale
        return local.astype(np.float32)

    def extent(self, T_world_cam: ArrayLike) -> float:
        """Return the largest |coordinate| in model units of the camera centres of [n, 4, 4] poses."""
        return float(np.abs(self.to_model(T_world_cam)[..., :3, 3]).max())

    def moved(self, T_new_old: ArrayLike) -> SceneFrame:
        """Return the frame after the whole world moved rigidly; model coordinates stay what they were."""
        return SceneFrame(check_pose(T_new_old, "T_new_old") @ self.T_world_anchor, self.scale)


def common_motion(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return T_new_old if poses [n, 4, 4] all moved by it, to a micrometre and a microradian."""
    T_new_old = new[0] @ np.linalg.inv(old[0])
    return T_new_old if np.allclose(T_new_old @ old, new, rtol=0, atol=1e-6) else None


@dataclasses.dataclass(frozen=True)
class FramePolicy:
    """When an online scene chooses its frame anew.

    freeze_after: number of keyframes up to which the frame follows them. window: number of newest keyframes
    that a new frame is fitted to. reach: where the farthest of them comes to lie, model units; the rest of
    the range is room to move on. limit: the frame is chosen anew when a keyframe lies farther out than this.
    max_scale: model units per metre, so that the jitter of a camera that stands still is not blown up to the
    whole range. shrink: the frame is also chosen anew when a new one would be larger in scale by this factor,
    because the camera jumped and left a frame behind that spans both places.

    The defaults were measured on a recorded walk (docs/decisions.md).
    """

    freeze_after: int = 4
    window: int = 4
    reach: float = 0.75 * MODEL_RANGE
    limit: float = MODEL_RANGE
    max_scale: float = 8.0
    shrink: float = 4.0

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
        ):
            return fresh
        return current

    def frame_for(self, used: NDArray[np.float64], targets: NDArray[np.float64]) -> SceneFrame:
        """Return the frame for a request outside of the current one: views used [n, 4, 4], targets [m, 4, 4].

        It depends on the views alone as long as the targets lie in its range, so that requests which use the
        same views share it.
        """
        frame = SceneFrame.fit(used, self.reach, max_scale=self.max_scale)
        if frame.extent(targets) <= self.limit:
            return frame
        return SceneFrame.fit(np.concatenate([used, targets]), max_scale=self.max_scale)
