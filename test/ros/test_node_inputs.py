"""The other ways in: compressed images, odometry, a camera mounted on a body."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import PoseWithCovariance
from nav_msgs.msg import Odometry
from rig import NodeProcess, Peer, header, picture, pose_at, wait_until
from sensor_msgs.msg import CompressedImage

from elvsm_ros import conversions


def send_compressed(peer: Peer, T: np.ndarray, cut: Callable[[bytes], bytes] = bytes) -> None:
    """Publish a frame as JPEG, what `cut` leaves of it."""
    stamp = peer.next_stamp()
    message: CompressedImage = conversions.rgb_to_compressed(picture(1), header(stamp, "camera"), "jpeg")
    message.data = cut(bytes(message.data))
    peer.send_info(stamp)
    peer.send_pose(stamp, T)
    peer.compressed.publish(message)


DAMAGES: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda data: data[: len(data) // 2], "truncated or corrupt"),
    (lambda data: data[:-40], "truncated or corrupt"),
    (lambda data: data[:300] + b"\xff" * 300 + data[600:], "truncated or corrupt"),
    (lambda data: b"", "neither JPEG nor PNG"),
]


def test_compressed_images_and_damaged_ones(start_node: Callable[..., NodeProcess], peer: Peer) -> None:
    node = start_node(image_transport="compressed", log_period=0.0, status_period=0.1)
    node.wait_for("active: watching /image/compressed")
    wait_until(peer.connected, "the node and its peer to find each other")
    for i, (cut, text) in enumerate(DAMAGES):
        before, lines = peer.fresh_status(), len(node.lines)
        send_compressed(peer, pose_at(10.0 * i), cut)
        status = peer.wait_for_status(
            lambda s, before=before: s.images_rejected > before.images_rejected, f"damage {i} rejected"
        )
        assert status.keyframes == i
        wait_until(lambda t=text, n=lines: any(t in line for line in node.lines[n:]), f"a line with {text!r}")
        # The place is free again for a whole image from the same spot.
        send_compressed(peer, pose_at(10.0 * i))
        peer.wait_for_status(lambda s, i=i: s.keyframes == i + 1, "one more keyframe")


def test_odometry_of_a_body_with_a_camera_on_it(start_node: Callable[..., NodeProcess], peer: Peer) -> None:
    # Forward, left, up to right, down, forward: the camera looks ahead from 0.2 m up.
    node = start_node(pose_source="odom", body_to_camera="[0.0, 0.0, 0.2, -0.5, 0.5, -0.5, 0.5]")
    node.wait_for("/odom")
    wait_until(peer.connected, "the node and its peer to find each other")
    stamp = peer.next_stamp()
    peer.send_info(stamp)
    pose = conversions.matrix_to_pose(np.eye(4))
    pose.position.x = 3.0
    peer.odom.publish(Odometry(header=header(stamp, "odom"), pose=PoseWithCovariance(pose=pose)))
    peer.send_image(stamp, picture(0))
    wait_until(lambda: peer.keyframes and peer.keyframes[-1].poses, "a keyframe")
    assert peer.keyframes[-1].header.frame_id == "odom"
    T = conversions.pose_to_matrix(peer.keyframes[-1].poses[0])
    expected = [[0, 0, 1, 3.0], [-1, 0, 0, 0], [0, -1, 0, 0.2], [0, 0, 0, 1]]
    np.testing.assert_allclose(T, expected, atol=1e-12)
