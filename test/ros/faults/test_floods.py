"""More than the node can take, of whatever kind: memory stays bounded, it goes on answering, and the newest counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Pose
from rclpy.action import ActionClient
from rig import CAMERA, NodeProcess, Peer, header, picture, pose_at, running, wait_until
from std_srvs.srv import SetBool

from elvsm.action import RenderTrajectory
from elvsm.msg import PoseUpdates
from elvsm.srv import RenderViews
from elvsm_ros import conversions

MEGABYTE = 2**20


def memory(node: NodeProcess) -> int:
    """Return the bytes that a node's process has in memory."""
    return int(Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * 4096


@contextmanager
def frugal(node: NodeProcess, megabytes: int) -> Iterator[None]:
    """Assert that the node needs no more than so much memory on top of what it has."""
    before = memory(node)
    yield
    grown = (memory(node) - before) / MEGABYTE
    assert grown < megabytes, f"{grown:.0f} MB more than before:\n{node.output[-3000:]}"


def pause(peer: Peer, paused: bool, timeout: float = 10.0) -> None:
    answer = peer.call(SetBool, "/elvsm/pause", SetBool.Request(data=paused), timeout)
    assert answer.success, answer.message


def test_pictures_that_take_longer_to_decode_than_to_arrive(small_model: Path) -> None:
    """Keyframes come all the while, the newest one soon after the last image, and memory is bounded."""
    queues = {"insert_queue": 2, "sync_queue": 5}
    camera = CAMERA.stretched(2400, 1600)
    noise = np.random.default_rng(0).integers(0, 256, (1600, 2400, 3), dtype=np.uint8)
    compressed = conversions.rgb_to_compressed(noise, header(0, "camera"), "jpeg", 95)
    with running(model=str(small_model), image_transport="compressed", **queues) as (node, peer):

        def show(x: float) -> None:
            stamp = peer.next_stamp(0.1)
            peer.send_info(stamp, camera)
            peer.send_pose(stamp, pose_at(x))
            compressed.header = header(stamp, "camera")
            peer.compressed.publish(compressed)

        show(-5.0)
        peer.wait_for_status(lambda s: s.keyframes == 1, "a keyframe")
        count = 100
        with frugal(node, 250):
            for i in range(count):
                show(0.3 * i)
                time.sleep(0.04)
            flooded = peer.fresh_status()
        assert flooded.images_received > 0.8 * count and flooded.images_dropped > 0.2 * count, flooded
        assert flooded.keyframes > 5, flooded
        last = 0.3 * (count - 1)
        wait_until(lambda: last - peer.keyframes[-1].poses[-1].position.x < 1.0, "one of the newest", 10)
        peer.wait_for_status(lambda s: not s.queue_length, "an empty queue", 10)
        show(-9.0)
        peer.wait_for_status(lambda s: s.keyframes_inserted > flooded.keyframes_inserted, "a keyframe", 10)


@pytest.fixture(scope="module")
def pair(small_model: Path) -> Iterator[tuple[NodeProcess, Peer]]:
    """Return a node with a keyframe, shared by what follows, and a peer for it."""
    with running(model=str(small_model), insert_queue=4, sync_queue=5) as pair:
        pair[1].insert(picture(0), pose_at(0.0))
        yield pair


def answers(peer: Peer) -> None:
    """Assert that the node answers now, and shows what it has."""
    pause(peer, False)
    answer = peer.render([pose_at(0.1)], timeout=10.0)
    assert answer.success, answer.message


MANY = 300_000


def test_a_correction_of_more_keyframes_than_there_can_be(pair: tuple[NodeProcess, Peer]) -> None:
    node, peer = pair
    updates = peer.node.create_publisher(PoseUpdates, "/elvsm/pose_updates", 10)
    wait_until(updates.get_subscription_count, "a subscription")
    with frugal(node, 200):
        updates.publish(PoseUpdates(ids=range(MANY), poses=[Pose()] * MANY))
        node.wait_for(f"{MANY} ids and {MANY} poses, more than 10000")
        answers(peer)
    unknown = 10_000
    updates.publish(PoseUpdates(ids=range(1, unknown + 1), poses=[Pose()] * unknown))
    line = node.wait_for("there are no keyframes 1, 2, 3")
    assert len(line) < 400
    answers(peer)
    assert peer.fresh_status().keyframes == 1


def test_a_request_with_more_poses_than_allowed(pair: tuple[NodeProcess, Peer]) -> None:
    node, peer = pair
    request = RenderViews.Request(poses=[Pose()] * MANY)
    with frugal(node, 200):
        answer = peer.call(RenderViews, "/elvsm/render_views", request)
        assert not answer.success and f"{MANY} poses are more than max_render_views (64)" in answer.message
        answers(peer)


def test_a_goal_with_more_poses_than_allowed(pair: tuple[NodeProcess, Peer]) -> None:
    node, peer = pair
    client = peer.on_executor(lambda: ActionClient(peer.node, RenderTrajectory, "/elvsm/render_trajectory"))
    try:
        wait_until(client.server_is_ready, "the action")
        with frugal(node, 200):
            sent = client.send_goal_async(RenderTrajectory.Goal(poses=[Pose()] * MANY))
            wait_until(sent.done, "an answer")
            done = peer.on_executor(sent.result().get_result_async)
            wait_until(done.done, "a result")
            message = done.result().result.message
            assert f"{MANY} poses are more than max_trajectory_poses (10000)" in message
            answers(peer)
    finally:
        peer.on_executor(client.destroy)


def test_images_behind_a_correction_that_has_to_wait(pair: tuple[NodeProcess, Peer]) -> None:
    """The last of this module: the renders that it waits for are cut short by the node's end."""
    node, peer = pair
    updates = peer.node.create_publisher(PoseUpdates, "/elvsm/pose_updates", 10)
    wait_until(updates.get_subscription_count, "a subscription")
    poses = [conversions.matrix_to_pose(pose_at(0.01 * i)) for i in range(64)]
    renders = RenderViews.Request(poses=poses, width=256, height=256)
    futures = [peer.start_call(RenderViews, "/elvsm/render_views", renders) for _ in range(100)]
    peer.wait_for_status(lambda s: s.queue_length > 90, "renders that wait")
    updates.publish(PoseUpdates(poses=[Pose()]))
    camera = CAMERA.stretched(1440, 960)
    rgb = picture(1, 1440, 960)  # 4 MB
    dropped = peer.status.images_dropped
    with frugal(node, 120):
        for i in range(80):
            peer.send_frame(rgb, pose_at(0.3 * i), camera)
            time.sleep(0.02)
        status = peer.fresh_status()
        assert status.images_dropped > dropped + 40, status
        pause(peer, True)  # does not wait for the renders either
    assert not all(future.done() for future in futures), (
        "the renders were too quick for this to show anything"
    )
