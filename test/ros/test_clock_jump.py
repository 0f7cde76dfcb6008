"""Clocks that are set back: told from late messages, and never a scene of two runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rig import CAMERA, START, NodeProcess, Peer, header, picture, pixels, pose_at, wait_until

from elvsm_core.keyframes import admit
from elvsm_ros import conversions
from elvsm_ros.input.clock_jumps import SECOND, Timeline
from elvsm_ros.input.image_intake import Candidate, Intake
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings


def orders(timeline: Timeline, stream: str, seconds: list[float]) -> str:
    """Return one letter for each stamp: N, O, J or S."""
    return "".join(timeline.see(stream, round(s * SECOND)).name[0] for s in seconds)


def test_late_messages_are_no_jump() -> None:
    timeline = Timeline()
    assert orders(timeline, "pose", [10, 11, 10.5, 12, 3, 12.5, 3.1, 13, 3.2, 13.5]) == "NNNNONONON"
    assert orders(timeline, "pose", [3.3, 3.2, 3.1, 3.0]) == "OOOO"  # backwards: no clock runs like that


def test_three_in_a_row_are_a_jump_and_leftovers_are_told_apart() -> None:
    timeline = Timeline()
    assert orders(timeline, "pose", [100, 101]) + orders(timeline, "image", [100, 101]) == "NNNN"
    assert orders(timeline, "pose", [0, 0.1, 0.2, 0.3]) == "OOJN"
    assert orders(timeline, "image", [101.1, 0.1, 0.2, 101.2]) == "SNNN"
    assert orders(timeline, "pose", [60, 101]) == "NN"  # time goes on, as far as before and farther


def test_one_message_that_is_far_ahead_is_no_jump() -> None:
    timeline = Timeline()
    assert orders(timeline, "pose", [10, 10.1, 3610, 10.2, 10.3, 3610, 10.1, 10.4]) == "NNNBNNBN"
    # A pause is none: what follows goes on from there, and a jump back is told as ever.
    assert orders(timeline, "pose", [60, 60.1, 11, 60.2]) == "NNON"
    assert orders(timeline, "pose", [0, 0.1, 0.2, 0.3]) == "OOJN"


def test_a_recording_of_four_messages_that_starts_again() -> None:
    assert orders(Timeline(), "pose", [0, 1, 2, 3, 0, 1, 2, 3]) == "NNNNOOJN"


class Desk:
    """An intake, what comes out of it, and how often it wanted the scene to be forgotten."""

    def __init__(self, **settings: Any):
        self.lines: list[str] = []
        self.intake = Intake(Settings.from_values(settings), admit, Reports(self.lines.append, period=0.0))
        self.restarts = 0
        self.candidates: list[Candidate] = []
        self.intake.on_restart = self._restarted
        self.intake.add_camera_info(conversions.camera_info(CAMERA, header(1, "camera")))

    def _restarted(self) -> None:
        self.restarts += 1
        self.candidates.clear()

    def pose(self, stamp: int, T: np.ndarray) -> None:
        self.intake.add_pose(header(stamp, "map").stamp, "map", conversions.matrix_to_pose(T))
        self.candidates += self.intake.poll(0.0)

    def image(self, stamp: int, now: float = 0.0) -> None:
        self.intake.add_image(conversions.rgb_to_image(picture(0), header(stamp, "camera")), now)
        self.candidates += self.intake.poll(now)

    @property
    def places(self) -> list[float]:
        return [float(candidate.T_world_cam[0, 3]) for candidate in self.candidates]


STEP = SECOND // 5


def walk(desk: Desk, y: float, images_lag: int = 0, poses_lag: int = 0) -> None:
    """Show a walk of 10 images and poses, 2 s long; either stream may lag behind by some messages."""
    for i in range(10 + max(images_lag, poses_lag)):
        if 0 <= i - poses_lag < 10:
            desk.pose((i - poses_lag) * STEP, pose_at(float(i - poses_lag), y=y))
        if 0 <= i - images_lag < 10:
            desk.image((i - images_lag) * STEP)


@pytest.mark.parametrize(("images_lag", "poses_lag"), [(0, 0), (2, 0), (0, 2), (5, 0), (0, 5)])
def test_a_walk_played_again_gives_the_same_keyframes_of_the_second_run_alone(
    images_lag: int, poses_lag: int
) -> None:
    desk = Desk(sync_timeout=60.0)
    walk(desk, 0.0, images_lag, poses_lag)
    assert desk.places == [float(i) for i in range(10)] and desk.restarts == 0
    walk(desk, 7.0, images_lag, poses_lag)
    assert desk.restarts == 1
    assert desk.places == [float(i) for i in range(10)]
    assert {float(c.T_world_cam[1, 3]) for c in desk.candidates} == {7.0}
    assert sum("the scene is forgotten (on_time_jump: reset)" in line for line in desk.lines) == 1


def test_the_scene_may_be_kept() -> None:
    desk = Desk(on_time_jump="continue", sync_timeout=60.0)
    walk(desk, 0.0)
    walk(desk, 0.0)
    assert desk.restarts == 0 and len(desk.candidates) == 10  # everything is known already
    walk(desk, 7.0)
    assert len(desk.candidates) == 20
    assert any("the scene is kept" in line for line in desk.lines)


def test_a_late_image_is_refused_and_nothing_else_happens() -> None:
    desk = Desk()
    walk(desk, 0.0)
    desk.image(SECOND // 10, now=0.0)
    assert desk.intake.counters.images_rejected == 0
    desk.candidates += desk.intake.poll(2.1)
    assert desk.intake.counters.images_rejected == 1 and "more than a second older" in desk.lines[-1]
    assert desk.restarts == 0 and len(desk.candidates) == 10


# Over DDS


def test_a_walk_played_twice_over_dds(start_node: Callable[..., NodeProcess], peer: Peer) -> None:
    node = start_node(status_period=0.1, log_period=0.0)
    node.wait_for("active")
    wait_until(peer.connected, "the node and its peer to find each other")
    renders = []
    for run in range(2):
        peer._stamp = START
        for i in range(12):
            received = peer.status.images_received
            peer.send_frame(picture(i), pose_at(0.5 * i, y=7.0 * run))
            peer.wait_for_status(lambda s, n=received: s.images_received > n, "the image's arrival")
        peer.wait_for_status(lambda s: s.keyframes == 12 and s.queue_length == 0, "12 keyframes")
        positions = [(p.position.x, p.position.y) for p in peer.keyframes[-1].poses]
        assert positions == [(0.5 * i, 7.0 * run) for i in range(12)]
        answer = peer.render([pose_at(2.6, y=7.0 * run)])
        assert answer.success, answer.message
        renders.append(pixels(answer.images[0]).astype(int))
    # The same scene, 7 m off: were there anything of the first run in it, it would show.
    assert np.abs(renders[0] - renders[1]).max() <= 1
    assert sum("the scene is forgotten" in line for line in node.lines) == 1, node.output
