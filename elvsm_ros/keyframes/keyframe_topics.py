"""What is published about the keyframes: poses, ids with stamps, and a cloud of coloured camera centres."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, PoseArray
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from elvsm.msg import Keyframes
from elvsm_ros import conversions
from elvsm_ros.keyframes.keyframe_queue import KeyframeFeed

POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4"), ("id", "<u4")])
"""A point of the cloud. rgb: 0x00rrggbb in the bits of a float, as PCL has it; id: of the keyframe."""
SHARE = 0.1
"""Share of the executor's time that goes into these topics at most: thousands of keyframes take a while."""


def points(poses: Mapping[int, Pose], colours: Mapping[int, Sequence[int]]) -> NDArray[Any]:
    """Return the cloud's points [n], POINT, of camera centres in the world (metres). colours: RGB, 0 to 255."""
    cloud = np.zeros(len(poses), POINT)
    positions = [(p.position.x, p.position.y, p.position.z) for p in poses.values()]
    x, y, z = np.array(positions, np.float64).reshape(-1, 3).T
    cloud["x"], cloud["y"], cloud["z"] = x, y, z
    rgb = np.array([colours[view] for view in poses], np.uint32).reshape(-1, 3)
    cloud["rgb"] = (rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2]).view(np.float32)
    cloud["id"] = np.array(list(poses), np.int64) & 0xFFFFFFFF
    return cloud


class KeyframeTopics:
    """Publish the keyframes after they have changed, at most as often as is good for everything else.

    publishers: of PoseArray, Keyframes and PointCloud2, by their type. header: gives stamp and world frame.
    """

    def __init__(self, feed: KeyframeFeed, publishers: Mapping[type, Any], header: Callable[[], Header]):
        self._feed, self._publishers, self._header = feed, publishers, header
        self._changed = False
        self._next = 0.0

    def change(self) -> None:
        """Note that the keyframes have changed."""
        self._changed = True

    def flush(self, now: float) -> None:
        """Publish if there is something new and it is time. now: seconds, steady."""
        if not self._changed or now < self._next:
            return
        self._changed = False
        feed, header, start = self._feed, self._header(), time.monotonic()
        poses = list(feed.keyframes.values())
        stamps = [conversions.stamp_of(feed.stamps[view]) for view in feed.keyframes]
        self._publishers[PoseArray].publish(PoseArray(header=header, poses=poses))
        self._publishers[Keyframes].publish(
            Keyframes(header=header, ids=list(feed.keyframes), stamps=stamps, poses=poses)
        )
        cloud = conversions.cloud(points(feed.keyframes, feed.colours), header)
        self._publishers[PointCloud2].publish(cloud)
        self._next = now + (time.monotonic() - start) / SHARE
