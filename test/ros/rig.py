"""A node in a process of its own, and a peer in the test's process that publishes to it and asks it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseArray, PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

import elvsm_core as ec
from elvsm.msg import Status
from elvsm.srv import RenderViews
from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics

CAMERA = Intrinsics(70.0, 70.0, 48.0, 32.0, 96, 64)
START = 1_700_000_000_000_000_000
"""Stamp of the first image, nanoseconds."""
PATIENCE = 30.0
"""Seconds after which something that should happen is said not to happen."""


def save_small_model(path: Path, size: tuple[int, int] = (32, 32)) -> Path:
    """Save a model whose random weights are large, so that renders depend visibly on pose and keyframes."""
    torch.manual_seed(0)
    model = ec.EfficientLVSM(
        ec.ModelConfig(width=64, head_dim=32, layers=2, patch_size=8, image_size=size)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    ec.save_model(model, path, dtype=torch.float32)
    return path


def pose_at(x: float, yaw: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Return T_world_cam: moved by x and y metres, turned by yaw radians about the vertical axis (y)."""
    T = np.eye(4)
    T[:3, :3] = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    T[:3, 3] = [x, y, 0.0]
    return T


def picture(seed: int, width: int = CAMERA.width, height: int = CAMERA.height) -> np.ndarray:
    """Return an image that differs from every other seed's and survives JPEG: smooth colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return conversions.resize(coarse, width, height)


def header(stamp: int, frame_id: str) -> Header:
    return Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=frame_id)


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Return what `condition` returns as soon as that is true; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout} s in vain: {what}")


def shared_memory(pid: int) -> set[Path]:
    """Return what a process has open of Fast DDS's shared memory."""
    maps = Path(f"/proc/{pid}/maps")
    files = {line.split()[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    return {Path(file) for file in files if file.startswith("/dev/shm/fastdds_")}


class NodeProcess:
    """`python -m elvsm_ros.node` with parameters, its output kept. program: what Python runs instead."""

    def __init__(self, *arguments: str, program: Sequence[str] = ("-m", "elvsm_ros.node"), **parameters: Any):
        command = [sys.executable, *program, "--ros-args", *arguments]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value if not isinstance(value, bool) else str(value).lower()}"]
        environment = dict(os.environ, RCUTILS_LOGGING_BUFFERED_STREAM="0")
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment, cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_for(self, text: str, timeout: float = 60.0) -> str:
        """Wait until the node has logged a line with `text` in it, and return that line."""

        def found() -> str | None:
            line = next((line for line in list(self.lines) if text in line), None)
            assert line is not None or self.alive(), f"the node ended before it said {text!r}:\n{self.output}"
            return line

        return wait_until(found, f"{text!r} in the node's output:\n{self.output}", timeout)

    def signal(self, number: int) -> tuple[int, float]:
        """Send a signal, wait for the end, and return exit status and seconds."""
        start = time.monotonic()
        self._process.send_signal(number)
        status = self._process.wait(timeout=PATIENCE)
        seconds = time.monotonic() - start
        self._reader.join(5)
        return status, seconds

    def wait(self, timeout: float = PATIENCE) -> int:
        status = self._process.wait(timeout)
        self._reader.join(5)
        return status

    def close(self) -> None:
        if self.alive():
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Peer:
    """Publishers, subscriptions and clients for one node, spun by a thread of its own."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("peer", context=self._context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.statuses: list[Status] = []
        self.keyframes: list[PoseArray] = []
        self.rendered: list[Image] = []
        self.rendered_infos: list[CameraInfo] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        subscribe = self.node.create_subscription
        subscribe(Status, "/elvsm/status", self.statuses.append, latched)
        subscribe(PoseArray, "/elvsm/keyframes", self.keyframes.append, latched)
        subscribe(Image, "/elvsm/rendered/image", self.rendered.append, 10)
        subscribe(CameraInfo, "/elvsm/rendered/camera_info", self.rendered_infos.append, 10)
        publish = self.node.create_publisher
        self.image = publish(Image, "/image", 10)
        self.compressed = publish(CompressedImage, "/image/compressed", 10)
        self.info = publish(CameraInfo, "/camera_info", 10)
        self.pose = publish(PoseStamped, "/pose", 10)
        self.odom = publish(Odometry, "/odom", 10)
        self.render_pose = publish(PoseStamped, "/elvsm/render_pose", 1)
        self._clients: dict[str, Any] = {}
        self._stamp = START
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        self._executor.shutdown()
        rclpy.shutdown(context=self._context)
        self._thread.join(5)

    def on_executor(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns that runs where callbacks do: rclpy's action clients ask for it."""
        task = self._executor.create_task(function)
        wait_until(task.done, "the executor's thread")
        return task.result()

    # Services

    def start_call(self, kind: type, name: str, request: Any) -> Any:
        """Call a service and return the future of its answer."""
        client = self._clients.get(name)
        if client is None:
            # The usual depth of 10 loses answers that come in a burst.
            client = self.node.create_client(kind, name, qos_profile=QoSProfile(depth=1000))
            self._clients[name] = client
        assert client.wait_for_service(timeout_sec=PATIENCE), f"nobody offers {name}"
        return client.call_async(request)

    def call(self, kind: type, name: str, request: Any, timeout: float = PATIENCE) -> Any:
        future = self.start_call(kind, name, request)
        wait_until(future.done, f"an answer of {name}", timeout)
        return future.result()

    def render(
        self, poses: list[np.ndarray], timeout: float = PATIENCE, **fields: Any
    ) -> RenderViews.Response:
        request = RenderViews.Request(poses=[conversions.matrix_to_pose(T) for T in poses], **fields)
        return self.call(RenderViews, "/elvsm/render_views", request, timeout)

    # Topics

    def connected(self) -> bool:
        """Tell whether the active node listens to all the topics that it reads."""
        listens = [self.info.get_subscription_count(), self.render_pose.get_subscription_count()]
        images = self.image.get_subscription_count() + self.compressed.get_subscription_count()
        poses = self.pose.get_subscription_count() + self.odom.get_subscription_count()
        return min([*listens, images, poses]) > 0 and bool(self.statuses)

    def next_stamp(self, step: float = 0.2) -> int:
        self._stamp += round(step * 1e9)
        return self._stamp

    def send_info(self, stamp: int, camera: Intrinsics = CAMERA) -> None:
        self.info.publish(conversions.camera_info(camera, header(stamp, "camera")))

    def send_pose(self, stamp: int, T: np.ndarray, frame: str = "map") -> None:
        self.pose.publish(PoseStamped(header=header(stamp, frame), pose=conversions.matrix_to_pose(T)))

    def send_image(self, stamp: int, rgb: np.ndarray) -> None:
        self.image.publish(conversions.rgb_to_image(rgb, header(stamp, "camera")))

    def send_frame(self, rgb: np.ndarray, T: np.ndarray, camera: Intrinsics = CAMERA) -> int:
        """Publish an image with its camera_info and its pose, and return their stamp."""
        stamp = self.next_stamp()
        self.send_info(stamp, camera)
        self.send_pose(stamp, T)
        self.send_image(stamp, rgb)
        return stamp

    # What the node says

    @property
    def status(self) -> Status:
        return self.statuses[-1]

    def wait_for_status(
        self, condition: Callable[[Status], bool], what: str, timeout: float = PATIENCE
    ) -> Status:
        wait_until(lambda: self.statuses and condition(self.statuses[-1]), f"a status with {what}", timeout)
        return self.statuses[-1]

    def fresh_status(self) -> Status:
        """Return a status that was put together after this call (the first one may be under way already)."""
        count = len(self.statuses)
        wait_until(lambda: len(self.statuses) >= count + 2, "two more statuses")
        return self.statuses[-1]

    def insert(self, rgb: np.ndarray, T: np.ndarray) -> None:
        """Publish a frame that will become a keyframe, and wait until it is one."""
        before = self.status.keyframes_inserted
        self.send_frame(rgb, T)
        self.wait_for_status(
            lambda s: s.keyframes_inserted > before, f"more than {before} keyframes inserted"
        )


@contextlib.contextmanager
def running(**parameters: Any) -> Iterator[tuple[NodeProcess, Peer]]:
    """Give an active node with parameters and a peer that it knows; the node has to outlive what is done with it."""
    node, peer = NodeProcess(**{"status_period": 0.1, **parameters}), Peer()
    try:
        node.wait_for("active")
        wait_until(peer.connected, "the node and its peer to find each other")
        yield node, peer
        assert node.alive(), f"the node died:\n{node.output}"
        assert "Traceback" not in node.output and "callback failed" not in node.output, node.output
    finally:
        node.close()
        peer.close()


def change(peer: Peer, transition: int, timeout: float = 60.0, name: str = "elvsm") -> bool:
    """Have the node change its state (lifecycle_msgs/Transition), and return whether it did."""
    request = ChangeState.Request(transition=Transition(id=transition))
    return peer.call(ChangeState, f"/{name}/change_state", request, timeout).success


def state(peer: Peer) -> int:
    """Return the node's state (lifecycle_msgs/State)."""
    return peer.call(GetState, "/elvsm/get_state", GetState.Request()).current_state.id


def set_parameters(peer: Peer, values: dict[str, Any]) -> list[str]:
    """Set parameters of the node, and return the reasons of those that were refused."""
    request = SetParameters.Request(
        parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
    )
    results = peer.call(SetParameters, "/elvsm/set_parameters", request).results
    return [result.reason for result in results if not result.successful]


def pixels(message: Image) -> np.ndarray:
    """Return the picture of an rgb8 Image."""
    assert message.encoding == "rgb8" and message.step == 3 * message.width
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def camera_at(T: np.ndarray, camera: Intrinsics = CAMERA) -> ec.Camera:
    return ec.Camera(camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, T)
