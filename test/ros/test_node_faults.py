"""Bad input over DDS: refused with one clear line; the node lives on, and the scene is as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from geometry_msgs.msg import Pose, PoseStamped
from rig import CAMERA, NodeProcess, Peer, header, picture, pixels, pose_at, wait_until
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from elvsm.srv import RenderViews
from elvsm_ros import conversions

TARGET = pose_at(0.1)


@pytest.fixture
def node(shared: tuple[NodeProcess, Peer]) -> NodeProcess:
    return shared[0]


@pytest.fixture
def peer(shared: tuple[NodeProcess, Peer]) -> Peer:
    """Return the peer of a node that has two keyframes."""
    peer = shared[1]
    assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
    for i in range(2):
        peer.insert(picture(i), pose_at(0.5 * i))
    return peer


def send_image(peer: Peer, **changes: object) -> None:
    """Publish a frame whose image message is changed."""
    stamp = peer.next_stamp()
    peer.send_info(stamp)
    peer.send_pose(stamp, pose_at(5.0))
    message = conversions.rgb_to_image(picture(3), header(stamp, "camera"))
    for name, value in changes.items():
        setattr(message, name, value)
    peer.image.publish(message)


def send_info(peer: Peer, **changes: object) -> None:
    """Publish a frame whose camera_info is changed."""
    stamp = peer.next_stamp()
    message = conversions.camera_info(CAMERA, header(stamp, "camera"))
    for name, value in changes.items():
        setattr(message, name, value)
    peer.info.publish(message)
    peer.send_image(stamp, picture(3))
    # Topics keep no order among each other: the pose, which sets the image free, comes after the rest.
    peer.fresh_status()
    peer.send_pose(stamp, pose_at(5.0))


def send_pose(peer: Peer, x: float = 5.0, w: float = 1.0) -> None:
    """Publish a frame whose pose is changed."""
    stamp = peer.next_stamp()
    peer.send_info(stamp)
    pose = Pose()
    pose.position.x, pose.orientation.w = x, w
    peer.pose.publish(PoseStamped(header=header(stamp, "map"), pose=pose))
    peer.send_image(stamp, picture(3))


def send_other_size(peer: Peer) -> None:
    stamp = peer.next_stamp()
    peer.send_info(stamp)
    peer.send_pose(stamp, pose_at(5.0))
    peer.send_image(stamp, picture(3, 48, 32))


def send_old_pose(peer: Peer) -> None:
    """Publish an image and a pose that are both four seconds older than the newest pose."""
    stamp = peer.next_stamp() - 4 * 10**9
    peer.send_pose(stamp, pose_at(5.0))
    peer.send_image(stamp, picture(3))


NAN = float("nan")
FAULTS: dict[str, tuple[Callable[[Peer], None], str]] = {
    "unknown encoding": (lambda peer: send_image(peer, encoding="nonsense"), "encoding 'nonsense'"),
    "depth encoding": (lambda peer: send_image(peer, encoding="16UC1"), "encoding '16UC1'"),
    "too little data": (lambda peer: send_image(peer, step=4000), "step of 4000"),
    "other size than camera_info": (send_other_size, "image is 48x32 but its camera is calibrated for 96x64"),
    "zero intrinsics": (lambda peer: send_info(peer, k=[0.0] * 9), "not calibrated"),
    "NaN intrinsics": (lambda peer: send_info(peer, k=[NAN] * 9), "camera_info has NaN"),
    "camera_info without a size": (lambda peer: send_info(peer, width=0), "camera_info says 0x64"),
    "NaN position": (lambda peer: send_pose(peer, x=NAN), "pose has NaN"),
    "NaN orientation": (lambda peer: send_pose(peer, w=NAN), "pose has NaN"),
    "quaternion of norm 0.5": (lambda peer: send_pose(peer, w=0.5), "norm 0.5"),
    "quaternion of zeros": (lambda peer: send_pose(peer, w=0.0), "norm 0 instead"),
    "old pose": (send_old_pose, "older than the newest"),
    "other frame": (
        lambda peer: peer.send_pose(peer.next_stamp(), pose_at(5.0), frame="odom"),
        "'odom' but the world frame is 'map'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_skipped_and_named(node: NodeProcess, peer: Peer, fault: str) -> None:
    send, text = FAULTS[fault]
    before = pixels(peer.render([TARGET]).images[0])
    status, lines = peer.status, len(node.lines)
    send(peer)
    wait_until(lambda: any(text in line for line in node.lines[lines:]), f"{text!r} in {node.output}")
    after = peer.fresh_status()
    if after.images_received > status.images_received:
        # An image whose pose was refused is given up when sync_timeout is over.
        wait_until(lambda: peer.status.images_rejected > status.images_rejected, "the image to be refused")
    assert after.keyframes_inserted == status.keyframes_inserted
    assert after.last_error
    np.testing.assert_array_equal(pixels(peer.render([TARGET]).images[0]), before)
    # And it goes on as if nothing had been.
    peer.insert(picture(7), pose_at(9.0))
    assert peer.status.keyframes == 3


REQUESTS: dict[str, tuple[dict, str]] = {
    "no pose": ({"poses": []}, "no pose"),
    "10000 poses": ({"poses": [TARGET] * 10_000}, "10000 poses"),
    "8192x8192": ({"width": 8192, "height": 8192}, "8192x8192"),
    "unknown encoding": ({"encoding": "gif"}, "'gif'"),
    "other frame": ({"header": header(0, "odom")}, "'odom'"),
    "half a size": ({"width": 64}, "half given"),
    "NaN intrinsics": ({"camera_info": CameraInfo(k=[NAN] * 9, width=9, height=9)}, "NaN"),
    "negative focal length": (
        {"camera_info": CameraInfo(k=[-9.0, 0, 4, 0, 9, 4, 0, 0, 1], width=9, height=9)}, "focal",
    ),
    "intrinsics without a size": (
        {"camera_info": CameraInfo(k=[9.0, 0, 4, 0, 9, 4, 0, 0, 1])}, "width and height",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REQUESTS)
def test_bad_requests_are_refused_with_the_reason(node: NodeProcess, peer: Peer, what: str) -> None:
    fields, text = REQUESTS[what]
    failures = peer.status.render_failures
    answer = peer.render(**{"poses": [TARGET], **fields})
    assert not answer.success and text in answer.message
    assert not answer.images and not answer.compressed_images and not answer.support
    peer.wait_for_status(lambda s: s.render_failures > failures, "one more failure")
    assert any(text in line for line in node.lines)
    assert peer.render([TARGET]).success


def test_a_bad_pose_in_a_request_is_refused(peer: Peer) -> None:
    for values, text in (({"w": 0.3}, "norm"), ({"x": NAN}, "NaN")):
        pose = Pose()
        for name, value in values.items():
            setattr(pose.orientation, name, value)
        answer = peer.call(RenderViews, "/elvsm/render_views", RenderViews.Request(poses=[Pose(), pose]))
        assert not answer.success and "pose 1" in answer.message and text in answer.message


def test_bad_render_poses_are_named_and_not_answered(node: NodeProcess, peer: Peer) -> None:
    peer.rendered.clear()
    failures = peer.status.render_failures
    pose = Pose()
    pose.orientation.w = 0.2
    peer.render_pose.publish(PoseStamped(header=header(0, "map"), pose=pose))
    peer.wait_for_status(lambda s: s.render_failures > failures, "a failure")
    assert any("render: pose 0: " in line and "norm 0.2" in line for line in node.lines)
    assert not peer.rendered


def test_before_the_first_keyframe(peer: Peer) -> None:
    assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
    answer = peer.render([TARGET])
    assert not answer.success and "no keyframe yet" in answer.message
    peer.insert(picture(0), pose_at(0.0))
    assert peer.render([TARGET]).success


def test_before_anything_arrived(start_node: Callable[..., NodeProcess], peer: Peer) -> None:
    node = start_node("-r", "__node:=fresh")
    node.wait_for("active")
    request = RenderViews.Request(poses=[Pose()])
    answer = peer.call(RenderViews, "/fresh/render_views", request)
    assert not answer.success and "no camera_info has arrived" in answer.message
    request.camera_info = conversions.camera_info(CAMERA, header(0, ""))
    answer = peer.call(RenderViews, "/fresh/render_views", request)
    assert not answer.success and "no keyframe yet" in answer.message
