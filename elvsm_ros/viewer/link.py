"""The viewer's side of the ROS interface: what it knows of the node, and calls that always come to an end."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool, Trigger

from elvsm.action import RenderTrajectory
from elvsm.msg import Keyframes, Status
from elvsm.srv import LoadScene, RenderViews, SaveScene
from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError, Intrinsics
from elvsm_ros.rclpy_support import LEAVE, call_later, leaving

TICK = 0.1
"""Seconds between looks at whether the node is there and calls have ended."""
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# Each message of feedback carries pictures that come only once.
FEEDBACK = QoSProfile(depth=1000)
SERVICES = {
    "render_views": RenderViews, "reset": Trigger, "pause": SetBool, "save_scene": SaveScene,
    "load_scene": LoadScene,
}  # fmt: skip
DEVICE_STATUS = "elvsm: device"
"""Name of the node's status on /diagnostics that tells of memory."""
Done = Callable[[Any, str], None]
"""Takes the answer and "", or None and what went wrong."""


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """The node's keyframes, oldest first. keys: id and stamp (ns); poses: T_world_cam [n, 4, 4]."""

    keys: tuple[tuple[int, int], ...]
    poses: NDArray[np.float64]


NOTHING = Held((), np.zeros((0, 4, 4)))


@dataclasses.dataclass
class _Call:
    client: Any
    done: Done
    end: float


class Link:
    """Watch a node, call its services, notice when it goes and comes back. A context manager.

    name: the node's full name. on_tick: called on the link's own thread every TICK seconds, and soon after the
    keyframes changed.
    """

    def __init__(self, name: str, on_tick: Callable[[], None], ros_arguments: Sequence[str] = ()):
        self.name, self._on_tick, self._arguments = name, on_tick, list(ros_arguments)
        self._lock = threading.Lock()
        self._calls: dict[Any, _Call] = {}
        self.connected = False
        self.status: Status | None = None
        self.held = NOTHING
        self.memory: list[tuple[str, str]] = []
        """What /diagnostics says of memory: names and amounts."""
        self.camera: Intrinsics | None = None
        """The node's camera as far as camera_info tells: for drawing only."""

    def __enter__(self) -> Link:
        # Signals are the program's own business: it has a page to close first.
        rclpy.init(args=self._arguments, signal_handler_options=SignalHandlerOptions.NO)
        self.node = node = rclpy.create_node("elvsm_viewer", enable_rosout=False)
        node.create_subscription(Keyframes, f"{self.name}/keyframe_list", self._on_keyframes, LATCHED)
        node.create_subscription(Status, f"{self.name}/status", self._on_status, LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        node.create_subscription(CameraInfo, "camera_info", self._on_camera_info, BEST_EFFORT)
        self._clients = {n: node.create_client(kind, f"{self.name}/{n}") for n, kind in SERVICES.items()}
        self.trajectory = ActionClient(
            node, RenderTrajectory, f"{self.name}/render_trajectory", feedback_sub_qos_profile=FEEDBACK
        )
        node.create_timer(TICK, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name="viewer-ros", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(timeout_sec=0.5)
        self._thread.join(0.5)
        self._fail_all("the viewer ends")
        self.trajectory.destroy()
        with leaving(LEAVE):
            self.node.destroy_node()
            rclpy.try_shutdown()

    def call(self, service: str, request: Any, done: Done, timeout: float = 20.0) -> None:
        """Call a service of the node. `done` is called once, whatever happens, mostly on the link's thread."""
        client = self._clients[service]
        if not self.connected:
            done(None, f"{self.name} does not answer: is it running, in the same ROS_DOMAIN_ID?")
            return
        with self._lock:
            future = client.call_async(request)
            self._calls[future] = _Call(client, done, time.monotonic() + timeout)
        future.add_done_callback(self._on_answer)

    def later(self, callback: Callable[..., None], *args: Any) -> None:
        """Have the link's own thread call back. Does nothing once the link is closed."""
        call_later(self.node, callback, *args)

    def _on_answer(self, future: Any) -> None:
        call = self._take(future)
        if call is None:
            return
        error = future.exception()
        call.done(None if error else future.result(), str(error) if error else "")

    def _take(self, future: Any) -> _Call | None:
        """Return a call that has not ended before; whoever gets it ends it."""
        with self._lock:
            return self._calls.pop(future, None)

    def _fail(self, future: Any, why: str) -> None:
        call = self._take(future)
        if call is not None:
            call.client.remove_pending_request(future)
            call.done(None, why)

    def _fail_all(self, why: str) -> None:
        for future in list(self._calls):
            self._fail(future, why)

    def _tick(self) -> None:
        self.connected = self._clients["render_views"].service_is_ready()
        if not self.connected:
            # Its scene went with it, and the next node publishes no keyframes before it has some.
            self.held, self.status = NOTHING, None
            self._fail_all(f"{self.name} went away")
        now = time.monotonic()
        for future, call in list(self._calls.items()):
            if now > call.end:
                self._fail(future, f"{self.name} did not answer in time")
        self._on_tick()

    def _spin(self) -> None:
        while rclpy.ok():
            try:
                self._executor.spin()
                return
            except ExternalShutdownException:
                return
            except Exception as error:  # a page that was closed in the middle of something must not end all
                self.node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")

    def _on_keyframes(self, message: Keyframes) -> None:
        try:
            poses = [conversions.pose_to_matrix(pose) for pose in message.poses]
        except ConversionError as error:
            self.node.get_logger().warning(f"keyframe_list: {error}")
            return
        stamps = [conversions.stamp_ns(stamp) for stamp in message.stamps]
        keys = tuple(zip((int(i) for i in message.ids), stamps, strict=True))
        self.held = Held(keys, np.stack(poses)) if poses else NOTHING
        self._on_tick()

    def _on_status(self, message: Status) -> None:
        before, self.status = self.status, message
        # Counters go back only when the node was configured anew: what was asked before is not answered any more.
        if before is not None and (
            message.renders < before.renders or message.images_received < before.images_received
        ):
            if not message.keyframes:
                self.held = NOTHING
            self._fail_all(f"{self.name} was started again")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == DEVICE_STATUS:
                self.memory = [(pair.key, pair.value) for pair in status.values if "memory" in pair.key]

    def _on_camera_info(self, message: CameraInfo) -> None:
        with contextlib.suppress(ConversionError):
            self.camera = conversions.intrinsics(message)
