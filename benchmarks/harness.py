"""What the benchmarks of the node share: a node in a process of its own, pictures for it, clients.

Import it before rclpy: it sets up a network of its own, which no robot nearby sees.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds_localhost.xml"))
os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 100 + 1))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the node does, for what is compared with it

import rclpy  # noqa: E402
from builtin_interfaces.msg import Time  # noqa: E402
from geometry_msgs.msg import Pose, PoseStamped  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from elvsm.msg import Keyframes, Status  # noqa: E402
from elvsm.srv import RenderViews  # noqa: E402
from elvsm_ros import conversions  # noqa: E402
from elvsm_ros.conversions import Intrinsics  # noqa: E402

START = 1_700_000_000_000_000_000
"""Stamp of the first image, nanoseconds."""
STEP = 0.15
"""Metres between two keyframes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which node is measured."""
    parser.add_argument("--model", default="small", help="weights; or 'small' or 'full': random ones (small)")
    parser.add_argument("--device", default="auto", help="of the node (auto)")
    parser.add_argument("--max-views", type=int, default=8, help="keyframes that a render uses at most (8)")
    parser.add_argument("--json", type=Path, help="file for the figures")


@contextlib.contextmanager
def weights(name: str) -> Iterator[str]:
    """Give the path of a model: of random weights for 'small' and 'full', whose quality nobody looks at."""
    import elvsm_core as ec

    configs = {
        "small": ec.ModelConfig(width=64, head_dim=32, layers=2, image_size=(64, 64)),
        "full": ec.PRESETS["efficient-lvsm"],
    }
    if name not in configs:
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.safetensors"
        ec.save_model(ec.EfficientLVSM(configs[name]), path)
        yield str(path)


@contextlib.contextmanager
def node(model: str, **parameters: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run the node as a process with these parameters."""
    command = [sys.executable, "-m", "elvsm_ros.node", "--ros-args", "--log-level", "warn"]
    for name, value in {"model": model, **parameters}.items():
        command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pose_at(x: float, y: float = 0.0) -> Pose:
    """Return the pose of a camera that looks along z, moved by metres."""
    pose = Pose()
    pose.position.x, pose.position.y = float(x), float(y)
    return pose


class Peer:
    """A ROS node that shows pictures, hears of keyframes and asks for views; a thread of its own spins it."""

    def __init__(self, name: str = "benchmark") -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node(name, context=self._context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        publish = self._node.create_publisher
        self._info, self._pose = publish(CameraInfo, "camera_info", 10), publish(PoseStamped, "pose", 10)
        self._raw, self._compressed = (
            publish(Image, "image", 10),
            publish(CompressedImage, "image/compressed", 10),
        )
        self._client = self._node.create_client(RenderViews, "/elvsm/render_views")
        self._shown = 0
        self.arrivals: dict[int, float] = {}
        """When ~/keyframe_list first had the image of a stamp (nanoseconds), time.perf_counter()."""
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._node.create_subscription(Keyframes, "/elvsm/keyframe_list", self._on_keyframes, latched)
        self.status: Status | None = None
        self._node.create_subscription(Status, "/elvsm/status", self._on_status, latched)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    @property
    def node(self) -> Any:
        """The node behind it, for further clients and topics."""
        return self._node

    def close(self) -> None:
        self._executor.shutdown()
        rclpy.shutdown(context=self._context)
        self._thread.join(5)

    def _on_keyframes(self, message: Keyframes) -> None:
        now = time.perf_counter()
        for stamp in message.stamps:
            self.arrivals.setdefault(conversions.stamp_ns(stamp), now)

    def _on_status(self, message: Status) -> None:
        self.status = message

    def show(self, rgb: np.ndarray, encoding: str = "rgb8", pose: Pose | None = None) -> tuple[int, float]:
        """Publish camera_info, pose (the next step, if none) and picture.

        Returns the stamp and when the picture went out.
        """
        height, width = rgb.shape[:2]
        stamp = START + self._shown * 10**8
        header = Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="map")
        camera = Intrinsics(0.8 * width, 0.8 * width, width / 2, height / 2, width, height)
        if encoding == "rgb8":
            publisher, message = self._raw, conversions.rgb_to_image(rgb, header)
        else:
            publisher, message = self._compressed, conversions.rgb_to_compressed(rgb, header, encoding)
        self._info.publish(conversions.camera_info(camera, header))
        self._pose.publish(PoseStamped(header=header, pose=pose or pose_at(STEP * self._shown)))
        self._shown += 1
        now = time.perf_counter()
        publisher.publish(message)
        return stamp, now

    def start_call(self, request: RenderViews.Request) -> Any:
        """Ask for views; returns the future of the answer."""
        return self._client.call_async(request)

    def call(
        self, request: RenderViews.Request, timeout: float = 120.0
    ) -> tuple[RenderViews.Response, float]:
        """Ask for views, and return the answer and how many milliseconds it took."""
        answered = threading.Event()
        start = time.perf_counter()
        future = self._client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(timeout):
            raise TimeoutError(f"no answer within {timeout} s")
        elapsed = (time.perf_counter() - start) * 1e3
        response = future.result()
        if not response.success:
            raise RuntimeError(response.message)
        return response, elapsed

    def wait_for_service(self, timeout: float = 120.0) -> None:
        if not self._client.wait_for_service(timeout_sec=timeout):
            raise TimeoutError(f"the node did not offer its service within {timeout} s")

    def fill(self, keyframes: int, size: tuple[int, int] = (256, 256), timeout: float = 120.0) -> None:
        """Show pictures, (height, width) pixels, until the node has so many keyframes."""
        self.wait_for_service(timeout)
        deadline = time.monotonic() + timeout
        while len(self.arrivals) < keyframes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the node did not take {keyframes} keyframes within {timeout} s")
            before = len(self.arrivals)
            self.show(photo(size, self._shown))
            until = time.monotonic() + 2
            while len(self.arrivals) == before and time.monotonic() < until:
                time.sleep(0.01)


def photo(size: tuple[int, int], seed: int) -> np.ndarray:
    """Return a picture that compresses as photographs do: smooth shapes and a little noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(40, 216, (height // 32 + 1, width // 32 + 1, 3), dtype=np.uint8)
    smooth = conversions.resize(coarse, width, height).astype(np.int16)
    return np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def wait_for(condition: Callable[[], Any], timeout: float) -> bool:
    """Wait until a condition holds; tell whether it came to that."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    return True


def machine(device: str) -> str:
    """Return a line that says what the figures were measured on."""
    import torch

    cpu = f"{os.cpu_count()} x {_processor()}"
    if torch.cuda.is_available() and not device.startswith("cpu"):
        return f"{torch.cuda.get_device_name()}, {cpu}, torch {torch.__version__}"
    return f"{cpu}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Percentiles of some milliseconds."""

    what: str
    count: int
    p50: float
    p95: float
    p99: float
    worst: float

    @classmethod
    def of(cls, what: str, values: Any) -> Figures:
        v = np.asarray(values, dtype=float)
        return cls(what, len(v), *(float(np.percentile(v, p)) for p in (50, 95, 99)), float(v.max()))

    def __str__(self) -> str:
        return (
            f"{self.what:40} {self.count:5}   p50 {self.p50:8.2f}   p95 {self.p95:8.2f}   p99 {self.p99:8.2f}   "
            f"max {self.worst:8.2f} ms   p99/p50 {self.p99 / self.p50:5.2f}"
        )


def report(title: str, figures: list[Figures], path: Path | None) -> None:
    """Print figures, and write them as JSON if there is a path."""
    print(title)
    for row in figures:
        print(row)
    if path is not None:
        path.write_text(
            json.dumps({"title": title, "rows": [dataclasses.asdict(f) for f in figures]}, indent=1)
        )
