"""What a third process sees of the node and asks of it: the demo's and the evaluation's side of the ROS interface."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from elvsm.msg import Keyframes, Status
from elvsm.srv import RenderViews
from elvsm_ros.conversions import (
    RGB,
    Intrinsics,
    camera_info,
    image_to_rgb,
    matrix_to_pose,
    pose_to_matrix,
    stamp_ns,
)
from elvsm_ros.rclpy_support import LEAVE, leaving

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
POLL = 0.05
"""Seconds between two looks at whether everybody is still alive."""


class CallFailed(RuntimeError):
    """The node refused a request, or did not answer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reply:
    """Rendered views: uint8 RGB [H, W, 3] and support each; how many keyframes were used.

    round_trip and inside: milliseconds, as the client saw them and as the node reports them.
    """

    images: list[RGB]
    support: list[float]
    views_used: int
    round_trip: float
    inside: float


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """The node's keyframes at one moment, oldest first: their images' stamps (nanoseconds), T_world_cam [n, 4, 4]."""

    stamps: tuple[int, ...]
    poses: NDArray[np.float64]


class Client:
    """Watch a node and ask it for views; a context manager that joins the ROS network.

    clock_topic, clock_type: messages with a header whose stamps tell how far a recording has been played. check:
    called again and again while something is waited for, to raise when waiting has become pointless. node: the
    node's full name. `seen` and `kept_at` tell when (seconds, monotonic clock) the clock's message of a stamp went
    over the network, and when a keyframe of that stamp was first on the node's list.
    """

    def __init__(
        self, clock_topic: str, check: Callable[[], None], node: str = "/elvsm", clock_type: Any = CameraInfo
    ):
        self._topic, self._type, self._check, self._name = clock_topic, clock_type, check, node
        self._lock = threading.Lock()
        self._kept = Kept((), np.zeros((0, 4, 4)))
        self._status = Status()
        self._clock = 0
        self.seen: dict[int, float] = {}
        self.kept_at: dict[int, float] = {}

    def __enter__(self) -> Client:
        # Signals are this program's own business: they end the node and the player first.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("elvsm_client", enable_rosout=False, start_parameter_services=False)
        self._node.create_subscription(Keyframes, f"{self._name}/keyframe_list", self._on_keyframes, LATCHED)
        self._node.create_subscription(Status, f"{self._name}/status", self._on_status, LATCHED)
        best_effort = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._node.create_subscription(self._type, self._topic, self._on_clock, best_effort)
        self._service: Any = self._node.create_client(RenderViews, f"{self._name}/render_views")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="client-ros", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(timeout_sec=0.5)
        self._thread.join(0.5)
        with leaving(LEAVE):
            self._node.destroy_node()
            rclpy.shutdown()

    @property
    def keyframes(self) -> NDArray[np.float64]:
        """T_world_cam [n, 4, 4] of the node's keyframes."""
        return self.kept.poses

    @property
    def kept(self) -> Kept:
        """The node's keyframes as it last told."""
        with self._lock:
            return self._kept

    @property
    def status(self) -> Status:
        """The node's newest status; an empty one before the first."""
        return self._status

    @property
    def clock(self) -> int:
        """Newest stamp (nanoseconds) that went over the network on the clock's topic; 0 before the first."""
        return self._clock

    @property
    def newest_seen(self) -> float:
        """When (seconds, monotonic clock) the newest message went over the network on the clock's topic."""
        return self.seen.get(self._clock, 0.0)

    def check(self) -> None:
        """Raise when waiting has become pointless."""
        self._check()

    def wait_for_node(self, timeout: float) -> None:
        """Return when the node has loaded its model. Raises CallFailed."""
        end = time.monotonic() + timeout
        while not (self._service.service_is_ready() and self._status.model):
            self._check()
            if time.monotonic() > end:
                raise CallFailed(f"{self._name} did not become active within {timeout:g} s")
            time.sleep(POLL)

    def settle(self, look: Callable[[], None] = lambda: None, timeout: float = 10.0) -> None:
        """Wait until the node has dealt with all it was sent. look: called meanwhile."""
        end, quiet, before = time.monotonic() + timeout, time.monotonic(), None
        while time.monotonic() < min(end, quiet + 1.5):
            self._check()
            look()
            now = self.kept.stamps, self._status.queue_length
            if now != before or self._status.queue_length:
                before, quiet = now, time.monotonic()
            time.sleep(POLL)

    def render(
        self,
        poses: list[NDArray[np.float64]],
        camera: Intrinsics | None = None,
        max_views: int = 0,
        timeout: float = 60.0,
    ) -> Reply:
        """Render from poses (T_world_cam 4x4) with a camera; None: the watched one at the model's own size.

        max_views: keyframes to use at most; 0: what the node thinks best. Raises CallFailed.
        """
        request = RenderViews.Request(
            poses=[matrix_to_pose(T) for T in poses], max_views=max_views, encoding="rgb8"
        )
        if camera is not None:
            request.camera_info = camera_info(camera, Header())
        start = time.perf_counter()
        response = self._call(request, timeout)
        round_trip = 1e3 * (time.perf_counter() - start)
        if not response.success:
            raise CallFailed(f"{self._name}/render_views refused: {response.message}")
        if len(response.images) != len(poses):
            raise CallFailed(
                f"{self._name}/render_views sent {len(response.images)} images for {len(poses)} poses"
            )
        images = [image_to_rgb(image) for image in response.images]
        return Reply(images, list(response.support), response.views_used, round_trip, response.latency_ms)

    def _call(self, request: Any, timeout: float) -> Any:
        done = threading.Event()
        future = self._service.call_async(request)
        future.add_done_callback(lambda _: done.set())
        end = time.monotonic() + timeout
        while not done.wait(POLL):
            self._check()
            if time.monotonic() > end:
                self._service.remove_pending_request(future)
                raise CallFailed(f"{self._name}/render_views did not answer within {timeout:g} s")
        return future.result()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_keyframes(self, message: Keyframes) -> None:
        poses = [pose_to_matrix(pose) for pose in message.poses]
        stamps = tuple(stamp_ns(stamp) for stamp in message.stamps)
        now = time.monotonic()
        for stamp in stamps:
            self.kept_at.setdefault(stamp, now)
        with self._lock:
            self._kept = Kept(stamps, np.stack(poses) if poses else np.zeros((0, 4, 4)))

    def _on_status(self, message: Status) -> None:
        self._status = message

    def _on_clock(self, message: Any) -> None:
        stamp = stamp_ns(message.header.stamp)
        self.seen.setdefault(stamp, time.monotonic())
        self._clock = max(self._clock, stamp)
