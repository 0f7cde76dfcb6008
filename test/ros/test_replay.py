"""The same recording twice, at 1x over DDS and from the file: the same keyframes, bit-equal renders."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rig import CAMERA, NodeProcess, Peer, picture, pixels, pose_at, wait_until
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from elvsm.msg import Keyframes
from elvsm.srv import RenderViews
from elvsm_core.keyframes import admit
from elvsm_ros import conversions
from elvsm_ros.device_scene import DeviceScene
from elvsm_ros.evaluation.replay import ReplayIntake
from elvsm_ros.input.image_intake import Intake
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.node import LATCHED_QOS
from elvsm_ros.parameters.table import Settings
from elvsm_ros.recordings.bag_player import play
from elvsm_ros.recordings.bag_reader import Bag, find_streams
from elvsm_ros.recordings.bag_writer import STREAMS, CameraBagWriter
from elvsm_ros.rendering import requests
from elvsm_ros.rendering.requests import Context

SECOND = 10**9
IMAGES, RATE = 36, 12.0
VALUES = {"max_keyframes": 9, "keyframe_distance": 0.25, "keyframe_max_rate": 6.0, "max_views": 4}
TOPICS = {
    "image/compressed": STREAMS.image.name,
    "camera_info": STREAMS.camera_info.name,
    "pose": STREAMS.pose.name,
}
TARGETS = [pose_at(0.3, 0.1), pose_at(1.7, -0.2), pose_at(2.9, 0.05)]


class Damaging(CameraBagWriter):
    """Write a recording in which every seventh picture is damaged."""

    def _write(self, topic: object, stamp: int, message: object) -> None:
        if topic is STREAMS.image and round(stamp / SECOND * RATE) % 7 == 3:
            message.data = bytes(message.data)[:-60]  # type: ignore[attr-defined]
        super()._write(topic, stamp, message)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a walk there and back, with damaged pictures, and intrinsics that change in the middle."""
    path = tmp_path_factory.mktemp("recording") / "walk"
    with Damaging(path) as bag:
        for k in range(IMAGES):
            for third in range(3):
                seconds = (k + third / 3 - 0.4) / RATE
                x = 1.5 - abs(2.0 * seconds - 3.0) / 2
                bag.add_pose(round((1 + seconds) * SECOND), pose_at(2 * x, 0.3 * seconds))
            camera = CAMERA if k < IMAGES // 2 else dataclasses.replace(CAMERA, fx=80.0, fy=80.0)
            bag.add_image(round((1 + k / RATE) * SECOND), picture(k), camera)
    return path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a recording made of the scene: stamps and poses of the keyframes, and renders."""

    stamps: list[int]
    poses: np.ndarray
    images: np.ndarray


@pytest.fixture(scope="module")
def node(small_model: Path) -> Iterator[tuple[NodeProcess, Peer, list[Keyframes]]]:
    remap = [word for ours, theirs in TOPICS.items() for word in ("-r", f"{ours}:={theirs}")]
    node = NodeProcess(
        *remap, model=str(small_model), device="cpu", image_transport="compressed", status_period=0.1,
        log_period=0.0, **VALUES,
    )  # fmt: skip
    peer, lists = Peer(), []
    peer.node.create_subscription(Keyframes, "/elvsm/keyframe_list", lists.append, LATCHED_QOS)
    try:
        node.wait_for("active")
        yield node, peer, lists
    finally:
        node.close()
        peer.close()


def played(node: tuple[NodeProcess, Peer, list[Keyframes]], recording: Path, disturbed: bool) -> Outcome:
    """Play a recording at 1x into the node, with requests all the while if it is to be disturbed."""
    _, peer, lists = node
    assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
    rejected = peer.fresh_status().images_rejected
    received = peer.status.images_received
    done = threading.Event()

    def ask() -> None:
        for i in itertools.count():
            if done.wait(0.01):
                return
            poses = [conversions.matrix_to_pose(pose_at(0.01 * (i % 300)))] * (1 + 60 * (i % 2))
            peer.call(RenderViews, "/elvsm/render_views", RenderViews.Request(poses=poses))

    asking = threading.Thread(target=ask)
    if disturbed:
        asking.start()
    try:
        with Bag(recording) as bag:
            play(
                peer.node, bag, list(TOPICS.values()), threading.Event(),
                listeners=dict.fromkeys(TOPICS.values(), 1), wait=30,
            )  # fmt: skip
    finally:
        done.set()
        if disturbed:
            asking.join()
    # The last image has no pose behind it, and is given up in the end.
    peer.wait_for_status(
        lambda s: (
            s.images_received == received + IMAGES and s.images_rejected > rejected and not s.queue_length
        ),
        "every image, and what was wrong with some",
    )
    peer.fresh_status()
    assert peer.status.images_dropped == 0
    wait_until(lambda: len(lists[-1].ids) == peer.status.keyframes, "the list of keyframes")
    answer = peer.render(TARGETS)
    assert answer.success, answer.message
    return Outcome(
        [conversions.stamp_ns(stamp) for stamp in lists[-1].stamps],
        np.stack([conversions.pose_to_matrix(pose) for pose in lists[-1].poses]),
        np.stack([pixels(image) for image in answer.images]),
    )


def feed(intake: Intake, bag: Bag) -> Iterator[float]:
    """Give an intake one message of a recording after another, and yield the time of each in seconds."""
    streams = find_streams(bag)
    for topic, time, message in bag.messages(streams.names):
        if topic is streams.image:
            intake.add_image(message, time / SECOND)
        elif topic is streams.camera_info:
            intake.add_camera_info(message)
        else:
            intake.add_pose(message.header.stamp, message.header.frame_id, message.pose)
        yield time / SECOND


def offline(recording: Path, model: Path) -> Outcome:
    """Return what the same admission and scene make of the recording without a node."""
    settings = Settings.from_values({"model": str(model), "device": "cpu", **VALUES})
    engine, lines = DeviceScene(settings), []
    intake = Intake(settings, admit, Reports(lines.append, period=0.0))
    stamps: dict[int, int] = {}
    places: dict[int, int] = {}

    def judge(now: float) -> None:
        intake.collect(now)
        while (candidate := intake.next(now)) is not None:
            try:
                inserted = engine.insert(candidate)
            except ValueError:
                intake.admission.release(candidate.key)
                continue
            stamps[inserted.view], places[inserted.view] = candidate.stamp, candidate.key
            for view in inserted.evicted:
                del stamps[view]
                intake.admission.release(places.pop(view))

    with Bag(recording) as bag:
        for now in feed(intake, bag):
            judge(now)
    judge(1e9)
    context = Context(settings, "map", intake.camera, engine.native_size, engine.patch_size)
    poses = [conversions.matrix_to_pose(T) for T in TARGETS]
    query = requests.parse(context, "", poses, CameraInfo(), 0, 0, 0, "")
    rendered = engine.render(query)
    return Outcome(list(stamps.values()), engine.scene.poses, np.stack(rendered.images))


@pytest.mark.ros
def test_a_recording_played_twice(
    node: tuple[NodeProcess, Peer, list[Keyframes]], recording: Path, small_model: Path
) -> None:
    first = played(node, recording, disturbed=False)
    assert len(first.stamps) == VALUES["max_keyframes"]  # and some were evicted on the way
    again = played(node, recording, disturbed=True)
    from_file = offline(recording, small_model)
    for other in (again, from_file):
        assert other.stamps == first.stamps
        np.testing.assert_allclose(other.poses, first.poses, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(again.poses, first.poses)
    np.testing.assert_array_equal(again.images, first.images)
    # Another process, which may use another number of threads.
    assert np.abs(from_file.images.astype(int) - first.images).max() <= 1
    assert first.images.std() > 10, "flat pictures show nothing"
    status = node[1].status
    assert status.keyframes_evicted > 0 and status.images_rejected > 2


def test_the_evaluation_of_a_recording_judges_as_the_node_does(recording: Path) -> None:
    """Neither looks at pictures before it has decided: with none damaged, both choose the same."""
    settings = Settings.from_values(VALUES)
    plain = Intake(settings, admit, Reports(lambda line: None))
    witnessed = ReplayIntake(settings, admit, Reports(lambda line: None))
    with Bag(recording) as bag:
        judged = [candidate.stamp for now in feed(plain, bag) for candidate in plain.poll(now)]
    with Bag(recording) as bag:
        decisions = [decision for now in feed(witnessed, bag) for decision in witnessed.decide(now)]
    assert judged == [d.candidate.stamp for d in decisions if d.keyframe] and len(judged) > 9
