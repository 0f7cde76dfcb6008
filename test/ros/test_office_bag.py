"""The recorded walk through an office, played in real time into the node by another process."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from rig import NodeProcess, Peer, pixels, wait_until

import elvsm_core as ec
from elvsm.srv import RenderViews
from elvsm_ros import conversions
from elvsm_ros.recordings.bag_reader import Bag, PosedFrames, find_streams

pytestmark = pytest.mark.ros

TOPICS = ("/camera/image_raw/compressed", "/camera/camera_info", "/camera/pose")
EVERY = 4
"""Of the held-out frames, every fourth is rendered: the others show the same, and take their time."""


@dataclasses.dataclass
class Walk:
    """What happened while the bag was played."""

    node: NodeProcess
    peer: Peer
    demo_model: bool
    frames: list
    answers: list[RenderViews.Response] = dataclasses.field(default_factory=list)
    received: list[int] = dataclasses.field(default_factory=list)
    """Images that the node had received when each answer came."""


def demo_weights() -> bool:
    return (resources.files("elvsm_core") / "weights" / "demo.safetensors").is_file()


@pytest.fixture(scope="module")
def walk(office_bag: Path, small_model: Path) -> Iterator[Walk]:
    model = "demo" if demo_weights() else str(small_model)
    remap = [
        word
        for ours, theirs in zip(("image/compressed", "camera_info", "pose"), TOPICS, strict=True)
        for word in ("-r", f"{ours}:={theirs}")
    ]
    node = NodeProcess(*remap, model=model, image_transport="compressed")
    peer = Peer()
    player = None
    try:
        node.wait_for("active")
        peer.wait_for_status(lambda s: bool(s.model), "a model")
        with Bag(office_bag) as bag:
            frames = list(PosedFrames(bag, find_streams(bag)))
        walk = Walk(node, peer, demo_weights(), frames)
        command = [
            sys.executable,
            "-m",
            "elvsm_ros.recordings.bag_player",
            str(office_bag),
            "--topics",
            *TOPICS,
        ]
        # What is sent before the node has heard of the player is lost, which may be seconds.
        command += ["--wait", "30", "--listeners", *(f"{topic}=1" for topic in TOPICS)]
        player = subprocess.Popen(command)
        peer.wait_for_status(lambda s: s.keyframes >= 2, "the first keyframes")
        while player.poll() is None:
            received = peer.status.images_received
            target = frames[min(received, len(frames) - 1)].T_world_cam
            walk.answers.append(peer.render([target]))
            walk.received.append(peer.status.images_received)
            time.sleep(0.5)
        assert player.returncode == 0
        # What waits for the device still becomes a keyframe.
        wait_until(lambda: peer.fresh_status().queue_length == 0, "an empty queue")
        yield walk
    finally:
        if player is not None and player.poll() is None:
            player.kill()
        node.close()
        peer.close()


def test_enough_keyframes_and_nothing_lost_or_refused(walk: Walk) -> None:
    status = walk.peer.fresh_status()
    assert walk.node.alive() and "Traceback" not in walk.node.output, walk.node.output
    assert status.keyframes >= 30
    # Best effort, so a loaded machine may lose a few on the way; those that arrive are all good.
    assert status.images_received >= 110
    assert status.images_rejected <= status.images_received - 110
    assert status.keyframes == status.keyframes_inserted == len(walk.peer.keyframes[-1].poses)


def test_answers_while_images_arrive(walk: Walk) -> None:
    assert len(walk.answers) >= 5
    for answer in walk.answers:
        assert answer.success, answer.message
        assert pixels(answer.images[0]).std() > 1
    # Spread over the walk, with images arriving all the while.
    assert len(set(walk.received)) >= 5 and walk.received[0] < 60 < walk.received[-1]


def test_keyframes_are_frames_of_the_walk(walk: Walk) -> None:
    poses = [conversions.pose_to_matrix(pose) for pose in walk.peer.keyframes[-1].poses]
    recorded = np.stack([frame.T_world_cam for frame in walk.frames])
    for pose in poses:
        assert np.abs(recorded - pose).max(axis=(1, 2)).min() < 1e-6


def test_renders_of_held_out_frames_beat_the_nearest_keyframe(walk: Walk) -> None:
    if not walk.demo_model:
        pytest.skip("needs the bundled weights (elvsm_core/weights/demo.safetensors)")
    distance, angle = 0.2, np.deg2rad(15)
    stored = np.stack([conversions.pose_to_matrix(pose) for pose in walk.peer.keyframes[-1].poses])
    size = ec.load_model("demo", device="cpu").config.image_size
    cut, held_out = [], []
    for frame in walk.frames:
        c = frame.intrinsics
        camera = ec.Camera(c.fx, c.fy, c.cx, c.cy, c.width, c.height, frame.T_world_cam)
        image, camera = ec.resize_and_crop(frame.rgb(), camera, size)
        cut.append((image.numpy(), camera))
        nearest = ec.keyframes.nearest(frame.T_world_cam, stored, distance, angle)
        if nearest[1] > 1e-3:
            held_out.append((len(cut) - 1, nearest[0]))
    assert len(held_out) > 40

    def frame_of(T: np.ndarray) -> int:
        return int(np.argmin([np.abs(frame.T_world_cam - T).max() for frame in walk.frames]))

    rendered, copied = [], []
    for index, nearest_keyframe in held_out[::EVERY]:
        truth, camera = cut[index]
        answer = walk.peer.render([camera.T_world_cam], timeout=120)
        assert answer.success, answer.message
        rendered.append(psnr(pixels(answer.images[0]), truth))
        copied.append(psnr(cut[frame_of(stored[nearest_keyframe])][0], truth))
    print(
        f"\n{len(stored)} keyframes, {len(rendered)} held-out frames at {size[1]}x{size[0]}: "
        f"render {np.mean(rendered):.2f} dB, nearest keyframe {np.mean(copied):.2f} dB"
    )
    assert np.mean(rendered) >= np.mean(copied) + 4.0


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))
