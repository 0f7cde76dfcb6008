"""Loop closures: corrected poses of keyframes, from the message to what the scene is told."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from elvsm.msg import PoseUpdates
from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError
from elvsm_ros.quoting import quoted

MOST = 10_000
"""Poses that a message may hold."""


@dataclasses.dataclass(frozen=True, eq=False)
class Correction:
    """New poses of keyframes. poses: T_world_cam [4, 4] by id; T_new_old: what moves all of them instead."""

    poses: dict[int, NDArray[np.float64]]
    T_new_old: NDArray[np.float64] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Corrected:
    """What became of a correction: poses T_world_cam [4, 4] by id, the same as messages, and ids of no keyframe."""

    poses: dict[int, NDArray[np.float64]]
    messages: dict[int, conversions.Pose]
    unknown: list[int]


def parse(message: PoseUpdates, world_frame: str) -> Correction:
    """Check an elvsm/msg/PoseUpdates. Raises ConversionError when it cannot be followed in full."""
    frame_id = message.header.frame_id.lstrip("/")
    if frame_id and frame_id != world_frame:
        raise ConversionError(
            f"pose updates are given in frame {quoted(frame_id)}, but the world frame of the keyframes is "
            f"{quoted(world_frame)}: transform them first"
        )
    ids, count = message.ids.tolist(), len(message.poses)
    if max(len(ids), count) > MOST:
        raise ConversionError(
            f"pose updates hold {len(ids)} ids and {count} poses, more than {MOST}: send several messages, each for "
            f"some of the keyframes (~/keyframe_list tells which there are)"
        )
    if not ids and count == 1:
        return Correction({}, _matrices(message.poses, lambda _: "the correction of all keyframes")[0])
    if not ids or len(ids) != count:
        raise ConversionError(
            f"pose updates hold {len(ids)} ids and {count} poses: send as many of both, or no id "
            f"and one pose that moves all keyframes"
        )
    twice = [view for view, count in collections.Counter(ids).items() if count > 1]
    if twice:
        raise ConversionError(f"pose updates hold two poses of keyframe {twice[0]}: send one of each")
    matrices = _matrices(message.poses, lambda index: f"the pose of keyframe {ids[index]}")
    return Correction(dict(zip(ids, matrices, strict=True)))


def _matrices(poses: list[conversions.Pose], name: Callable[[int], str]) -> NDArray[np.float64]:
    return conversions.poses_to_matrices(poses, lambda index: f"pose updates: {name(index)}")
