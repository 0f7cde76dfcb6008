"""Let a node watch a camera for a long time, and tell whether it stays as it is: python benchmarks/soak.py

Starts a node as a process of its own, walks a camera of 640x480 pixels around in front of it at 30 images a
second, asks for a render at a steady rate, and samples memory all the while. Ends with status 1 when a figure is
missed: memory that grows after the warm-up, an error, a service rate that drops.

Writes soak.json and, with --plot and matplotlib, soak.png into --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from soak_results import Limits, Run, Sample, plot

from elvsm_ros.tools import processes

SAMPLE_PERIOD = 2.0
"""Seconds between two looks at the node's memory."""
ANSWER_TIMEOUT = 60.0
"""Seconds after which a request counts as not answered."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="length of a run (20)")
    parser.add_argument(
        "--warm-up", type=float, help="minutes that do not count (a quarter of it, 3 at most)"
    )
    parser.add_argument("--transport", choices=("raw", "compressed", "both"), default="both",
                        help="both: one half of the time each, with a node of its own (both)")  # fmt: skip
    parser.add_argument("--rate", type=float, default=30.0, help="images per second (30)")
    parser.add_argument(
        "--requests", type=float, default=0.25, help="renders asked for per second (0.25; a GPU takes more)"
    )
    parser.add_argument("--keyframes", type=int, default=100, help="the node's max_keyframes (100)")
    parser.add_argument("--model", default="demo", help="the node's model (demo)")
    parser.add_argument("--device", default="auto", help="the node's device (auto)")
    parser.add_argument(
        "--out", type=Path, default=Path("soak_out"), help="folder for what is written (soak_out)"
    )
    parser.add_argument("--plot", action="store_true", help="draw soak.png (needs matplotlib)")
    return parser.parse_args(arguments)


# What the camera sees


def pose_at(seconds: float) -> np.ndarray:
    """Return T_world_cam of a camera that walks on winding ways at about 0.6 m/s and never stands still."""
    s = 0.1 * seconds
    x, z = 4 * np.sin(1.1 * s) + 0.02 * seconds, 4 * np.sin(0.73 * s + 1) + 1.5 * np.sin(0.31 * s)
    yaw = 1.2 * np.sin(0.9 * s) + 0.05 * seconds
    T = np.eye(4)
    T[:3, :3] = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    T[:3, 3] = x, 0.05 * np.sin(9 * s), z
    return T


def pictures(count: int, width: int = 640, height: int = 480) -> list[np.ndarray]:
    """Return uint8 RGB pictures that differ from each other, with edges and grain."""
    import cv2

    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        rgb = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.int16)
        found.append((rgb + rng.integers(-6, 7, rgb.shape)).clip(0, 255).astype(np.uint8))
    return found


class Camera(threading.Thread):
    """Publish images with camera_info and poses, at a steady rate, until `done` is set."""

    def __init__(self, node: Any, compressed: bool, rate: float, done: threading.Event):
        super().__init__(daemon=True)
        from geometry_msgs.msg import PoseStamped
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image
        from std_msgs.msg import Header

        from elvsm_ros import conversions

        self._node, self._rate, self._done = node, rate, done
        self._conversions, self._PoseStamped, self._Header = conversions, PoseStamped, Header
        camera = conversions.Intrinsics(520.0, 520.0, 320.0, 240.0, 640, 480)
        self._info = conversions.camera_info(camera, Header(frame_id="camera"))
        header = Header(frame_id="camera")
        make = conversions.rgb_to_compressed if compressed else conversions.rgb_to_image
        options = ("jpeg",) if compressed else ()
        self._messages = [make(rgb, header, *options) for rgb in pictures(24)]
        kind, topic = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self._publishers = [
            node.create_publisher(k, t, 5)
            for k, t in ((CameraInfo, "camera_info"), (PoseStamped, "pose"), (kind, topic))
        ]
        self.sent = 0
        self.seconds = 0.0
        self.late = 0.0  # seconds by which the newest image was late: this machine is too busy

    def connected(self) -> bool:
        return all(publisher.get_subscription_count() for publisher in self._publishers)

    def run(self) -> None:
        begin = time.monotonic()
        while not self._done.is_set():
            due = begin + self.sent / self._rate
            wait = due - time.monotonic()
            if wait > 0 and self._done.wait(wait):
                return
            self.late = -min(0.0, wait)
            self.seconds = self.sent / self._rate
            stamp = self._node.get_clock().now().to_msg()
            self._info.header.stamp = stamp
            pose = self._PoseStamped(header=self._Header(stamp=stamp, frame_id="map"))
            pose.pose = self._conversions.matrix_to_pose(pose_at(self.seconds))
            image = self._messages[self.sent % len(self._messages)]
            image.header.stamp = stamp
            for publisher, message in zip(self._publishers, (self._info, pose, image), strict=True):
                publisher.publish(message)
            self.sent += 1


class Client(threading.Thread):
    """Ask for a render near the camera, one at a time, `rate` times a second, until `done` is set."""

    def __init__(self, node: Any, camera: Camera, rate: float, done: threading.Event):
        super().__init__(daemon=True)
        from elvsm.srv import RenderViews
        from elvsm_ros import conversions

        self._camera, self._rate, self._done = camera, rate, done
        self._client = node.create_client(RenderViews, "/elvsm/render_views")
        self._request, self._conversions = RenderViews.Request, conversions
        self.answered: list[tuple[float, float]] = []
        """When an answer came, and how long it took: seconds, steady clock."""
        self.errors: list[str] = []

    def run(self) -> None:
        due = time.monotonic()
        while not self._done.wait(max(0.0, due - time.monotonic())):
            # Not faster than the rate after a slow answer: the rate is what is watched.
            due = max(due + 1 / self._rate, time.monotonic())
            T = pose_at(max(0.0, self._camera.seconds - 2.0))
            T[:3, 3] += (0.05, 0.0, -0.05)
            begin = time.monotonic()
            future = self._client.call_async(
                self._request(poses=[self._conversions.matrix_to_pose(T)], encoding="jpeg")
            )
            while not future.done() and not self._done.wait(0.002):
                if time.monotonic() - begin > ANSWER_TIMEOUT:
                    self.errors.append(f"no answer within {ANSWER_TIMEOUT:g} s")
                    break
            if future.done():
                now = time.monotonic()
                answer = future.result()
                self.answered.append((now, now - begin))
                if not answer.success or len(answer.compressed_images) != 1:
                    self.errors.append(answer.message)


# The node as others see it


def resident(pid: int) -> tuple[float, int]:
    """Return the memory of a process that is not swapped out, MB, and its number of threads."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"])


def device_memory() -> float:
    """Return the memory in use on all NVIDIA GPUs, MB; 0 without one."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return float(sum(float(line) for line in out.split()))
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0.0


def start_node(options: argparse.Namespace, transport: str, environment: dict[str, str]) -> processes.Child:
    values = {
        "model": options.model, "device": options.device, "image_transport": transport,
        "max_keyframes": options.keyframes, "status_period": 1.0, "keyframe_max_rate": 5.0,
    }  # fmt: skip
    command = [sys.executable, "-m", "elvsm_ros.node", "--ros-args"]
    for name, value in values.items():
        command += ["-p", f"{name}:={value}"]
    environment = {**environment, "RCUTILS_LOGGING_BUFFERED_STREAM": "0"}
    return processes.Child(f"node ({transport})", command, environment, options.out / f"node_{transport}.log")


# One run


def run(options: argparse.Namespace, transport: str, seconds: float, environment: dict[str, str]) -> Run:
    """Let a node run for so many seconds."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from elvsm.msg import Status
    from elvsm_ros.node import LATCHED_QOS

    child = start_node(options, transport, environment)
    rclpy.init()
    node, executor, done = rclpy.create_node("soak"), SingleThreadedExecutor(), threading.Event()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    statuses: list[Status] = []
    node.create_subscription(
        Status, "/elvsm/status", lambda s: statuses.__setitem__(slice(None), [s]), LATCHED_QOS
    )
    camera = Camera(node, transport == "compressed", options.rate, done)
    client = Client(node, camera, options.requests, done)
    samples: list[Sample] = []
    try:
        spinning.start()
        deadline = time.monotonic() + 120
        while not (camera.connected() and statuses):
            child.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the node did not become active within 120 s: {child.obituary()}")
            time.sleep(0.1)
        begin = time.monotonic()
        camera.start()
        while not statuses[0].keyframes and time.monotonic() < begin + 60:
            time.sleep(0.1)
        client.start()
        while (elapsed := time.monotonic() - begin) < seconds:
            child.check()
            samples.append(sample(child.pid, elapsed, statuses[0]))
            if int(elapsed / 60) != int((elapsed - SAMPLE_PERIOD) / 60):
                show(transport, samples[-1], client, begin)
            time.sleep(SAMPLE_PERIOD)
    finally:
        done.set()
        for thread in (camera, client):
            if thread.is_alive():
                thread.join(5)
        processes.stop([child], grace=5.0)
        executor.shutdown()
        rclpy.shutdown()
        spinning.join(5)
    lines = child.log.read_text(errors="replace").splitlines()
    errors = client.errors + [
        line for line in lines if "[ERROR]" in line or "[FATAL]" in line or "Traceback" in line
    ]
    answered = [(at - begin, took) for at, took in client.answered]
    warnings = sum("[WARN]" in line for line in lines)
    full = next((s.seconds + 30 for s in samples if s.keyframes >= options.keyframes), seconds)
    warm_up = min(max(60.0, full), seconds / 2) if options.warm_up is None else 60 * options.warm_up
    return Run(transport, seconds, warm_up, samples, answered, errors, warnings, camera.sent)


def sample(pid: int, seconds: float, status: Any) -> Sample:
    rss, threads = resident(pid)
    return Sample(
        seconds, rss, device_memory(), threads, status.keyframes, status.images_received, status.images_dropped,
        status.images_rejected, status.queue_length, status.render_ms_p50,
    )  # fmt: skip


def show(transport: str, now: Sample, client: Client, begin: float) -> None:
    recent = [took for at, took in client.answered if at - begin > now.seconds - 60]
    print(
        f"{transport:10} {now.seconds / 60:5.1f} min  {now.rss:7.1f} MB  {now.keyframes:4} keyframes  "
        f"{now.threads} threads  {len(recent):3} answers in the last minute, "
        f"{1e3 * float(np.median(recent)) if recent else float('nan'):.0f} ms",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run, write, and return the exit status."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    environment = processes.private_environment()
    os.environ.update(environment)
    transports = ["raw", "compressed"] if options.transport == "both" else [options.transport]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the node is stopped, too
    runs, limits = [], Limits()
    for transport in transports:
        runs.append(run(options, transport, 60 * options.minutes / len(transports), environment))
    good = True
    for one in runs:
        print(
            f"\n{one.transport}: {one.seconds / 60:.1f} minutes, of which {one.warm_up / 60:.1f} to warm up"
        )
        for name, (reached, text) in one.verdicts(limits).items():
            good = good and reached
            print(f"  {'ok    ' if reached else 'MISSED'}  {name:14} {text}")
        print(f"          {'warnings':14} {one.warnings}")
    facts = [
        {**dataclasses.asdict(one), "verdicts": one.verdicts(limits), "rates": one.rates()} for one in runs
    ]
    (options.out / "soak.json").write_text(json.dumps({"reached": good, "runs": facts}, indent=1))
    if options.plot:
        plot(runs, options.out / "soak.png")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
