"""Renders while the scene changes under them: each is of one state, the old one or the new one, told by its values."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from rig import CAMERA, Peer, camera_at, header, picture, pixels, pose_at, running, wait_until
from std_srvs.srv import Trigger

import elvsm_core as ec
from elvsm.msg import Keyframes, PoseUpdates
from elvsm.srv import SaveScene
from elvsm_core.files.scene_reading import read_scene
from elvsm_ros import conversions

pytestmark = pytest.mark.ros

OLD = [pose_at(0.5 * i) for i in range(6)]
BENT = [pose_at(0.5 * i, 0.2 * i, 0.1 * i) for i in range(6)]
T_NEW_OLD = pose_at(3.0, 0.4, 1.0)
TARGETS = [pose_at(0.3 + 0.2 * i, 0.1) for i in range(12)]
NATIVE = CAMERA.fitted(32, 32)


class Listed:
    """The list of keyframes as the node publishes it, and a way to correct it."""

    def __init__(self, peer: Peer):
        self.messages: list[Keyframes] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        peer.node.create_subscription(Keyframes, "/elvsm/keyframe_list", self.messages.append, latched)
        self._publisher = peer.node.create_publisher(PoseUpdates, "/elvsm/pose_updates", 10)
        wait_until(self._publisher.get_subscription_count, "the node to listen to pose updates")

    @property
    def ids(self) -> list[int]:
        return list(self.messages[-1].ids) if self.messages else []

    def correct(self, ids: list[int], poses: list[np.ndarray], expected: list[np.ndarray]) -> None:
        """Send a correction, and wait until the keyframes are where they should be."""
        self._publisher.publish(
            PoseUpdates(
                header=header(0, "map"), ids=ids, poses=[conversions.matrix_to_pose(T) for T in poses]
            )
        )

        def there() -> bool:
            found = [conversions.pose_to_matrix(pose) for pose in self.messages[-1].poses]
            return len(found) == len(expected) and np.allclose(found, expected, atol=1e-9)

        wait_until(there, "the keyframes where they should be")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def pair(small_model: Path, folder: Path) -> Iterator[tuple[Peer, Listed]]:
    with running(model=str(small_model), scene_directory=str(folder)) as (_, peer):
        yield peer, Listed(peer)


@pytest.fixture
def scene(pair: tuple[Peer, Listed]) -> tuple[Peer, Listed]:
    """Return the peer of a node with keyframes at OLD."""
    peer, listed = pair
    assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
    wait_until(lambda: not listed.ids, "an empty list")
    for i, T in enumerate(OLD):
        peer.insert(picture(i), T)
    wait_until(lambda: len(listed.ids) == len(OLD), "a list of all keyframes")
    return peer, listed


def show(peer: Peer, targets: list[np.ndarray]) -> np.ndarray:
    answer = peer.render(targets)
    assert answer.success, answer.message
    return np.stack([pixels(image) for image in answer.images]).astype(int)


def fresh(model: Path, poses: list[np.ndarray]) -> ec.Scene:
    """Return a scene that was built with these poses from the first."""
    made = ec.Scene(ec.load_model(model, device="cpu"))
    for i, T in enumerate(poses):
        made.insert(picture(i), camera_at(T))
    return made


def offline(scene: ec.Scene, targets: list[np.ndarray]) -> np.ndarray:
    """Return what the node should show: 8 targets at a time share their keyframes."""
    parts = [targets[start : start + 8] for start in range(0, len(targets), 8)]
    return np.concatenate(
        [scene.render([camera_at(T, NATIVE) for T in part], max_views=4).images for part in parts]
    ).astype(int)


@pytest.mark.parametrize("rigid", [False, True], ids=["poses of keyframes", "one rigid correction"])
def test_after_a_loop_closure_renders_are_those_of_a_scene_built_with_the_corrected_poses(
    scene: tuple[Peer, Listed], small_model: Path, folder: Path, rigid: bool
) -> None:
    peer, listed = scene
    before = show(peer, TARGETS)
    if rigid:
        poses, targets = [T_NEW_OLD @ T for T in OLD], [T_NEW_OLD @ T for T in TARGETS]
        listed.correct([], [T_NEW_OLD], poses)
    else:
        poses, targets = BENT, TARGETS
        listed.correct(listed.ids[1:], BENT[1:], BENT)
    after = show(peer, targets)
    # In the frame that the node's scene has: it depends on what came before, as that of any scene does.
    assert peer.call(SaveScene, "/elvsm/save_scene", SaveScene.Request(name="now")).success
    stored = read_scene(folder / "now.safetensors")
    built = fresh(small_model, poses)
    built.adopt(built.unpack(dataclasses.replace(built.snapshot(), frame=stored.frame)))
    np.testing.assert_allclose(
        [stored.views[view].camera.T_world_cam for view in listed.ids], built.poses, rtol=0, atol=1e-9
    )
    expected = offline(built, targets)
    assert np.abs(after - expected).max() <= 1
    assert np.mean(after != expected) < 1e-3, "but for rounding, the same bits"
    if rigid:
        assert np.abs(after - before).max() <= 1, "the same pictures from the same places in the map"
    else:
        assert np.abs(after - before).max() > 5


class Clients:
    """Clients that ask for renders all the time, in threads of their own, until `stop`."""

    def __init__(self, peer: Peer, requests: list[list[np.ndarray]]):
        self._peer, self._done = peer, threading.Event()
        self.shown: list[list[np.ndarray]] = [[] for _ in requests]
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(targets, shown))
            for targets, shown in zip(requests, self.shown, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, targets: list[np.ndarray], shown: list[np.ndarray]) -> None:
        while not self._done.is_set():
            answer = self._peer.render(targets)
            if answer.success:
                shown.append(np.stack([pixels(image) for image in answer.images]).astype(int))
            else:
                self.failures.append(answer.message)

    def wait_for(self, more: int) -> None:
        """Wait until each client has got so many more answers."""
        goals = [len(shown) + more for shown in self.shown]
        wait_until(
            lambda: all(len(shown) >= goal for shown, goal in zip(self.shown, goals, strict=True)),
            "more answers",
        )

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def fitting(images: np.ndarray, expected: list[np.ndarray]) -> list[int]:
    """Return the states that an answer may be of, all its images together; fail if it is of none."""
    found = [k for k, wanted in enumerate(expected) if np.abs(images - wanted).max() <= 1]
    assert found, "an answer is of none of the states: a mixture"
    return found


def test_loop_closures_under_load(scene: tuple[Peer, Listed]) -> None:
    peer, listed = scene
    requests = [TARGETS[8:9], TARGETS[5:6], TARGETS]
    # There and back once: the first frame was that of a camera on its way, and does not return.
    for poses in (BENT, OLD):
        listed.correct(listed.ids, poses, poses)
    expected = [[show(peer, targets) for targets in requests]]
    listed.correct(listed.ids, BENT, BENT)
    expected.append([show(peer, targets) for targets in requests])
    assert min(np.abs(a - b).max() for a, b in zip(*expected, strict=True)) > 5
    clients = Clients(peer, requests)
    try:
        for poses in [OLD, BENT] * 5:
            listed.correct(listed.ids, poses, poses)
            clients.wait_for(1)
    finally:
        clients.stop()
    assert not clients.failures
    for place, shown in enumerate(clients.shown):
        found = [fitting(images, [expected[0][place], expected[1][place]]) for images in shown]
        assert [0] in found and [1] in found, "both states were seen, and nothing else"


def test_keyframes_come_and_the_frame_is_chosen_anew_under_load(
    scene: tuple[Peer, Listed], small_model: Path
) -> None:
    """While a camera walks out of the range of the scene's frame again and again."""
    peer, listed = scene
    walk = [pose_at(3.0 + 0.6 * i, 0.05 * i) for i in range(10)]
    built = fresh(small_model, OLD)
    requests = [[pose_at(5.0, 0.1)], [pose_at(6.5, 0.2)]]
    expected = [[offline(built, targets) for targets in requests]]
    frames = [built.frame]
    for i, T in enumerate(walk):
        built.insert(picture(10 + i), camera_at(T))
        expected.append([offline(built, targets) for targets in requests])
        frames.append(built.frame)
    assert len({id(frame) for frame in frames}) > 3, "the frame was never chosen anew: the test shows nothing"
    clients = Clients(peer, requests)
    try:
        clients.wait_for(1)
        for i, T in enumerate(walk):
            peer.insert(picture(10 + i), T)
            clients.wait_for(1)
    finally:
        clients.stop()
    assert not clients.failures and len(listed.ids) == len(OLD) + len(walk)
    for place, shown in enumerate(clients.shown):
        now, seen = 0, set()
        for images in shown:
            possible = fitting(images, [state[place] for state in expected])
            now = min((k for k in possible if k >= now), default=-1)
            assert now >= 0, "a render went back to what had been before"
            seen.add(now)
        assert len(seen) > 3


def test_resets_and_renders(scene: tuple[Peer, Listed]) -> None:
    """What is asked for while the scene is forgotten shows all of it, or is told that there is nothing."""
    peer, _ = scene
    expected = show(peer, TARGETS)
    clients = Clients(peer, [TARGETS, TARGETS])
    try:
        clients.wait_for(1)
        for _ in range(3):
            assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
            wait_until(lambda: clients.failures, "a request after the reset")
            for i, T in enumerate(OLD):
                peer.insert(picture(i), T)
            clients.wait_for(1)
    finally:
        clients.stop()
    assert all("no keyframe yet" in message for message in clients.failures)
    assert np.abs(show(peer, TARGETS) - expected).max() <= 1
