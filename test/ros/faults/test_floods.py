"""More than the node can take, of whatever kind: memory stays bounded, it goes on answering, and the newest counts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Point, Pose, PoseStamped
from lifecycle_msgs.msg import State
from rclpy.action import ActionClient
from rig import CAMERA, NodeProcess, Peer, header, picture, pose_at, running, state, wait_until
from std_srvs.srv import SetBool, Trigger

from elvsm.action import RenderTrajectory
from elvsm.msg import PoseUpdates
from elvsm.srv import LoadScene, RenderViews, SaveScene
from elvsm_core.files.persistence import write_scene
from elvsm_core.files.scene_reading import read_scene
from elvsm_ros import conversions

pytestmark = pytest.mark.ros

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def pair(small_model: Path, folder: Path) -> Iterator[tuple[NodeProcess, Peer]]:
    """Return a node with a keyframe, shared by what follows, and a peer for it."""
    with running(model=str(small_model), insert_queue=4, sync_queue=5, scene_directory=str(folder)) as pair:
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


def test_texts_of_megabytes_are_neither_kept_nor_logged(pair: tuple[NodeProcess, Peer]) -> None:
    node, peer = pair
    with frugal(node, 100):
        for letter in "abcdefghijklmnopqrstuvwxyz":
            request = RenderViews.Request(poses=[Pose()], encoding="\x1b[2J" + letter * 2_000_000)
            answer = peer.call(RenderViews, "/elvsm/render_views", request)
            assert not answer.success and "is not one of rgb8" in answer.message
            assert len(answer.message) < 300 and answer.message.isprintable()
        answer = peer.call(SaveScene, "/elvsm/save_scene", SaveScene.Request(name="../" + "x" * 2_000_000))
        assert not answer.success and len(answer.message) < 400
    lines = [line for line in list(node.lines) if "is not one of rgb8" in line]
    assert len(lines) < 10 and all(len(line) < 400 and line.isprintable() for line in lines)
    answers(peer)


def test_frames_that_change_with_every_pose(pair: tuple[NodeProcess, Peer]) -> None:
    node, peer = pair
    mark = len(node.lines)
    for i in range(300):
        frame = "frame_" + "".join(chr(97 + int(digit)) for digit in str(i))
        peer.send_pose(peer.next_stamp(0.01), pose_at(9.0), frame)
        time.sleep(0.002)
    node.wait_for("but the world frame is 'map'")
    answers(peer)
    assert len([line for line in list(node.lines)[mark:] if "but the world frame is" in line]) < 10


def reset(peer: Peer) -> None:
    answer = peer.call(Trigger, "/elvsm/reset", Trigger.Request())
    assert answer.success, answer.message


def test_a_bad_pose_does_not_decide_the_world_frame_and_reset_helps_against_a_wrong_one(
    pair: tuple[NodeProcess, Peer],
) -> None:
    node, peer = pair
    reset(peer)
    peer.pose.publish(
        PoseStamped(header=header(peer.next_stamp(), "nowhere"), pose=Pose(position=Point(x=float("nan"))))
    )
    node.wait_for("pose has NaN")
    peer.insert(picture(0), pose_at(0.0))
    reset(peer)
    peer.send_pose(peer.next_stamp(), pose_at(0.0), "wrong")
    peer.send_frame(picture(0), pose_at(0.0))
    peer.wait_for_status(lambda s: "but the world frame is 'wrong'" in s.last_error, "what is wrong")
    reset(peer)
    peer.insert(picture(0), pose_at(0.0))
    answers(peer)


def test_a_strip_is_rendered_without_taking_its_length_squared(pair: tuple[NodeProcess, Peer]) -> None:
    _, peer = pair
    for width, height in ((1, 1000), (1000, 1), (3, 8000)):
        answer = peer.render([pose_at(0.1)], width=width, height=height, timeout=20.0)
        assert answer.success, answer.message
        assert (answer.images[0].width, answer.images[0].height) == (width, height)


def test_scene_files_that_cannot_be_sent_about_and_links_to_themselves(
    pair: tuple[NodeProcess, Peer], folder: Path
) -> None:
    node, peer = pair
    saved = peer.call(SaveScene, "/elvsm/save_scene", SaveScene.Request(name="good"))
    assert saved.success, saved.message
    before = peer.render([pose_at(0.1)]).images[0].data
    stored = read_scene(folder / "good.safetensors")
    for frame in ("\ud800", "x" * 1000, "\x1b[2J"):
        odd = dataclasses.replace(stored, extra={**stored.extra, "world_frame": frame})
        write_scene(folder / "odd.safetensors", odd, {})
        answer = peer.call(LoadScene, "/elvsm/load_scene", LoadScene.Request(name="odd"))
        assert not answer.success and "no elvsm node wrote" in answer.message, answer.message
    (folder / "NVML.safetensors").symlink_to(folder / "NVML.safetensors")
    for kind, name in ((LoadScene, "load_scene"), (SaveScene, "save_scene")):
        answer = peer.call(kind, f"/elvsm/{name}", kind.Request(name="NVML"))
        assert kind is SaveScene or not answer.success, answer.message
    assert "the device failed" not in node.output and state(peer) == State.PRIMARY_STATE_ACTIVE
    assert peer.render([pose_at(0.1)]).images[0].data == before
    assert peer.fresh_status().keyframes == len(stored.views)


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
    with frugal(node, 200):  # all images would be 330 MB; answers of 12 MB each come and go
        for i in range(80):
            peer.send_frame(rgb, pose_at(0.3 * i), camera)
            time.sleep(0.02)
        status = peer.fresh_status()
        assert status.images_dropped > dropped + 40, status
        pause(peer, True)  # does not wait for the renders either
    assert not all(future.done() for future in futures), (
        "the renders were too quick for this to show anything"
    )
