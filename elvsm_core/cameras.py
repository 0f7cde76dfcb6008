"""Pinhole cameras, their rays, and the published normalisation of poses.

Axes are OpenCV's, which are also ROS's optical frame (REP 103): x right, y down, z forward. Pixel (column u,
row v) has its centre at (u + 0.5, v + 0.5).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

ROTATION_TOLERANCE = 1e-3
"""Largest deviation of RᵀR from identity that still counts as a rotation."""


class CameraError(ValueError):
    """A camera whose intrinsics or pose cannot be used."""


def check_pose(T: ArrayLike, name: str = "T_world_cam") -> NDArray[np.float64]:
    """Return T as a float64 4x4 array.

    Raises CameraError unless T is a finite rigid transform (rotation within ROTATION_TOLERANCE).
    """
    if isinstance(T, Tensor):
        T = T.detach().cpu().numpy()
    try:
        array = np.array(T, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CameraError(f"{name} is not an array of numbers: {error}") from error
    if array.shape != (4, 4):
        raise CameraError(f"{name} must be a 4x4 matrix, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise CameraError(f"{name} has NaN or infinite entries: drop this pose")
    rotation = array[:3, :3]
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


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A calibrated pinhole camera without distortion, at a pose.

    fx, fy, cx, cy: pixels. width, height: pixels. T_world_cam: 4x4, camera (optical axes) to world, metres,
    float64, read-only.

    Raises CameraError for values that are not finite, focal lengths or sizes that are not positive, and poses
    that are not rigid.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    T_world_cam: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("fx", "fy", "cx", "cy"):
            value = float(getattr(self, name))
            if not math.isfinite(value):
                raise CameraError(f"camera {name} is {value}: check the calibration (CameraInfo.k)")
            object.__setattr__(self, name, value)
        if self.fx <= 0 or self.fy <= 0:
            raise CameraError(
                f"camera focal lengths must be positive, got fx {self.fx}, fy {self.fy}: the camera is not "
                f"calibrated, or its CameraInfo is not filled in"
            )
        for name in ("width", "height"):
            value = getattr(self, name)
            if not math.isfinite(value) or int(value) != value or value < 1:
                raise CameraError(f"camera {name} must be a positive number of pixels, got {value}")
            object.__setattr__(self, name, int(value))
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


def compute_rays(
    c2w: Tensor, fxfycxcy: Tensor, size: tuple[int, int], bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the origin and the unit direction of every pixel's ray.

    c2w [..., 4, 4] camera-to-world; fxfycxcy [..., 4] pixels; size (H, W) pixels. Returns two tensors
    [..., 3, H, W], float32 whatever autocast says (bfloat16 rays are off by up to a pixel).
    bf16 rounds directions, rotations and their products as bfloat16 autocast does on CUDA, which is what the
    published weights were trained and evaluated with.
    """
    height, width = size
    with torch.autocast(c2w.device.type, enabled=False):
        c2w, fxfycxcy = c2w.float(), fxfycxcy.float()
        fx, fy, cx, cy = fxfycxcy[..., None, None].unbind(-3)
        u = torch.arange(width, device=c2w.device, dtype=torch.float32) + 0.5
        v = torch.arange(height, device=c2w.device, dtype=torch.float32)[:, None] + 0.5
        x, y = torch.broadcast_tensors((u - cx) / fx, (v - cy) / fy)
        rotation = c2w[..., :3, :3]
        if bf16:
            x, y, rotation = (t.bfloat16().float() for t in (x, y, rotation))
        # Written out, because a matrix product would be rounded to TF32 where that is allowed.
        r0, r1, r2 = rotation[..., None, None].unbind(-3)
        directions = r0 * x.unsqueeze(-3) + r1 * y.unsqueeze(-3) + r2
        if bf16:
            directions = directions.bfloat16().float()
        directions = directions / directions.norm(dim=-3, keepdim=True)
        origins = c2w[..., :3, 3, None, None].expand_as(directions)
    return origins, directions


def mean_pose(c2w: Tensor) -> Tensor:
    """Return the average pose [..., 4, 4] of c2w [..., V, 4, 4]: mean centre, mean forward and down axes.

    The published definition: forward is the normalised mean of the z axes; right is down x forward, with down
    the mean of the y axes; down is forward x right.
    """
    centre = c2w[..., :3, 3].mean(-2)
    forward = torch.nn.functional.normalize(c2w[..., :3, 2].mean(-2), dim=-1)
    down = c2w[..., :3, 1].mean(-2)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=-1)
    down = torch.nn.functional.normalize(torch.linalg.cross(forward, right), dim=-1)
    pose = torch.zeros_like(c2w[..., 0, :, :])
    pose[..., :3, :] = torch.stack([right, down, forward, centre], dim=-1)
    pose[..., 3, 3] = 1
    return pose


def normalize_poses(c2w: Tensor, scale_factor: float = 1.35) -> Tensor:
    """Normalise the poses of one sample as the published training and evaluation do.

    c2w [..., V, 4, 4] camera-to-world, all views of a sample, inputs and targets together. The result is
    relative to their mean pose, with the largest absolute coordinate of a camera centre 1/scale_factor.
    Same shape and dtype.

    Raises CameraError where all camera centres coincide or opposite views cancel out: the published formula
    divides by zero there, and the sample has to be left out or given a scale of its own.
    """
    local = torch.linalg.inv(mean_pose(c2w)).unsqueeze(-3) @ c2w
    extent = local[..., :3, 3].abs().amax((-1, -2))
    if not bool((torch.isfinite(extent) & (extent > 1e-9)).all()):
        raise CameraError(
            "poses cannot be normalised: all camera centres coincide, or the viewing directions cancel out; "
            "leave the sample out, or use a SceneFrame with a scale of your choice"
        )
    local[..., :3, 3] /= (scale_factor * extent)[..., None, None]
    return local
