"""What the node says when nothing arrives, over DDS: one warning that tells the cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import rclpy
from geometry_msgs.msg import PoseWithCovariance, PoseWithCovarianceStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rig import START, NodeProcess, Peer, header, picture, pose_at, wait_until
from sensor_msgs.msg import Image

from elvsm_ros import conversions

LIMIT = 2.0


@pytest.fixture
def other() -> Iterator[Node]:
    """Return a node that publishes nothing by itself; it is never spun, which publishing does not need."""
    context = rclpy.Context()
    rclpy.init(context=context)
    yield rclpy.create_node("other", context=context, enable_rosout=False)
    rclpy.shutdown(context=context)


def warnings(node: NodeProcess) -> list[str]:
    return [line for line in node.lines if "silence: " in line]


def test_missing_publishers_and_a_wrong_type_are_named_once(
    start_node: Callable[..., NodeProcess], other: Node
) -> None:
    other.create_publisher(Image, "/image", 1)
    other.create_publisher(PoseWithCovarianceStamped, "/pose", 1)
    node = start_node(silence_warning=LIMIT, status_period=0.1)
    line = node.wait_for("silence: ")
    assert "waiting for images, camera_info, poses: nothing arrived for 2 s" in line
    assert "/image: 0 messages, 1 publishers;" in line
    assert "/camera_info: 0 messages, 0 publishers (is its source running, and the topic remapped?)" in line
    assert "geometry_msgs/msg/PoseWithCovarianceStamped there while geometry_msgs/msg/PoseStamped" in line
    assert "pose_source chooses" in line
    time.sleep(1.5 * LIMIT)
    assert len(warnings(node)) == 1  # and no further one while nothing changes


def test_what_has_arrived_is_told_and_a_new_silence_is_a_new_warning(
    start_node: Callable[..., NodeProcess], peer: Peer
) -> None:
    node = start_node(silence_warning=LIMIT, status_period=0.1, log_period=0.0)
    node.wait_for("active")
    wait_until(peer.connected, "the node and its peer to find each other")
    for silence in (1, 2):
        # All topics, and then for a while all but the poses.
        peer.send_frame(picture(0), pose_at(0.0))

        def named(silence: int = silence) -> bool:
            stamp = peer.next_stamp()
            peer.send_info(stamp)
            peer.send_image(stamp, picture(0))
            time.sleep(0.1)
            return sum("waiting for poses:" in line for line in warnings(node)) == silence

        wait_until(named, f"warning {silence} about poses alone")
    line = next(line for line in warnings(node) if "waiting for poses:" in line)
    assert "/pose: 1 messages, the newest with stamp 1700000000.200" in line and "frame 'map'" in line
    assert "behind this node's clock" in line  # by years, in this test
    assert "the newest image is" in line and "newer than the newest pose by their stamps" in line
    assert START == 1_700_000_000 * 10**9


def test_a_qos_mismatch_is_named(start_node: Callable[..., NodeProcess], other: Node) -> None:
    other.create_publisher(Image, "/image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    overrides = {"qos_overrides./image.subscription.reliability": "reliable"}
    node = start_node(silence_warning=LIMIT, status_period=0.1, **overrides)
    line = node.wait_for("silence: ")
    assert "/image: 0 messages, 1 publishers, QoS mismatch: " in line and "eliab" in line
    assert "set qos_overrides./image.subscription.reliability" in line


def test_the_warning_can_be_turned_off(start_node: Callable[..., NodeProcess]) -> None:
    node = start_node(silence_warning=0.0, status_period=0.1)
    node.wait_for("active")
    time.sleep(1.0)  # a limit of no seconds would be reached at once
    assert not warnings(node)


def test_poses_with_covariance(start_node: Callable[..., NodeProcess], peer: Peer, other: Node) -> None:
    pose = other.create_publisher(PoseWithCovarianceStamped, "/pose", 10)
    node = start_node(pose_source="pose_with_covariance", status_period=0.1)
    node.wait_for("active")
    wait_until(lambda: pose.get_subscription_count() and peer.info.get_subscription_count(), "a match")
    wait_until(lambda: peer.image.get_subscription_count() and peer.statuses, "a match")
    stamp = peer.next_stamp()
    peer.send_info(stamp)
    inner = PoseWithCovariance(pose=conversions.matrix_to_pose(pose_at(3.0)))
    pose.publish(PoseWithCovarianceStamped(header=header(stamp, "map"), pose=inner))
    peer.send_image(stamp, picture(0))
    wait_until(lambda: peer.keyframes and peer.keyframes[-1].poses, "a keyframe")
    assert peer.keyframes[-1].poses[0].position.x == 3.0
