"""Measure what ~/render_views costs beside the model: python benchmarks/service_roundtrip.py

Starts a node as a process of its own, shows it two pictures, and asks for one view again and again. The same
scene in this process, without ROS, tells what the model alone takes. The node's own latency_ms, from taking
the request to having the answer ready, is in between: it has the hand-over to the device's thread and the
resampling in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# Before rclpy reads them: a network of our own, and room for large images.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault(
    "FASTDDS_DEFAULT_PROFILES_FILE",
    str(Path(__file__).resolve().parents[1] / "config" / "fastdds_localhost.xml"),
)
# As the node does, for the comparison with the model alone.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

import elvsm_core as ec
from elvsm.srv import RenderViews
from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics

CAMERA_128 = Intrinsics(100, 100, 64, 64, 128, 128)


def random_model(folder: Path) -> Path:
    """Save a small model: what the model costs is not what is measured."""
    path = folder / "small.safetensors"
    ec.save_model(
        ec.EfficientLVSM(ec.ModelConfig(width=64, head_dim=32, layers=2, image_size=(64, 64))), path
    )
    return path


def show_pictures(
    node: rclpy.node.Node, executor: SingleThreadedExecutor, client: rclpy.client.Client
) -> None:
    """Publish posed pictures until the node can render."""
    publishers = [
        node.create_publisher(kind, topic, 10)
        for kind, topic in ((CameraInfo, "camera_info"), (PoseStamped, "pose"), (Image, "image"))
    ]
    rgb = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    deadline, step = time.monotonic() + 60, 0
    while time.monotonic() < deadline:
        header = Header(stamp=Time(sec=1_700_000_000 + step), frame_id="map")
        pose = Pose()
        pose.position.x = 0.5 * (step % 2)
        step += 1
        messages = conversions.camera_info(CAMERA_128, header), PoseStamped(header=header, pose=pose)
        for publisher, message in zip(
            publishers, (*messages, conversions.rgb_to_image(rgb, header)), strict=True
        ):
            publisher.publish(message)
        if client.wait_for_service(timeout_sec=0.2):
            future = client.call_async(RenderViews.Request(poses=[Pose()]))
            executor.spin_until_future_complete(future, timeout_sec=10)
            if future.done() and future.result().success:
                return
    raise TimeoutError("the node did not start to render within 60 s")


def measure(
    executor: SingleThreadedExecutor, client: rclpy.client.Client, request: RenderViews.Request, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the round trip and the node's own latency of `count` calls, milliseconds."""
    rows = []
    for _ in range(count):
        start = time.perf_counter()
        future = client.call_async(request)
        executor.spin_until_future_complete(future)
        elapsed = (time.perf_counter() - start) * 1e3
        response = future.result()
        if not response.success:
            raise RuntimeError(response.message)
        rows.append((elapsed, response.latency_ms))
    round_trip, latency = np.array(rows).T
    return round_trip, latency


def model_alone(model: str, count: int) -> np.ndarray:
    """Return what rendering the node's scene takes without the node, milliseconds."""
    scene = ec.Scene(ec.load_model(model))
    height, width = scene.image_size
    cameras = []
    for x in (0.0, 0.5):
        T = np.eye(4)
        T[0, 3] = x
        cameras.append(ec.Camera(*dataclasses.astuple(CAMERA_128.fitted(width, height)), T))
        scene.insert(np.zeros((height, width, 3), np.uint8), cameras[-1])
    times = []
    for _ in range(count):
        start = time.perf_counter()
        scene.render(cameras[:1])
        times.append((time.perf_counter() - start) * 1e3)
    return np.array(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="weights (a small random model)")
    parser.add_argument("--size", type=int, default=256, help="side of the square images, pixels (256)")
    parser.add_argument("--encoding", default="rgb8", choices=("rgb8", "jpeg", "png"))
    parser.add_argument("--count", type=int, default=300, help="requests (300)")
    options = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 100 + 1))
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or str(random_model(Path(folder)))
        command = [sys.executable, "-m", "elvsm_ros.node", "--ros-args", "--log-level", "error"]
        server = subprocess.Popen([*command, "-p", f"model:={model}"])
        rclpy.init()
        node, executor = rclpy.create_node("roundtrip"), SingleThreadedExecutor()
        executor.add_node(node)
        try:
            client = node.create_client(RenderViews, "/elvsm/render_views")
            show_pictures(node, executor, client)
            request = RenderViews.Request(
                poses=[Pose()], width=options.size, height=options.size, encoding=options.encoding
            )
            measure(executor, client, request, 20)
            round_trip, latency = measure(executor, client, request, options.count)
        finally:
            server.terminate()
            server.wait(10)
            node.destroy_node()
            rclpy.shutdown()
        alone = model_alone(model, options.count)
    print(
        f"{options.count} requests of one {options.size}x{options.size} {options.encoding} view, "
        f"{os.cpu_count()} x {processor()}"
    )
    for name, values in (
        ("round trip", round_trip),
        ("in the node (latency_ms)", latency),
        ("model alone", alone),
    ):
        print(f"{name:26} p50 {np.percentile(values, 50):6.2f} ms   p95 {np.percentile(values, 95):6.2f} ms")
    print(f"{'round trip without model':26} p50 {np.median(round_trip) - np.median(alone):6.2f} ms")
    print(f"{'round trip without node':26} p50 {np.median(round_trip - latency):6.2f} ms")


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
