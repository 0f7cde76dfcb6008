"""One goal of ~/render_trajectory, from the first image to the last, or to the reason why there is none."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator
from typing import Any

from action_msgs.msg import GoalStatus

from elvsm.action import RenderTrajectory
from elvsm_ros.client.connection import Connection
from elvsm_ros.client.results import CallTimeout, RequestRejected, pictures
from elvsm_ros.conversions import RGB

FAILED = (GoalStatus.STATUS_ABORTED, GoalStatus.STATUS_CANCELED)


class Trajectory:
    """Send a goal and iterate over its images, uint8 RGB [H, W, 3].

    patience: seconds without a new image. check: as Connection.wait has it.
    """

    def __init__(
        self, connection: Connection, goal: RenderTrajectory.Goal, patience: float, check: Callable[[], None]
    ):
        self._connection, self._goal, self._patience, self._check = connection, goal, patience, check
        self._generation = connection.generation
        self._arrived: collections.deque[RenderTrajectory.Feedback] = collections.deque()

    def images(self) -> Iterator[RGB]:
        """Yield the images; closing the iterator cancels the rest. Raises SceneClientError."""
        client = self._connection.trajectory
        self._wait(client.server_is_ready)
        handle = self._ask(client.send_goal_async, self._goal, self._on_feedback)
        if not handle.accepted:
            raise RequestRejected(f"{self._connection.name} rejected the trajectory: see its log")
        done, total = 0, len(self._goal.poses)
        try:
            while done < total:
                self._wait(lambda: self._arrived or handle.status in FAILED)
                if not self._arrived:
                    # Not before it failed: with the result rclpy drops the feedback that is still under way.
                    reason = self._ask(handle.get_result_async).result.message
                    raise RequestRejected(
                        f"{self._connection.name}/render_trajectory: {reason or 'it was ended'}"
                    )
                for image in pictures(self._arrived.popleft()):
                    done += 1
                    yield image
        finally:
            if done < total and handle.status not in FAILED:
                self._connection.cancel(handle)

    def _on_feedback(self, message: Any) -> None:
        self._arrived.append(message.feedback)
        self._connection.notify()

    def _ask(self, function: Callable[..., Any], *args: Any) -> Any:
        task = self._connection.on_executor(function, *args)
        self._wait(lambda: task.done() and task.result().done())
        return task.result().result()

    def _wait(self, done: Callable[[], Any]) -> None:
        end = time.monotonic() + self._patience
        if not self._connection.wait(done, end, self._check, self._generation):
            raise CallTimeout(
                f"{self._connection.name}/render_trajectory sent nothing for {self._patience:g} s: the device is busy, "
                f"or the node is stuck; see its log, or set a longer timeout"
            )
