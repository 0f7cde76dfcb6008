"""The other ways in: compressed images, odometry, a camera mounted on a body."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovariance
from nav_msgs.msg import Odometry
from rig import NodeProcess, Peer, header, picture, pose_at, wait_until
from sensor_msgs.msg import CompressedImage

from elvsm_ros import conversions


@pytest.fixture(scope="module")
def compressed(small_model: Path) -> Iterator[tuple[NodeProcess, Peer]]:
    """Return a node that reads compressed images, and a peer for it."""
    node = NodeProcess(model=str(small_model), image_transport="compressed", log_period=0.0)
    peer = Peer()
    try:
        node.wait_for("active: watching /image/compressed")
        wait_until(peer.connected, "the node and its peer to find each other")
        yield node, peer
        assert node.alive()
    finally:
        node.close()
        peer.close()


def send_compressed(peer: Peer, T: np.ndarray, cut: Callable[[bytes], bytes] = bytes) -> None:
    """Publish a frame as JPEG, what `cut` leaves of it."""
    stamp = peer.next_stamp()
    message: CompressedImage = conversions.rgb_to_compressed(picture(1), header(stamp, "camera"), "jpeg")
    message.data = cut(bytes(message.data))
    peer.send_info(stamp)
    peer.send_pose(stamp, T)
    peer.compressed.publish(message)


@dataclasses.dataclass
class Damage:
    cut: Callable[[bytes], bytes]
    text: str


@pytest.mark.parametrize(
    "damage",
    [
        Damage(lambda data: data[: len(data) // 2], "truncated or corrupt"),
        Damage(lambda data: data[:-40], "truncated or corrupt"),
        Damage(lambda data: b"", "neither JPEG nor PNG"),
    ],
    ids=["half", "end missing", "empty"],
)
def test_damaged_jpegs_are_skipped_and_named(compressed: tuple[NodeProcess, Peer], damage: Damage) -> None:
    node, peer = compressed
    T = pose_at(10.0 * (1 + peer.status.images_received))
    before, lines = peer.status, len(node.lines)
    send_compressed(peer, T, damage.cut)
    status = peer.wait_for_status(lambda s: s.images_rejected > before.images_rejected, "one more rejected")
    assert status.keyframes == before.keyframes
    wait_until(
        lambda: any(damage.text in line for line in node.lines[lines:]), f"a line with {damage.text!r}"
    )
    # The place is free again for a whole image from the same spot.
    send_compressed(peer, T)
    peer.wait_for_status(lambda s: s.keyframes == before.keyframes + 1, "one more keyframe")


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
