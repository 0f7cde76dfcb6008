"""The services of a node that changes its state: every request is answered, whenever it arrives."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import State, Transition
from rig import PATIENCE, NodeProcess, Peer, change, picture, pose_at, set_parameters, state, wait_until
from std_srvs.srv import SetBool, Trigger

from elvsm.srv import LoadScene, RenderViews, SaveScene
from elvsm_ros import conversions

Start = Callable[..., NodeProcess]
POSES = [conversions.matrix_to_pose(pose_at(0.01 * i)) for i in range(16)]
REQUESTS: dict[str, tuple[type, Any]] = {
    "pause": (SetBool, SetBool.Request(data=False)),
    "reset": (Trigger, Trigger.Request()),
    "save_scene": (SaveScene, SaveScene.Request(name="kept")),
    "load_scene": (LoadScene, LoadScene.Request(name="kept")),
    "render_views": (RenderViews, RenderViews.Request(poses=POSES)),
}
CYCLE = (
    Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
)  # fmt: skip


class Asker:
    """Send requests to one service, one after the other, and keep the answers; None for what is never answered."""

    def __init__(self, peer: Peer, name: str):
        self.answers: list[Any] = []
        self._stop = threading.Event()
        kind, self._request = REQUESTS[name]
        self._client = peer.node.create_client(kind, f"/elvsm/{name}")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            # As any careful client does: a request that nobody is there for is not sent.
            if not self._client.wait_for_service(timeout_sec=0.2):
                continue
            future = self._client.call_async(self._request)
            end = time.monotonic() + PATIENCE
            while not future.done() and time.monotonic() < end:
                time.sleep(0.001)
            self.answers.append(future.result() if future.done() else None)

    def finish(self) -> list[Any]:
        self._stop.set()
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive()
        return self.answers


def test_every_request_is_answered_while_the_node_comes_and_goes(
    start_node: Start, peer: Peer, tmp_path: Path
) -> None:
    node = start_node(scene_directory=str(tmp_path), status_period=0.1)
    node.wait_for("active")
    wait_until(peer.connected, "the node and its peer to find each other")
    peer.insert(picture(0), pose_at(0.0))
    assert peer.call(*named("save_scene")).success
    peers = [Peer() for _ in REQUESTS]
    try:
        askers = {name: Asker(own, name) for name, own in zip(REQUESTS, peers, strict=True)}
        for _ in range(15):
            for step in CYCLE:
                assert change(peer, step), node.output
        answers = {name: asker.finish() for name, asker in askers.items()}
    finally:
        for own in peers:
            own.close()
    lost = {name: found.count(None) for name, found in answers.items()}
    assert not any(lost.values()), (lost, {name: len(found) for name, found in answers.items()})
    for name in ("pause", "reset", "load_scene"):
        told = Counter(answer.success for answer in answers[name])
        assert told[True] and told[False], (name, told)
    refusals = {
        answer.message for answer in itertools.chain(*answers.values())
        if not answer.success and not any(word in answer.message for word in ("keyframe", "camera_info"))
    }  # fmt: skip
    assert refusals <= {
        "/elvsm is not configured (its state is unconfigured): ros2 lifecycle set /elvsm configure",
        "the node is being cleaned up or shut down",
    }
    assert "Traceback" not in node.output and "callback failed" not in node.output, node.output


def named(name: str) -> tuple[type, str, Any]:
    kind, request = REQUESTS[name]
    return kind, f"/elvsm/{name}", request


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_wait_for_the_device_are_answered_when_it_goes(
    start_node: Start, peer: Peer, tmp_path: Path, name: str
) -> None:
    node = start_node(scene_directory=str(tmp_path), status_period=0.1)
    node.wait_for("active")
    wait_until(peer.connected, "the node and its peer to find each other")
    peer.insert(picture(0), pose_at(0.0))
    waiting = [peer.start_call(*named("render_views")) for _ in range(20)]
    waiting += [peer.start_call(*named(name)) for _ in range(5)]
    assert change(peer, Transition.TRANSITION_DEACTIVATE) and change(peer, Transition.TRANSITION_CLEANUP)
    wait_until(lambda: all(future.done() for future in waiting), "answers to all that waited")
    assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED


def test_a_node_that_is_not_configured_says_so(start_node: Start, peer: Peer, small_model: Path) -> None:
    node = start_node(autostart=False)
    for name in REQUESTS:
        answer = peer.call(*named(name))
        assert not answer.success
        assert answer.message == (
            "/elvsm is not configured (its state is unconfigured): ros2 lifecycle set /elvsm configure"
        ), name
    # What kept it from being configured is said to whoever asks, too.
    assert set_parameters(peer, {"model": "/nowhere/none.safetensors"}) == []
    assert not change(peer, Transition.TRANSITION_CONFIGURE)
    answer = peer.call(*named("pause"))
    assert not answer.success and "cannot configure" in answer.message
    assert "/nowhere/none.safetensors" in answer.message
    assert set_parameters(peer, {"model": str(small_model)}) == []
    assert change(peer, Transition.TRANSITION_CONFIGURE)
    assert peer.call(*named("pause")).success
    assert change(peer, Transition.TRANSITION_INACTIVE_SHUTDOWN)
    answer = peer.call(*named("pause"))
    assert not answer.success and answer.message == "/elvsm has been shut down: start the node again"
    assert "Traceback" not in node.output
