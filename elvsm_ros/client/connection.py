"""The ROS side of a SceneClient: what it knows of the node, and calls that always come to an end."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import rclpy
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool, Trigger

from elvsm.action import RenderTrajectory
from elvsm.msg import Keyframes, Status
from elvsm.srv import LoadScene, RenderViews, SaveScene
from elvsm_ros import conversions
from elvsm_ros.client.results import (
    NO_KEYFRAMES,
    CallTimeout,
    KeyframeList,
    NodeUnavailable,
    SceneClientError,
)
from elvsm_ros.qos import LATCHED_QOS, SERVICE_QOS
from elvsm_ros.rclpy_support import spin

TICK = 0.1
"""Seconds between looks at whether the node is there, and whether waiting has become pointless."""
SERVICES = {
    "render_views": RenderViews, "reset": Trigger, "pause": SetBool, "save_scene": SaveScene,
    "load_scene": LoadScene,
}  # fmt: skip
# Each message of feedback carries images that are sent only once.
FEEDBACK_QOS = QoSProfile(depth=1000)


class Connection:
    """Follow a node of elvsm and call its services.

    It has a ROS node and a thread of its own, also in a program that has a node: so a call may wait in any callback of
    that node, whatever its executor, and never waits for the thread that it blocks. host: the program's node, whose
    context is used; without one, the context is private, and rclpy.init is not needed.
    """

    def __init__(self, name: str, host: Node | None, node_name: str, ros_arguments: Sequence[str] = ()):
        self.name = name
        self.connected = False
        self.status: Status | None = None
        self.keyframes = NO_KEYFRAMES
        self.generation = 0
        """Counts the times that the node went away or was configured anew: its answers to earlier calls are lost."""
        self.listeners: list[Callable[[], None]] = []
        self.news = threading.Condition()
        self._private = host is None
        self._context = rclpy.Context() if host is None else host.context
        if self._private:
            # Signals belong to the program.
            no = SignalHandlerOptions.NO
            rclpy.init(args=list(ros_arguments), context=self._context, signal_handler_options=no)
        self.node = node = rclpy.create_node(
            node_name, context=self._context, namespace=host.get_namespace() if host else None,
            # Remappings of the host's name would rename this node too.
            use_global_arguments=self._private, enable_rosout=False, start_parameter_services=False,
        )  # fmt: skip
        # The clients come first: a node that has sent its status has also heard of them, and its answers arrive.
        self.services = {
            service: node.create_client(kind, f"{name}/{service}", qos_profile=SERVICE_QOS)
            for service, kind in SERVICES.items()
        }
        self.trajectory = ActionClient(
            node, RenderTrajectory, f"{name}/render_trajectory", feedback_sub_qos_profile=FEEDBACK_QOS
        )
        node.create_subscription(Keyframes, f"{name}/keyframe_list", self._on_keyframes, LATCHED_QOS)
        node.create_subscription(Status, f"{name}/status", self._on_status, LATCHED_QOS)
        node.create_timer(TICK, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=spin, args=(node, self._executor, self._closing.is_set), name="elvsm-client", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Leave the network; calls that wait in other threads fail."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join(10 * TICK)
        self._executor.shutdown(timeout_sec=0.5)
        with contextlib.suppress(Exception):  # the host's context may be gone
            self.trajectory.destroy()
            self.node.destroy_node()
        if self._private:
            self._context.try_shutdown()

    def wait(
        self, done: Callable[[], Any], end: float, check: Callable[[], None], generation: int = -1
    ) -> bool:
        """Wait until something is true, or until `end` (monotonic clock), and return whether it is.

        check: called now and then, to raise when waiting is pointless. generation: of the node that is waited for; -1:
        any. Raises SceneClientError when the client is closed meanwhile, NodeUnavailable when the node goes away.
        """
        if threading.current_thread() is self._thread:
            raise SceneClientError(
                "a SceneClient cannot wait inside its own callback (on_change, or of a subscription of its node), "
                "because no answer would arrive: hand the work to another thread"
            )
        while True:
            with self.news:
                if self._closing.is_set() or not self._context.ok():
                    raise SceneClientError(
                        "the client was closed, or ROS was shut down: make a new SceneClient"
                    )
                if done():
                    return True
                if generation not in (-1, self.generation):
                    raise NodeUnavailable(f"{self.name} went away or was started again: ask again")
                if time.monotonic() >= end:
                    return False
                self.news.wait(min(TICK, max(0.0, end - time.monotonic())))
            check()

    def call(self, service: str, request: Any, end: float, check: Callable[[], None]) -> Any:
        """Call a service and return the answer. Raises CallTimeout and what `wait` raises."""
        client, start = self.services[service], time.monotonic()
        generation = self.generation
        future = client.call_async(request)
        future.add_done_callback(self.notify)
        try:
            if not self.wait(future.done, end, check, generation):
                raise CallTimeout(
                    f"{self.name}/{service} did not answer within {time.monotonic() - start:.1f} s: the device is "
                    f"busy, or the node is stuck; see its log, or set a longer timeout"
                )
        except BaseException:
            client.remove_pending_request(future)
            raise
        return future.result()

    def on_executor(self, function: Callable[..., Any], *args: Any) -> Any:
        """Have the client's own thread call a function that returns a future; return one of that future.

        Action clients want it: the answer to a goal that another thread sends can overtake rclpy's note of it.
        """

        def run() -> Any:
            future = function(*args)
            future.add_done_callback(self.notify)
            return future

        return self._executor.create_task(run)

    def cancel(self, goal: Any) -> None:
        """Have the node end a goal, unless the client is closed. goal: handle of an action client."""
        if not self._closing.is_set():
            self.on_executor(goal.cancel_goal_async)

    def notify(self, *_: object) -> None:
        """Wake up whoever waits."""
        with self.news:
            self.news.notify_all()

    def why_unavailable(self) -> str:
        """Return what keeps the node from answering, and the remedy."""
        namespace, _, base = self.name.rpartition("/")
        if (base, namespace or "/") not in self.node.get_node_names_and_namespaces():
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            others = sorted(
                service.rpartition("/")[0] for service, kinds in self.node.get_service_names_and_types()
                if "elvsm/srv/RenderViews" in kinds and self.node.count_services(service)
            )  # fmt: skip
            hint = f"; in the network there is {', '.join(others)}" if others else ""
            return (
                f"no node {self.name} was found in ROS_DOMAIN_ID {domain}{hint}: start it (ros2 launch elvsm "
                f"elvsm.launch.py), with the same ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE as here"
            )
        if not self.connected:
            return f"{self.name} runs, but is not configured: ros2 lifecycle set {self.name} configure, and see its log"
        return f"{self.name} is configured, but has not sent ~/status yet: set a longer timeout"

    def _changed(self) -> None:
        self.notify()
        for listener in list(self.listeners):
            listener()

    def _tick(self) -> None:
        # The services live as long as the node, ~/status as long as it is configured.
        configured = self.node.count_publishers(f"{self.name}/status") > 0
        before = self.connected
        self.connected = configured and self.services["render_views"].service_is_ready()
        if before and not self.connected:
            # The scene went with the node, and the next one lists no keyframes before it has some.
            self._forget()
            self.status = None
        if before != self.connected:
            self._changed()

    def _forget(self) -> None:
        self.generation += 1
        self.keyframes = NO_KEYFRAMES

    def _on_status(self, message: Status) -> None:
        before, self.status = self.status, message
        # Counters go back only when the node is configured anew: it does not answer earlier calls any more.
        if before is not None and (
            message.renders < before.renders or message.images_received < before.images_received
        ):
            keyframes = self.keyframes
            self._forget()
            if message.keyframes:
                self.keyframes = keyframes
        self._changed()

    def _on_keyframes(self, message: Keyframes) -> None:
        try:
            poses = [conversions.pose_to_matrix(pose) for pose in message.poses]
        except conversions.ConversionError as error:
            self.node.get_logger().warning(f"keyframe_list: {error}")
            return
        self.keyframes = KeyframeList(
            tuple(int(i) for i in message.ids), tuple(conversions.stamp_ns(stamp) for stamp in message.stamps),
            np.stack(poses) if poses else np.zeros((0, 4, 4)), message.header.frame_id,
        )  # fmt: skip
        self._changed()
