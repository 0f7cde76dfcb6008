"""Loop closures: corrected poses of keyframes, from the message to what the scene is told."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
from numpy.typing import NDArray

from elvsm.msg import PoseUpdates
from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError


@dataclasses.dataclass(frozen=True, eq=False)
class Correction:
    """New poses of keyframes. poses: T_world_cam [4, 4] by id; T_new_old: what moves all of them instead."""

    poses: dict[int, NDArray[np.float64]]
    T_new_old: NDArray[np.float64] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Corrected:
    """What became of a correction: poses T_world_cam [4, 4] by id, and ids that there are none of."""

    poses: dict[int, NDArray[np.float64]]
    unknown: list[int]


def parse(message: PoseUpdates, world_frame: str) -> Correction:
    """Check an elvsm/msg/PoseUpdates. Raises ConversionError when it cannot be followed in full."""
    frame_id = message.header.frame_id.lstrip("/")
    if frame_id and frame_id != world_frame:
        raise ConversionError(
            f"pose updates are given in frame {frame_id!r}, but the world frame of the keyframes is "
            f"{world_frame!r}: transform them first"
        )
    ids = [int(view) for view in message.ids]
    if not ids and len(message.poses) == 1:
        return Correction({}, _pose("the correction of all keyframes", message.poses[0]))
    if not ids or len(ids) != len(message.poses):
        raise ConversionError(
            f"pose updates hold {len(ids)} ids and {len(message.poses)} poses: send as many of both, or no id "
            f"and one pose that moves all keyframes"
        )
    twice = [view for view, count in collections.Counter(ids).items() if count > 1]
    if twice:
        raise ConversionError(f"pose updates hold two poses of keyframe {twice[0]}: send one of each")
    return Correction(
        {
            view: _pose(f"the pose of keyframe {view}", pose)
            for view, pose in zip(ids, message.poses, strict=True)
        }
    )


def _pose(what: str, pose: conversions.Pose) -> NDArray[np.float64]:
    try:
        return conversions.pose_to_matrix(pose)
    except ConversionError as error:
        raise ConversionError(f"pose updates: {what}: {error}") from error
