"""Images of a usual size travel between processes under the settings that tests and demo use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")

COUNT = 20
SUBSCRIBER = f"""
import time, rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node, sizes = rclpy.create_node("subscriber"), []
node.create_subscription(Image, "image", lambda m: sizes.append(len(m.data)), qos_profile_sensor_data)
end = time.monotonic() + 30
while time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
    if len(sizes) == {COUNT} or (node.count_publishers("image") == 0 and sizes):
        break
print(len(sizes), set(sizes))
"""
PUBLISHER = f"""
import array, sys, time, rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
width, height = int(sys.argv[1]), int(sys.argv[2])
rclpy.init()
node = rclpy.create_node("publisher")
publisher = node.create_publisher(Image, "image", qos_profile_sensor_data)
image = Image(width=width, height=height, encoding="rgb8", step=3 * width)
image.data = array.array("B", bytes(3 * width * height))
end = time.monotonic() + 30
while not publisher.get_subscription_count() and time.monotonic() < end:
    time.sleep(0.02)
for _ in range({COUNT}):
    publisher.publish(image)
    time.sleep(0.03)
time.sleep(1)
"""


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080)])
def test_images_arrive(width: int, height: int) -> None:
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    subscriber = subprocess.Popen([sys.executable, "-c", SUBSCRIBER], stdout=subprocess.PIPE, text=True)
    try:
        subprocess.run([sys.executable, "-c", PUBLISHER, str(width), str(height)], check=True, timeout=90)
        printed, _ = subscriber.communicate(timeout=90)
    finally:
        subscriber.kill()
    count, size = printed.split()
    # Best effort, on a machine that may be busy; with Fast DDS's own transports next to nothing arrives.
    assert int(count) >= COUNT // 2
    assert size == f"{{{3 * width * height}}}"
