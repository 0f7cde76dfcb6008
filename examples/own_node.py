"""Render inside a node of your own, twice a second, and publish it on `view`: python3 own_node.py"""

import contextlib

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from elvsm_ros import SceneClient, SceneClientError
from elvsm_ros.conversions import rgb_to_image


class Mirror(Node):
    """Show what the scene looks like from its newest keyframe."""

    def __init__(self) -> None:
        super().__init__("mirror")
        self.scene = SceneClient("elvsm", node=self, timeout=2.0)
        self.publisher = self.create_publisher(Image, "view", 1)
        self.create_timer(0.5, self.show)

    def show(self) -> None:
        try:
            self.scene.wait_until_ready(keyframes=1)
            image = self.scene.render(self.scene.keyframes().poses[-1])  # waiting in a callback is fine
        except SceneClientError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        stamp = self.get_clock().now().to_msg()
        self.publisher.publish(rgb_to_image(image, Header(stamp=stamp, frame_id="view")))


rclpy.init()
mirror = Mirror()
with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
    rclpy.spin(mirror)
mirror.scene.close()
