"""Candidates, the device's thread and the books about keyframes, with the real engine and no node around it."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rig import CAMERA, header, picture, pose_at
from sensor_msgs.msg import CameraInfo

from elvsm_core.keyframes import admit
from elvsm_ros import conversions
from elvsm_ros.device_scene import DeviceScene
from elvsm_ros.input.image_intake import Intake
from elvsm_ros.keyframes.corrections import Correction
from elvsm_ros.keyframes.keyframe_queue import KeyframeFeed
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings
from elvsm_ros.rendering import requests
from elvsm_ros.worker import Worker

PATIENCE = 20


class Rig:
    """A feed whose executor is the test: `settle` runs what other threads handed over."""

    def __init__(self, model: Path, **settings: Any):
        self.settings = Settings.from_values({"model": str(model), "device": "cpu", **settings})
        self.lines: list[str] = []
        reports = Reports(self.lines.append, period=0.0)
        self.worker: Worker[DeviceScene] = Worker(
            lambda: DeviceScene(self.settings), self.settings.insert_queue, self.settings.render_queue
        )
        self.worker.started.result(60)
        self.intake = Intake(self.settings, admit, reports)
        self.changes = 0
        self._handed_over: list[tuple[Any, ...]] = []
        self.feed = KeyframeFeed(self.intake, self.worker, reports, self._later, self._changed)
        self._stamp = 0

    def _later(self, *call: Any) -> None:
        self._handed_over.append(call)

    def _changed(self) -> None:
        self.changes += 1

    def show(self, T: np.ndarray, seed: int = 0, **changes: Any) -> None:
        """Let a frame arrive."""
        self._stamp += 10**9
        stamp = header(self._stamp, "map")
        self.intake.add_camera_info(conversions.camera_info(CAMERA, stamp))
        self.intake.add_pose(stamp.stamp, "map", conversions.matrix_to_pose(T))
        message = conversions.rgb_to_image(picture(seed), stamp)
        for name, value in changes.items():
            setattr(message, name, value)
        self.intake.add_image(message, time.monotonic())
        self.feed.advance()

    def block(self) -> threading.Event:
        """Keep the device busy until the event is set."""
        entered, leave = threading.Event(), threading.Event()

        def job(engine: DeviceScene) -> None:
            entered.set()
            leave.wait(PATIENCE)

        self.worker.call(job)
        assert entered.wait(PATIENCE)
        return leave

    def settle(self) -> None:
        """Wait until the device is through with what was asked, and take note of it, and of what follows."""
        busy = True
        while busy:
            while len(self.worker):
                self.worker.call(lambda engine: None).result(PATIENCE)
            self.worker.call(lambda engine: None).result(PATIENCE)
            busy = bool(self._handed_over)
            while self._handed_over:
                callback, *args = self._handed_over.pop(0)
                callback(*args)

    @staticmethod
    async def wait(future: Future) -> Any:
        return future.result(PATIENCE)

    def render(self, T: np.ndarray, **fields: Any) -> np.ndarray:
        context = requests.Context(self.settings, "map", CAMERA, (32, 32), 8)
        pose = conversions.matrix_to_pose(T)
        query = requests.parse(context, "", [pose], CameraInfo(), 0, 0, 0, "")
        rendered = self.worker.call(lambda engine: engine.render(query)).result(PATIENCE)
        return rendered.images[0]


@pytest.fixture
def make(small_model: Path) -> Any:
    rigs: list[Rig] = []

    def make(**settings: Any) -> Rig:
        rigs.append(Rig(small_model, **settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        assert rig.worker.stop(PATIENCE)


def test_candidates_become_keyframes_in_order(make: Any) -> None:
    rig = make()
    for i in range(4):
        rig.show(pose_at(0.5 * i), i)
    rig.settle()
    positions = [pose.position.x for pose in rig.feed.keyframes.values()]
    assert positions == [0.0, 0.5, 1.0, 1.5]
    assert rig.feed.inserted == rig.changes == 4 and rig.lines == []


def test_a_busy_device_gets_the_newest_and_the_dropped_may_come_again(make: Any) -> None:
    rig = make(insert_queue=2)
    leave = rig.block()
    for i in range(7):  # two wait to be judged, and two, as keyframes, for the device
        rig.show(pose_at(0.5 * i), i)
    assert rig.intake.backlog == 2  # which is part of ~/status's queue_length
    leave.set()
    rig.settle()
    assert rig.intake.backlog == 0
    assert [pose.position.x for pose in rig.feed.keyframes.values()] == [1.5, 2.0, 2.5, 3.0]
    assert rig.intake.counters.images_dropped == 3
    rig.show(pose_at(0.5), 1)
    rig.settle()
    assert [pose.position.x for pose in rig.feed.keyframes.values()] == [1.5, 2.0, 2.5, 3.0, 0.5]


def test_what_becomes_a_keyframe_does_not_depend_on_the_devices_speed(make: Any) -> None:
    """A damaged picture and an eviction free places: whoever comes next finds them free, however soon."""
    found = []
    for quick in (True, False):
        rig = make(max_keyframes=4)
        leave = rig.block() if not quick else threading.Event()
        for i, x in enumerate([0.0, 1.0, 1.05, 2.0, 3.0, 4.0, 0.05, 5.0, 1.1, 6.0]):
            rig.show(pose_at(x), i, **({"encoding": "32FC1"} if i in (1, 5) else {}))
            if quick:
                rig.settle()
        leave.set()
        rig.settle()
        found.append(list(rig.feed.stamps.values()))
        assert rig.intake.counters.images_dropped == 0 and rig.feed.evicted > 0
        assert rig.intake.counters.images_rejected == 2
    assert found[0] == found[1] and len(found[0]) == 4


def test_an_image_that_turns_out_bad_leaves_everything_as_it_was(make: Any) -> None:
    rig = make()
    rig.show(pose_at(0.0), 1)
    rig.settle()
    before = rig.render(pose_at(0.1))
    rig.show(pose_at(1.0), 2, encoding="32FC1")
    rig.settle()
    assert rig.intake.counters.images_rejected == 1 and "'32FC1'" in rig.lines[0]
    assert len(rig.feed.keyframes) == 1
    np.testing.assert_array_equal(rig.render(pose_at(0.1)), before)
    rig.show(pose_at(1.0), 2)
    rig.settle()
    assert len(rig.feed.keyframes) == 2


def test_a_fault_of_the_device_is_named_and_the_next_image_is_taken(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()

    def fail(self: DeviceScene, candidate: Any, rgb: Any) -> None:
        raise MemoryError("the device is full")

    with monkeypatch.context() as patch:  # a fault that cannot be had for real here
        patch.setattr(DeviceScene, "insert", fail)
        rig.show(pose_at(0.0))
        rig.settle()
    assert rig.lines == ["internal: inserting a keyframe failed: MemoryError: the device is full"]
    rig.show(pose_at(0.0))
    rig.settle()
    assert len(rig.feed.keyframes) == 1


def test_the_place_of_an_evicted_keyframe_is_free_again(make: Any) -> None:
    rig = make(max_keyframes=3)
    for i in range(5):
        rig.show(pose_at(1.0 * i), i)
    rig.settle()
    assert rig.feed.evicted == 2 and len(rig.feed.keyframes) == 3
    assert len(rig.intake.admission) == 3
    left = {pose.position.x for pose in rig.feed.keyframes.values()}
    gone = ({0.0, 1.0, 2.0, 3.0, 4.0} - left).pop()
    rig.show(pose_at(gone), 9)
    rig.settle()
    assert gone in {pose.position.x for pose in rig.feed.keyframes.values()}


def test_reset_while_images_are_under_way(make: Any) -> None:
    rig = make()
    rig.show(pose_at(0.0), 0)
    rig.settle()
    leave = rig.block()
    rig.show(pose_at(1.0), 1)
    threading.Timer(0.1, leave.set).start()
    assert asyncio.run(rig.feed.reset(rig.wait)) == 1
    rig.settle()
    assert not rig.feed.keyframes and len(rig.intake.admission) == 0
    with pytest.raises(ValueError, match="no keyframe yet"):
        rig.render(pose_at(0.0))
    # Its clock may begin anew, and what was there before keeps nothing out.
    rig._stamp = 0
    rig.show(pose_at(0.0), 5)
    rig.settle()
    assert len(rig.feed.keyframes) == 1
    assert rig.worker.call(lambda engine: len(engine.scene)).result(PATIENCE) == 1


def test_pause_lets_nothing_through_once_it_is_answered(make: Any) -> None:
    rig = make()
    leave = rig.block()
    rig.show(pose_at(0.0), 0)
    threading.Timer(0.1, leave.set).start()
    asyncio.run(rig.feed.pause(True, rig.wait))
    rig.settle()
    rig.show(pose_at(1.0), 1)
    rig.settle()
    assert not rig.feed.keyframes
    asyncio.run(rig.feed.pause(False, rig.wait))
    rig.show(pose_at(1.0), 1)
    rig.settle()
    assert len(rig.feed.keyframes) == 1


def test_a_clock_that_is_set_back_while_the_device_is_busy(make: Any) -> None:
    rig = make()
    for i in range(3):
        rig.show(pose_at(1.0 * i), i)
    rig.settle()
    leave = rig.block()
    rig.show(pose_at(3.0), 3)  # waits for the device, and must not come into the new scene
    first = rig.worker.call(lambda engine: len(engine.scene))
    rig._stamp = 0
    for i in range(5):
        rig.show(pose_at(1.0 * i, y=7.0), 10 + i)
    leave.set()
    rig.settle()
    rig.settle()
    assert sorted(pose.position.y for pose in rig.feed.keyframes.values()) == [7.0] * 5
    assert rig.worker.call(lambda engine: engine.scene.views).result(PATIENCE) == list(rig.feed.keyframes)
    assert len(rig.intake.admission) == 5
    assert first.result(PATIENCE) == 0  # the old scene went before anything else was done


def test_what_is_under_way_when_the_node_is_cleaned_up_goes_with_it(make: Any) -> None:
    rig = make()
    rig.show(pose_at(0.0), 0)
    rig.settle()
    leave = rig.block()
    for i in range(1, 4):  # one waits for the device, two wait for what becomes of it
        rig.show(pose_at(1.0 * i), i)
    rig.feed.close()
    leave.set()
    assert rig.worker.stop(PATIENCE)
    while rig._handed_over:  # what the executor still has to do is done without harm
        callback, *args = rig._handed_over.pop(0)
        callback(*args)
    rig.show(pose_at(9.0), 9)
    assert len(rig.feed.keyframes) == 1 and rig.lines == []


def test_a_correction_of_the_whole_map_drops_what_was_placed_in_the_old_one(make: Any) -> None:
    rig = make()
    rig.show(pose_at(0.0), 0)
    rig.settle()
    leave = rig.block()
    rig.show(pose_at(1.0), 1)
    rig.feed.correct(Correction({}, pose_at(10.0)))
    leave.set()
    rig.settle()
    assert [pose.position.x for pose in rig.feed.keyframes.values()] == [10.0]
    assert rig.intake.counters.images_dropped == 1
    for x, count in ((10.0, 1), (11.0, 2)):  # places moved along, and the dropped one's is free
        rig.show(pose_at(x), 2)
        rig.settle()
        assert len(rig.feed.keyframes) == count
    assert list(rig.feed.stamps) == list(rig.feed.keyframes)


def test_what_is_seen_after_a_correction_of_the_whole_map_is_not_moved_along(make: Any) -> None:
    """However busy the device is: the correction waits behind requests, and images have a line of their own."""
    rig = make(render_queue=3)
    rig.show(pose_at(0.0), 0)
    rig.settle()
    leave = rig.block()
    requests = [rig.worker.call(lambda engine: None) for _ in range(3)]  # no more of them would be taken
    rig.feed.correct(Correction({}, pose_at(10.0)))
    rig.feed.correct(Correction({}, pose_at(5.0)))
    rig.show(pose_at(16.0), 1)
    leave.set()
    for request in requests:
        request.result(PATIENCE)
    for _ in range(3):
        rig.settle()
    assert [pose.position.x for pose in rig.feed.keyframes.values()] == [15.0, 16.0]
    poses = rig.worker.call(lambda engine: engine.scene.poses[:, 0, 3].tolist()).result(PATIENCE)
    assert poses == [15.0, 16.0]
