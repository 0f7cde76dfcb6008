"""The similarity between the robot's world and the coordinates that the model was trained in."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .cameras import CameraError, check_pose

MODEL_RANGE = 1 / 1.35
"""Largest |coordinate| of a camera centre in training, model units."""

SCALE_RANGE = (1e-12, 1e6)
"""Model units per metre: with MAX_POSITION, coordinates in the model keep within what float32 can square."""


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
        low, high = SCALE_RANGE
        if not low <= self.scale <= high:  # nor NaN
            raise CameraError(
                f"the scale of a SceneFrame must be positive, between {low:g} and {high:g}, got {self.scale}"
            )

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
        anchor = np.eye(4)
        anchor[:3, :3], anchor[:3, 3] = mean_orientation(poses), poses[:, :3, 3].mean(0)
        extent = float(np.abs((poses[:, :3, 3] - anchor[:3, 3]) @ anchor[:3, :3]).max())
        # Below a millimetre the baseline is noise, and the scale would be, too.
        return cls(anchor, min(reach / extent, max_scale) if extent > 1e-3 else default_scale)

    @functools.cached_property
    def numbers(self) -> tuple[float, bytes]:
        """What a frame consists of, as a key: equal frames map the world in the same way."""
        return self.scale, (self.T_world_anchor + 0.0).tobytes()  # with one kind of zero

    def __eq__(self, other: object) -> bool:
        return self.numbers == other.numbers if isinstance(other, SceneFrame) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.numbers)

    @functools.cached_property
    def _upper_rows(self) -> list[list[float]]:
        return self._T_anchor_world[:3].tolist()

    @functools.cached_property
    def _T_anchor_world(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.inv(self.T_world_anchor), dtype=np.float64)

    def to_model(self, T_world_cam: ArrayLike) -> NDArray[np.float32]:
        """Map poses [n, 4, 4] in the world to camera-to-model poses [n, 4, 4], float32."""
        local = self._T_anchor_world @ np.asarray(T_world_cam, dtype=np.float64)
        local[..., :3, 3] *= self.scale
        return local.astype(np.float32)

    def pose_to_model(self, T_world_cam: NDArray[np.float64]) -> list[float]:
        """Map one pose [4, 4]; returns the upper three rows, twelve numbers.

        On the way of every request to the device, hence without numpy, which takes many times as long when
        the processor has had other things to do.
        """
        (x0, x1, x2, x3), (y0, y1, y2, y3), (z0, z1, z2, z3), _ = T_world_cam.tolist()
        scale, numbers = self.scale, []
        for a, b, c, d in self._upper_rows:
            numbers += [
                a * x0 + b * y0 + c * z0,
                a * x1 + b * y1 + c * z1,
                a * x2 + b * y2 + c * z2,
                (a * x3 + b * y3 + c * z3 + d) * scale,
            ]
        return numbers

    def extent(self, T_world_cam: ArrayLike) -> float:
        """Return the largest absolute coordinate, in model units, of the camera centres of [n, 4, 4] poses."""
        return float(np.abs(self.to_model(T_world_cam)[..., :3, 3]).max())

    def moved(self, T_new_old: ArrayLike) -> SceneFrame:
        """Return the frame after the whole world moved rigidly; model coordinates stay what they were."""
        return SceneFrame(check_pose(T_new_old, "T_new_old") @ self.T_world_anchor, self.scale)


def mean_orientation(T_world_cam: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean orientation [3, 3] of poses [n, 4, 4], as `mean_pose` has it; of the last one, where they
    face all ways and there is none.
    """
    _, down, forward = T_world_cam[:, :3, :3].mean(0).T
    right = cross(down, forward)
    length, width = math.sqrt(forward @ forward), math.sqrt(right @ right)
    if length < 1e-6 or width < 1e-6:
        return T_world_cam[-1, :3, :3]
    forward, right = forward / length, right / width
    return np.array([right, cross(forward, right), forward]).T


def cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cross product of two vectors [3]; numpy's own takes thirty times as long."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def common_motion(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return T_new_old if poses [n, 4, 4] all moved by it, to a micrometre and a microradian."""
    T_new_old = new[0] @ np.linalg.inv(old[0])
    return T_new_old if np.allclose(T_new_old @ old, new, rtol=0, atol=1e-6) else None
