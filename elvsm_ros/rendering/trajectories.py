"""The action ~/render_trajectory: a long request in small pieces, which can be watched and stopped."""

from __future__ import annotations

import array
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from builtin_interfaces.msg import Time
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from elvsm.action import RenderTrajectory
from elvsm_ros import bounded, conversions
from elvsm_ros.keyframes.keyframe_queue import Wait
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.qos import SERVICE_QOS
from elvsm_ros.rendering import requests
from elvsm_ros.rendering.render_service import RenderDesk, fill_images
from elvsm_ros.rendering.requests import Context, Query, RequestError
from elvsm_ros.worker import BusyError

if TYPE_CHECKING:
    from elvsm_ros.rendering.render_task import Answer

PIECE = 8
"""Poses that are rendered at a time; others get their turn after each piece."""
ACTIVE_GOALS = 4
"""Goals that are followed at a time, their pieces taking turns: other requests wait for so many pieces at most."""
MAX_GOALS = 16
"""Goals that there may be, those that wait included."""
FEEDBACK_DEPTH = 64
"""Pieces that are kept for a client that is slow to take them."""
RETRY = 0.1
"""Seconds until a piece is offered again when too many requests wait."""
LINGER = 0.2
"""Seconds between the last feedback and the result, which has another way to go: clients of rclpy drop feedback that
comes after it."""
DESERTED = 5.0
"""Seconds without anybody who listens to the feedback after which a goal is given up."""


def pieces(context: Context, goal: RenderTrajectory.Goal) -> Iterator[Query]:
    """Yield what is to be rendered, a few poses at a time. Raises RequestError or ConversionError.

    All poses are checked before the first piece comes, and all are understood against what was known then.
    """
    settings = context.settings
    if len(goal.poses) > settings.max_trajectory_poses:
        raise RequestError(
            f"{len(goal.poses)} poses are more than max_trajectory_poses ({settings.max_trajectory_poses}): send "
            f"several goals, or raise the parameter"
        )
    conversions.check_poses(goal.poses)
    T_world_frame = requests.frame(context, goal.header.frame_id)

    def parse(start: int, count: int) -> Query:
        return requests.parse(
            context, goal.header.frame_id, goal.poses[start : start + count], goal.camera_info, goal.width, goal.height,
            goal.max_views, goal.encoding, T_world_frame, goal.detail, goal.depth,
        )  # fmt: skip

    one = parse(0, 1)
    pixels = max(one.camera.width * one.camera.height, one.render_size[0] * one.render_size[1])
    size = max(1, min(PIECE, settings.max_render_views, settings.max_render_pixels // pixels))
    for start in range(0, len(goal.poses), size):
        yield parse(start, size)


class Trajectories:
    """Offer the action and follow its goals, several at a time.

    It lives as long as the node: a goal that a cleanup cuts off still has to get its result. desk, reports and
    context: of the configured node; desk gives None when there is none. header: of the images, by the stamp asked for.
    """

    def __init__(
        self,
        node: Any,
        desk: Callable[[], RenderDesk | None],
        reports: Callable[[], Reports],
        context: Callable[[], Context],
        header: Callable[[Time], Header],
        wait: Wait,
    ):
        self._node, self._desk, self._reports, self._context = node, desk, reports, context
        self._header, self._wait = header, wait
        self._goals = 0  # that there are
        self._waiting: dict[bytes, Future[None]] = {}  # by goal id; first come, first served
        self._server = ActionServer(
            node, RenderTrajectory, "~/render_trajectory", self._follow,
            callback_group=ReentrantCallbackGroup(), cancel_callback=self._on_cancel,
            feedback_pub_qos_profile=QoSProfile(depth=FEEDBACK_DEPTH),
            goal_service_qos_profile=SERVICE_QOS, cancel_service_qos_profile=SERVICE_QOS,
            result_service_qos_profile=SERVICE_QOS,
        )  # fmt: skip
        bounded.bound_action(self._server, lambda: node.settings.max_trajectory_poses)
        self._feedback_topic = f"{node.get_fully_qualified_name()}/render_trajectory/_action/feedback"

    def close(self) -> None:
        """Take the action back."""
        self._server.destroy()

    async def _follow(self, handle: ServerGoalHandle) -> RenderTrajectory.Result:
        start = time.perf_counter()
        result = RenderTrajectory.Result()
        self._goals += 1
        try:
            await self._render(handle, result)
            if handle.is_cancel_requested:
                result.message = f"cancelled after {result.rendered} of {len(handle.request.poses)} poses"
                handle.canceled()
            else:
                result.success = True
                handle.succeed()
        except Exception as error:
            result.message = self._failed(error)
            handle.abort()
        finally:
            self._goals -= 1
            self._next()
        result.latency_ms = (time.perf_counter() - start) * 1e3
        if result.rendered:
            await self._wait(_later(LINGER))
        return result

    async def _render(self, handle: ServerGoalHandle, result: RenderTrajectory.Result) -> None:
        """Render until it is done or the goal is cancelled."""
        desk = self._desk()
        if desk is None:
            raise RequestError("the node is not configured: configure it first (lifecycle)")
        if self._goals > MAX_GOALS:
            raise BusyError(f"{self._goals - 1} trajectories are rendered already: ask again later")
        goal = handle.request
        header, total = self._header(goal.header.stamp), len(goal.poses)
        queries = pieces(self._context(), goal)
        first = next(queries)  # a goal that cannot be followed is told so before it waits
        if self._goals - len(self._waiting) > ACTIVE_GOALS:
            turn = self._waiting[_id(handle)] = Future()
            await self._wait(turn)
        listened = time.monotonic()
        for query in itertools.chain([first], queries):
            answer = await self._piece(desk, query, header, handle)
            if answer is None:
                return
            count = len(answer.messages)
            desk.count(count)
            result.rendered += count
            feedback = RenderTrajectory.Feedback(
                rendered=result.rendered, total=total, support=array.array("f", answer.support)
            )
            fill_images(feedback, query.encoding, answer)
            handle.publish_feedback(feedback)
            if self._node.count_subscribers(self._feedback_topic):
                listened = time.monotonic()
            elif time.monotonic() - listened > DESERTED:
                raise RequestError("nobody listens to the feedback any more")

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        turn = self._waiting.pop(_id(handle), None)
        if turn is not None:
            turn.set_result(None)  # to its end
        return CancelResponse.ACCEPT

    def _next(self) -> None:
        """Let the goals that wait go on, as many as there is room for."""
        while self._waiting and self._goals - len(self._waiting) < ACTIVE_GOALS:
            self._waiting.pop(next(iter(self._waiting))).set_result(None)

    async def _piece(
        self, desk: RenderDesk, query: Query, header: Header, handle: ServerGoalHandle
    ) -> Answer | None:
        """Return what was rendered, or None if the goal is cancelled before that."""
        while not handle.is_cancel_requested:
            try:
                answer: Answer = await self._wait(desk.render(query, header))
            except BusyError:  # short requests go first
                await self._wait(_later(RETRY))
            else:
                return answer
        return None

    def _failed(self, error: BaseException) -> str:
        desk = self._desk()
        if desk is None:
            return str(error) if isinstance(error, RequestError) else "the node was cleaned up or shut down"
        desk.failures += 1
        return self._reports().answer("render", "rendering a trajectory failed", error)


def _id(handle: ServerGoalHandle) -> bytes:
    return bytes(handle.goal_id.uuid)


def _later(seconds: float) -> Future[None]:
    """Return a future that is done after a time."""
    future: Future[None] = Future()
    timer = threading.Timer(seconds, future.set_result, (None,))
    timer.daemon = True
    timer.start()
    return future
