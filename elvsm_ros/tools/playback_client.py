"""A client that watches a recording being played into the node: the demo's and the evaluation's side of ROS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from elvsm.msg import Status
from elvsm_ros import SceneClient
from elvsm_ros.conversions import stamp_ns
from elvsm_ros.rclpy_support import LEAVE, leaving

POLL = 0.05
"""Seconds between looks at what has changed."""


class PlaybackClient(SceneClient):
    """Note when the messages of a recording pass, and when keyframes are made of them.

    clock_topic, clock_type: messages with a header whose stamps tell how far a recording has been played. check: as
    SceneClient has it. `seen` and `kept_at` tell when (seconds, monotonic clock) the clock's message of a stamp went
    over the network, and when a keyframe of that stamp was first on the node's list.
    """

    def __init__(self, clock_topic: str, check: Callable[[], None], clock_type: Any = CameraInfo):
        super().__init__(timeout=60.0, check=check)
        self.clock = 0
        """Newest stamp (nanoseconds) that went over the network on the clock's topic; 0 before the first."""
        self.seen: dict[int, float] = {}
        self.kept_at: dict[int, float] = {}
        self.on_change(self._on_change)
        best_effort = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.node.create_subscription(clock_type, clock_topic, self._on_clock, best_effort)

    def close(self) -> None:
        """Leave the network; the process ends with status 1 when it gets stuck there (`leaving`)."""
        with leaving(LEAVE):
            super().close()

    @property
    def newest_status(self) -> Status:
        """The node's newest status; an empty one before the first."""
        return self.last_status or Status()

    @property
    def newest_seen(self) -> float:
        """When (seconds, monotonic clock) the newest message went over the network on the clock's topic."""
        return self.seen.get(self.clock, 0.0)

    def settle(self, look: Callable[[], None] = lambda: None, timeout: float = 10.0) -> None:
        """Wait until the node has dealt with all it was sent. look: called meanwhile."""
        end, quiet, before = time.monotonic() + timeout, time.monotonic(), None
        while time.monotonic() < min(end, quiet + 1.5):
            self.check()
            look()
            now, waiting = self.last_keyframes.stamps, self.newest_status.queue_length
            if now != before or waiting:
                before, quiet = now, time.monotonic()
            time.sleep(POLL)

    def _on_change(self) -> None:
        now = time.monotonic()
        for stamp in self.last_keyframes.stamps:
            self.kept_at.setdefault(stamp, now)

    def _on_clock(self, message: Any) -> None:
        stamp = stamp_ns(message.header.stamp)
        self.seen.setdefault(stamp, time.monotonic())
        self.clock = max(self.clock, stamp)
