"""Requests in pieces and together: the same answers as each one alone, and nobody waits for a large one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rig import CAMERA, PATIENCE, picture, pose_at

import elvsm_core as ec
from elvsm_ros.device_scene import SIZES, TARGETS, DeviceScene
from elvsm_ros.keyframes.corrections import Correction
from elvsm_ros.parameters.table import Settings
from elvsm_ros.rendering.render_task import GROUP, RenderTask
from elvsm_ros.rendering.requests import Query, RequestError
from elvsm_ros.worker import StoppedError, Worker

WANTED = CAMERA.fitted(32, 32)


def query(*poses: np.ndarray, max_views: int | None = 2, size: tuple[int, int] = (32, 32)) -> Query:
    return Query(list(poses), CAMERA.fitted(size[1], size[0]), size, max_views)


class Rig:
    """A worker with a scene of a few keyframes; decodes are counted, and may be held up."""

    def __init__(self, model: Path, keyframes: int = 5, spread: float = 0.2):
        settings = Settings.from_values({"model": str(model), "device": "cpu"})
        self.worker: Worker[DeviceScene] = Worker(lambda: DeviceScene(settings))
        self.decodes: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.pool = ThreadPoolExecutor(2, "pool")
        self.finishers: list[str] = []
        self.worker.call(lambda engine: self.fill(engine, keyframes, spread)).result(PATIENCE)

    def fill(self, engine: DeviceScene, keyframes: int, spread: float) -> None:
        self.scene = engine.scene
        for i in range(keyframes):
            camera = ec.Camera(70, 70, 48, 32, 96, 64, pose_at(spread * i))
            self.scene.insert(picture(i), camera)
        render = self.scene.render_async

        def counted(cameras: list[ec.Camera], *args: Any, **kwargs: Any) -> Any:
            assert self.go.wait(PATIENCE)
            self.decodes.append(len(cameras))
            return render(cameras, *args, **kwargs)

        self.scene.render_async = counted  # type: ignore[method-assign]

    def alone(self, wanted: Query) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Return what the scene gives for a request by itself, group by group."""
        images, support, views = [], [], set()
        for start in range(0, len(wanted.T_world_cam), GROUP):
            camera = wanted.camera
            numbers = camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height
            cameras = [ec.Camera(*numbers, T) for T in wanted.T_world_cam[start : start + GROUP]]
            out = ec.Scene.render(self.scene, cameras, wanted.max_views)
            images.append(out.images)
            support.append(out.support)
            views.update(out.views)
        return np.concatenate(images), np.concatenate(support), sorted(views)

    def submit(self, wanted: Query, pool: bool = False, quick: bool = False) -> RenderTask:
        def finish(images: Any) -> list[np.ndarray]:
            self.finishers.append(threading.current_thread().name)
            return [image.copy() for image in images]

        task = RenderTask(wanted, finish, self.pool if pool else None, quick=quick)
        self.worker.submit(task)
        return task

    def check(self, task: RenderTask) -> None:
        """Hold an answer against what the request gets by itself."""
        answer = task.future.result(PATIENCE)
        images, support, views = self.worker.call(lambda engine: self.alone(task.query)).result(PATIENCE)
        # At most one step of 255 in a few numbers: sums of another batch size, rounded to eight bits.
        difference = np.abs(np.stack(answer.messages).astype(int) - images)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
        np.testing.assert_array_equal(answer.support, support)
        assert answer.views == views


@pytest.fixture
def rig(small_model: Path, monkeypatch: Any) -> Iterator[Rig]:
    monkeypatch.setattr(
        "elvsm_ros.rendering.decode_pacing.SLICE", 60.0
    )  # what holds the tests' decodes up is no slow device
    rig = Rig(small_model)
    yield rig
    rig.go.set()
    assert rig.worker.stop(PATIENCE)
    rig.pool.shutdown()


def test_the_devices_thread_finishes_what_is_quick_unless_others_wait(rig: Rig) -> None:
    rig.submit(query(pose_at(0.1)), pool=True, quick=True).future.result(PATIENCE)
    assert not rig.finishers.pop().startswith("pool")
    rig.submit(query(pose_at(0.1)), pool=True).future.result(PATIENCE)
    assert rig.finishers.pop().startswith("pool")
    rig.go.clear()
    first = rig.submit(query(pose_at(0.1)), pool=True, quick=True)
    time.sleep(0.05)  # the device has taken it alone
    second, third = (rig.submit(query(pose_at(x)), pool=True, quick=True) for x in (0.7, 0.1))
    rig.go.set()
    for task in (first, second, third):
        task.future.result(PATIENCE)
    assert sum(name.startswith("pool") for name in rig.finishers) == 1  # the second


@pytest.mark.parametrize("pool", [False, True])
def test_requests_of_equal_plans_share_a_decode_and_get_what_they_get_alone(rig: Rig, pool: bool) -> None:
    rig.go.clear()
    first = rig.submit(query(pose_at(0.1)), pool)
    time.sleep(0.05)  # the device has taken it alone
    near = [rig.submit(query(pose_at(0.1 + 0.001 * i), pose_at(0.11)), pool) for i in range(3)]
    elsewhere = rig.submit(query(pose_at(0.7)), pool)
    other_size = rig.submit(query(pose_at(0.1), size=(32, 48)), pool)
    more_views = rig.submit(query(pose_at(0.1), max_views=3), pool)
    rig.go.set()
    tasks = [first, *near, elsewhere, other_size, more_views]
    for task in tasks:
        task.future.result(PATIENCE)
    assert sorted(rig.decodes) == [1, 1, 1, 1, 6], "three requests of two should share one decode"
    for task in tasks:
        rig.check(task)
    assert first.future.result().views != elsewhere.future.result().views


def test_requests_far_from_the_robot_share_decodes_as_well(rig: Rig) -> None:
    far = [query(pose_at(5.0 + 0.001 * i)) for i in range(3)]
    plans = [
        rig.worker.call(lambda engine, q=q: engine.scene.plan(RenderTask(q, list).cameras, 2)) for q in far
    ]
    assert all(plan.result(PATIENCE).frame is not None for plan in plans)
    rig.go.clear()
    first = rig.submit(query(pose_at(0.1)))
    time.sleep(0.05)
    tasks = [first, *(rig.submit(wanted) for wanted in far)]
    rig.go.set()
    for task in tasks:
        task.future.result(PATIENCE)
    assert sorted(rig.decodes) == [1, 3]
    for task in tasks:
        rig.check(task)


def test_a_large_request_is_cut_and_others_come_between(rig: Rig) -> None:
    rig.go.clear()
    large = rig.submit(query(*(pose_at(0.01 * i) for i in range(5 * GROUP + 3))), pool=True)
    small = rig.submit(query(pose_at(0.75, yaw=0.2)))
    ended: list[str] = []
    large.future.add_done_callback(lambda _: ended.append("large"))
    small.future.add_done_callback(lambda _: ended.append("small"))
    inserted = rig.worker.offer(lambda engine: ended.append("keyframe"))
    rig.go.set()
    for future in (large.future, small.future, inserted):
        future.result(PATIENCE)
    assert ended == ["keyframe", "small", "large"]
    assert max(rig.decodes) <= GROUP and sum(rig.decodes) == 5 * GROUP + 4
    rig.check(large)
    rig.check(small)


def test_slow_devices_get_smaller_pieces_and_the_same_keyframes(rig: Rig, monkeypatch: Any) -> None:
    whole = rig.submit(query(*(pose_at(0.1 * i) for i in range(GROUP))))
    whole.future.result(PATIENCE)
    monkeypatch.setattr("elvsm_ros.rendering.decode_pacing.SLICE", 1e-9)
    pieces = rig.submit(query(*(pose_at(0.1 * i) for i in range(GROUP))))
    pieces.future.result(PATIENCE)
    assert rig.decodes == [GROUP] + [1] * GROUP
    rig.check(whole)
    rig.check(pieces)


def test_keyframes_that_come_and_go_between_pieces_leave_a_request_whole(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr("elvsm_ros.rendering.decode_pacing.SLICE", 1e-9)
    rig.submit(query(pose_at(0.1))).future.result(PATIENCE)  # the device turns out to be slow
    rig.go.clear()
    large = rig.submit(query(*(pose_at(0.02 * i) for i in range(GROUP))))
    insert = rig.worker.offer(
        lambda engine: engine.scene.insert(picture(9), ec.Camera(70, 70, 48, 32, 96, 64, pose_at(0.05)))
    )
    evict = rig.worker.offer(lambda engine: [engine.scene.evict(view) for view in engine.scene.views[:2]])
    rig.go.set()
    insert.result(PATIENCE), evict.result(PATIENCE)
    answer = large.future.result(PATIENCE)
    assert len(answer.messages) == GROUP and 0 in answer.views and set(answer.views) - {0, 1}


def test_bad_luck_of_one_is_not_that_of_the_others(rig: Rig, monkeypatch: Any) -> None:
    render = rig.scene.render_async

    def picky(cameras: list[ec.Camera], *args: Any, **kwargs: Any) -> Any:
        if any(camera.T_world_cam[0, 3] == 0.1 for camera in cameras):
            raise RuntimeError("the device stumbled")
        return render(cameras, *args, **kwargs)

    rig.go.clear()
    first = rig.submit(query(pose_at(0.12)))
    time.sleep(0.05)
    monkeypatch.setattr(rig.scene, "render_async", picky)
    good, bad, late = (rig.submit(query(pose_at(x))) for x in (0.11, 0.1, 0.12))
    rig.go.set()
    for task in (first, good, late):
        assert len(task.future.result(PATIENCE).messages) == 1
    with pytest.raises(RuntimeError, match="stumbled"):
        bad.future.result(PATIENCE)


def test_an_empty_scene_and_a_closed_desk_are_told(rig: Rig) -> None:
    rig.pool.shutdown()
    with pytest.raises(StoppedError):
        rig.submit(query(pose_at(0.1)), pool=True).future.result(PATIENCE)
    rig.worker.call(lambda engine: engine.clear()).result(PATIENCE)
    with pytest.raises(RequestError, match="no keyframe yet"):
        rig.submit(query(pose_at(0.1))).future.result(PATIENCE)


def test_idle_work_encodes_what_a_correction_moved(small_model: Path) -> None:
    settings = Settings.from_values({"model": str(small_model), "device": "cpu"})
    worker: Worker[DeviceScene] = Worker(lambda: DeviceScene(settings), idle=lambda engine: engine.tidy())
    try:

        def setup(engine: DeviceScene) -> None:
            for i in range(4):
                engine.scene.insert(picture(i), ec.Camera(70, 70, 48, 32, 96, 64, pose_at(0.1 * i)))
            engine.correct(Correction({2: pose_at(0.25), 3: pose_at(0.33)}))
            assert engine.scene.stale

        worker.call(setup).result(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if not worker.call(lambda engine: engine.scene.stale).result(PATIENCE):
                return
        pytest.fail("keyframes that were moved were not encoded again while nobody asked for anything")
    finally:
        assert worker.stop(PATIENCE)


def test_idle_work_prepares_for_the_sizes_that_are_asked_for(small_model: Path, monkeypatch: Any) -> None:
    """As on a GPU; what is prepared for is noted here, and not done."""
    engine = DeviceScene(Settings.from_values({"model": str(small_model), "device": "cpu", "max_views": 2}))
    for i in range(3):
        engine.scene.insert(picture(i), ec.Camera(70, 70, 48, 32, 96, 64, pose_at(0.1 * i)))
    engine._cuda = True
    prepared: list[Any] = []
    engine.scene.warm_up = lambda *kinds: prepared.append(kinds)  # type: ignore[method-assign, assignment]
    engine.render(query(pose_at(0.1), size=engine.native_size))
    engine.render(query(pose_at(0.1), size=(32, 48)))
    monkeypatch.setattr("elvsm_ros.device_scene.CALM", 600.0)
    assert engine.tidy() and not prepared, "there may be more requests coming"
    monkeypatch.setattr("elvsm_ros.device_scene.CALM", 0.0)
    while engine.tidy():
        assert len(prepared) <= len(TARGETS)
    assert prepared == [([(32, 48)], [2], [count]) for count in TARGETS], "one after the other"
    for size in range(1, 2 * SIZES):
        engine.render(query(pose_at(0.1), size=(32, 48 + 8 * size)))
    while engine.tidy():
        assert len(prepared) <= len(TARGETS) * SIZES, "there are as many sizes as clients think of"
