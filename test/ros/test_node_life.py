"""How the node starts, changes state, and ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rig import NodeProcess, Peer, change, picture, pose_at, set_parameters, shared_memory, state, wait_until

from elvsm.srv import RenderViews
from elvsm_ros import conversions

pytestmark = pytest.mark.ros

Start = Callable[..., NodeProcess]


def services(peer: Peer) -> set[str]:
    wait_until(lambda: "elvsm" in peer.node.get_node_names(), "the node in the graph")
    return {name for name, _ in peer.node.get_service_names_and_types_by_node("elvsm", "/")}


def test_lifecycle(start_node: Start, peer: Peer) -> None:
    node = start_node(autostart=False)
    assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
    assert "/elvsm/render_views" in services(peer)
    assert not change(peer, Transition.TRANSITION_ACTIVATE)
    for _ in range(2):
        assert change(peer, Transition.TRANSITION_CONFIGURE)
        assert state(peer) == State.PRIMARY_STATE_INACTIVE
        assert not peer.render([pose_at(0.0)]).success  # it answers, but has nothing to show yet
        assert peer.image.get_subscription_count() == 0
        assert change(peer, Transition.TRANSITION_ACTIVATE)
        wait_until(peer.connected, "subscriptions")
        peer.fresh_status()
        peer.insert(picture(0), pose_at(0.0))

        # Inactive, it looks at nothing more and goes on serving what it has seen.
        assert change(peer, Transition.TRANSITION_DEACTIVATE)
        wait_until(lambda: peer.image.get_subscription_count() == 0, "no subscription")
        assert peer.render([pose_at(0.1)]).success
        assert change(peer, Transition.TRANSITION_ACTIVATE)
        wait_until(peer.connected, "subscriptions")
        peer.insert(picture(1), pose_at(1.0))
        assert peer.status.keyframes == 2

        # Requests that wait when the scene goes away go with it.
        poses = [conversions.matrix_to_pose(pose_at(0.01 * i)) for i in range(64)]
        waiting = [
            peer.start_call(RenderViews, "/elvsm/render_views", RenderViews.Request(poses=poses))
            for _ in range(20)
        ]
        assert change(peer, Transition.TRANSITION_DEACTIVATE)
        assert change(peer, Transition.TRANSITION_CLEANUP)
        assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
        wait_until(lambda waiting=waiting: all(f.done() for f in waiting), "answers to all that waited")
        assert "not configured" in peer.render([pose_at(0.0)]).message
    assert change(peer, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert state(peer) == State.PRIMARY_STATE_FINALIZED
    status, _ = node.signal(signal.SIGTERM)
    assert status == 0 and "Traceback" not in node.output, node.output


def test_what_cannot_be_configured_is_named_and_can_be_corrected(
    start_node: Start, peer: Peer, small_model: Path, tmp_path: Path
) -> None:
    node = start_node(autostart=False)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(small_model.read_bytes()[:1000])
    good = {"model": str(small_model), "device": "auto", "image_size": [0, 0]}
    for bad in (
        {"model": "/nowhere/none.safetensors"}, {"model": str(broken)}, {"device": "abacus"}, {"image_size": [33, 33]},
    ):  # fmt: skip
        assert set_parameters(peer, {**good, **bad}) == []
        assert not change(peer, Transition.TRANSITION_CONFIGURE)
        (value,) = bad.values()
        text = "33" if isinstance(value, list) else value
        wait_until(
            lambda text=text: any("cannot configure" in line and text in line for line in node.lines),
            f"a line about {text}: {node.output}",
        )
        assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
    assert "one of pose, odom" in set_parameters(peer, {"pose_source": "stars"})[0]
    assert set_parameters(peer, good) == []
    assert change(peer, Transition.TRANSITION_CONFIGURE)
    assert "clean the node up" in set_parameters(peer, {"model": "demo"})[0]
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"model": "/nowhere/none.safetensors"}, "/nowhere/none.safetensors"),
        ({"pose_source": "stars"}, "pose_source must be one of pose, odom"),
        ({"capacity": -1}, "capacity"),
        ({"keyframe_distence": 0.1}, "'keyframe_distance' perhaps"),
        ({"keyframe_distance": 1}, "keyframe_distance"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_work_ends_the_node_with_one_clear_line(
    start_node: Start, parameters: dict, text: str
) -> None:
    node = start_node(**parameters)
    assert node.wait() == 1
    assert any(text in line for line in node.lines), node.output
    assert "Traceback" not in node.output


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


def start_long_render(node: NodeProcess, peer: Peer) -> Any:
    """Give the device work for far longer than the two seconds, and return the future of the answer."""
    node.wait_for("active")
    wait_until(peer.connected, "a connection")
    peer.insert(picture(0), pose_at(0.0))
    # One view: requests for many are cut into pieces, and what ends the node need not wait for all of them.
    poses = [conversions.matrix_to_pose(pose_at(0.01))]
    request = RenderViews.Request(poses=poses, width=1536, height=1536)
    future = peer.start_call(RenderViews, "/elvsm/render_views", request)
    time.sleep(1.0)
    assert not future.done(), "the render was too quick for this test to show anything"
    return future


LONG = {"max_render_pixels": 10**9, "render_resolution": "requested"}


@SIGNALS
def test_ends_soon_while_rendering(start_node: Start, peer: Peer, number: int) -> None:
    node = start_node(**LONG)
    start_long_render(node, peer)
    status, seconds = node.signal(number)
    assert status == 0 and seconds < 2.0, node.output
    assert "Traceback" not in node.output


def test_ends_soon_while_cleaning_up_behind_a_render(start_node: Start, peer: Peer) -> None:
    node = start_node(**LONG)
    start_long_render(node, peer)
    assert change(peer, Transition.TRANSITION_DEACTIVATE)
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CLEANUP))
    cleanup = peer.start_call(ChangeState, "/elvsm/change_state", request)
    time.sleep(0.5)
    assert not cleanup.done() and node.alive()
    status, seconds = node.signal(signal.SIGTERM)
    assert status == 0 and seconds < 2.0, node.output
    assert "Traceback" not in node.output


def test_ends_soon_while_starting_and_while_images_arrive(start_node: Start, peer: Peer) -> None:
    done = threading.Event()

    def publish() -> None:
        i = 0
        while not done.wait(0.01):
            peer.send_frame(picture(i), pose_at(0.25 * i))
            i += 1

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        starting = start_node()
        # It is in the graph as soon as rclpy has taken the signals over, and PyTorch is still being loaded.
        wait_until(lambda: "elvsm" in peer.node.get_node_names(), "the node in the graph")
        status, seconds = starting.signal(signal.SIGINT)
        assert status == 0 and seconds < 2.0, starting.output
        running = start_node()
        running.wait_for("active")
        peer.wait_for_status(lambda s: s.keyframes_inserted > 3, "keyframes")
        status, seconds = running.signal(signal.SIGTERM)
        assert status == 0 and seconds < 2.0, running.output
        assert "Traceback" not in starting.output + running.output
    finally:
        done.set()
        publisher.join()


STOPPED_BEFORE_THE_NODE = """
import os, signal, time
import rclpy
from elvsm_ros import node, standalone

def make():
    os.kill(os.getpid(), signal.SIGINT)
    while rclpy.ok():  # rclpy takes the signal on a thread of its own
        time.sleep(0.01)
    return node.ElvsmNode()

standalone.run(make)
"""


def test_a_signal_before_the_node_is_made_is_no_error(small_model: Path) -> None:
    starting = NodeProcess(program=["-c", STOPPED_BEFORE_THE_NODE], model=str(small_model))
    assert starting.wait() == 0, starting.output
    assert "elvsm_node:" not in starting.output


IMPORTING = """
import os, signal, sys
from elvsm_ros import early_exit
early_exit.arm()
class Import:  # the signal comes when the first heavy package is asked for
    def find_spec(self, name, path, target=None):
        if name == "rclpy":
            os.kill(os.getpid(), int(sys.argv[1]))
sys.meta_path.insert(0, Import())
import elvsm_ros.node
print("imported")
"""


@SIGNALS
def test_a_signal_during_the_imports_is_no_error(number: int) -> None:
    command = [sys.executable, "-c", IMPORTING, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("program", [("-m", "elvsm_ros.node"), ("scripts/elvsm_node",)])
def test_programs_look_after_signals_before_they_import(program: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever is imported first of what takes long finds them taken care of."""
    (tmp_path / "rclpy.py").write_text(
        "import os, signal\nos.write(1, repr(signal.getsignal(signal.SIGTERM)).encode())\nos._exit(3)\n"
    )
    (tmp_path / "builtin_interfaces.py").write_text("import rclpy\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *program], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": path}, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 3 and "arm" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs Linux's shared memory files in /dev/shm")
def test_leaves_no_shared_memory_behind(start_node: Start, peer: Peer) -> None:
    """A restart now and then must not fill the memory of a robot: Fast DDS maps 64 MB and more for a node."""
    node = start_node()
    node.wait_for("active")
    mapped = shared_memory(node.pid) - shared_memory(os.getpid())
    own = {file for file in mapped if re.fullmatch(r"fastdds_[0-9a-f]{16}", file.name)}
    assert own and all(file.exists() for file in own)
    assert node.signal(signal.SIGTERM)[0] == 0
    assert not [file for file in own if file.exists()]
