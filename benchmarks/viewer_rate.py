"""Measure how fast the viewer's picture follows the camera: python benchmarks/viewer_rate.py

Starts a node and the viewer, opens the page in a headless Chromium that draws on the CPU, and drags its camera about
for a while. A picture counts when it has gone to the browser. Node, viewer and browser share the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

# Before rclpy reads them: a network of our own, and room for large images.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault(
    "FASTDDS_DEFAULT_PROFILES_FILE",
    str(Path(__file__).resolve().parents[1] / "config" / "fastdds_localhost.xml"),
)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 100 + 1))

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.viewer.options import parse
from elvsm_ros.viewer.run import Viewer

CAMERA = Intrinsics(128, 128, 80, 60, 160, 120)
BROWSERS = (str(Path(sys.prefix) / "browser" / "chromium"), "chromium", "chromium-browser", "google-chrome")


def show_pictures(viewer: Viewer, count: int) -> None:
    """Publish posed pictures until the node has `count` keyframes."""
    node = viewer.client.node
    publishers = [
        node.create_publisher(kind, topic, 10)
        for kind, topic in ((CameraInfo, "camera_info"), (PoseStamped, "pose"), (Image, "image"))
    ]
    rng, deadline, step = np.random.default_rng(0), time.monotonic() + 90, 0
    while len(viewer.client.last_keyframes) < count:
        if time.monotonic() > deadline:
            raise TimeoutError("the node took no keyframes within 90 s")
        time.sleep(0.3)
        if not viewer.client.connected:
            continue
        rgb = conversions.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), 160, 120)
        T = np.eye(4)
        T[0, 3] = 0.3 * step
        step += 1
        header = Header(stamp=Time(sec=1_700_000_000 + step), frame_id="map")
        messages = (
            conversions.camera_info(CAMERA, header),
            PoseStamped(header=header, pose=conversions.matrix_to_pose(T)),
            conversions.rgb_to_image(rgb, header),
        )
        for publisher, message in zip(publishers, messages, strict=True):
            publisher.publish(message)


def set_resolution(tab: Tab, pixels: int) -> None:
    """Set the slider of the picture's height, the third number on the page."""
    box = tab.locator("input[inputmode]").nth(2)
    box.fill(str(pixels))
    box.press("Enter")


def drag(viewer: Viewer, tab: Tab, seconds: float) -> tuple[np.ndarray, int, int]:
    """Move the camera. Return the round trips of the pictures (ms), their number, the longest queue of the node."""
    (page,) = viewer.pages
    before, end = page.count, time.monotonic() + seconds
    trips: list[float] = []
    queue, step, last = 0, 0, page.shown
    tab.mouse.move(200, 300)
    tab.mouse.down()
    while time.monotonic() < end:
        step += 1
        tab.mouse.move(200 + 60 * np.sin(step / 20), 300 + 20 * np.cos(step / 15))
        tab.wait_for_timeout(20)
        if page.shown is not last:
            last = page.shown
            trips.append(last.round_trip)
        queue = max(queue, viewer.client.last_status.queue_length)
    tab.mouse.up()
    return np.array(trips), page.count - before, queue


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo", help="weights (demo)")
    parser.add_argument("--device", default="cpu", help="PyTorch device of the node (cpu)")
    parser.add_argument("--size", type=int, default=128, help="side of the square picture, pixels (128)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the camera moves (20)")
    parser.add_argument("--keyframes", type=int, default=12)
    parser.add_argument(
        "--browser", default=next((b for b in BROWSERS if shutil.which(b)), None), help="Chromium to use"
    )
    options = parser.parse_args()
    if options.browser is None:
        parser.error("needs Chromium: install one, or name it with --browser")
    command = [sys.executable, "-m", "elvsm_ros.node", "--ros-args", "--log-level", "error"]
    command += [
        "-p",
        f"model:={options.model}",
        "-p",
        f"device:={options.device}",
        "-p",
        "status_period:=0.1",
    ]
    server, errors = subprocess.Popen(command), []
    try:
        with Viewer(parse(["--port", "18200"])) as viewer, sync_playwright() as playwright:
            show_pictures(viewer, options.keyframes)
            browser = playwright.chromium.launch(
                executable_path=options.browser,
                args=[
                    "--no-sandbox",
                    "--use-gl=angle",
                    "--use-angle=swiftshader",
                    "--enable-unsafe-swiftshader",
                ],
            )
            tab = browser.new_page(viewport={"width": 600, "height": 600}, locale="en-US")
            tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
            tab.on("pageerror", lambda error: errors.append(str(error)))
            tab.goto(viewer.url)
            while not viewer.pages or viewer.scenery.pictures < options.keyframes:
                tab.wait_for_timeout(100)
            set_resolution(tab, options.size)
            drag(viewer, tab, 2.0)
            (page,) = viewer.pages
            overtaken = page.overtaken
            trips, count, queue = drag(viewer, tab, options.seconds)
            shape = page.shown.image.shape
            overtaken = page.overtaken - overtaken
            browser.close()
    finally:
        server.terminate()
        server.wait(10)
    print(
        f"{shape[1]}x{shape[0]} pictures, model {options.model} on {options.device}, {os.cpu_count()} cores\n"
        f"pictures per second   {count / options.seconds:6.2f}\n"
        f"round trip p50        {np.percentile(trips, 50):6.0f} ms   p95 {np.percentile(trips, 95):.0f} ms\n"
        f"views overtaken       {overtaken:6}   (never asked for: newer ones took their place)\n"
        f"jobs waiting, at most {queue:6}\n"
        f"console errors        {len(errors):6}"
    )


if __name__ == "__main__":
    main()
