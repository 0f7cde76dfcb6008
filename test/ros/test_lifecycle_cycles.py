"""What a node holds on to: fifty cycles of its life, a clean-up, a device that fails, a device that is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from rig import NodeProcess, Peer, change, picture, pose_at, state, wait_until

pytestmark = pytest.mark.ros

Fragile = tuple[NodeProcess, Peer, Path]

PROGRAM = """
import gc, os, threading, time, weakref
from pathlib import Path
import torch
import elvsm_core as ec
from elvsm_core.engine import Engine
from elvsm_ros import node

folder = Path(os.environ["ELVSM_TEST_FOLDER"])
alive = weakref.WeakSet()
make = ec.Scene.__init__

def watched(self, model, *args, **kwargs):
    make(self, model, *args, **kwargs)
    alive.add(self)
    alive.add(model)

def fragile(call):
    def wrapped(self, *args, **kwargs):
        if (folder / "broken").exists():
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\\nmore words")
        if (folder / "full").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")
        return call(self, *args, **kwargs)
    return wrapped

def short(call):
    def wrapped(self, *args, **kwargs):
        left = folder / "short"  # so many times
        if left.exists() and int(left.read_text()):
            left.write_text(str(int(left.read_text()) - 1))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")
        return call(self, *args, **kwargs)
    return wrapped

def count():
    while True:
        time.sleep(0.02)
        if not (folder / "ask").exists():
            continue
        gc.collect()
        frozen = gc.get_freeze_count()
        gc.unfreeze()  # else get_objects leaves them out
        tensors = sum(type(o) is torch.Tensor and o.numel() > 100_000 for o in gc.get_objects())
        if frozen:
            gc.freeze()
        (folder / "count").write_text(f"{len(alive)} {tensors} {frozen}")
        (folder / "ask").unlink()

ec.Scene.__init__ = watched
Engine.render = short(Engine.render)
for name in ("insert", "render_async", "warm_up"):
    setattr(ec.Scene, name, fragile(getattr(ec.Scene, name)))
threading.Thread(target=count, daemon=True).start()
node.main()
"""
"""The node, with a device that fails when a file says so, and a count of what is alive: neither can be had for real."""


def services(peer: Peer) -> list[str]:
    return sorted(name for name, _ in peer.node.get_service_names_and_types_by_node("elvsm", "/"))


def topics(peer: Peer) -> list[str]:
    ask = peer.node.get_publisher_names_and_types_by_node, peer.node.get_subscriber_names_and_types_by_node
    return sorted(name for get in ask for name, _ in get("elvsm", "/"))


def held(node: NodeProcess) -> dict[str, int]:
    """Return what the process holds: threads, open files, and resident memory in KiB."""
    process = Path(f"/proc/{node.pid}")
    lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {
        "threads": int(lines["Threads"]),
        "files": len(list((process / "fd").iterdir())),
        "memory": int(lines["VmRSS"].split()[0]),
    }


def test_fifty_cycles_leave_nothing_behind(start_node: Callable[..., NodeProcess], peer: Peer) -> None:
    node = start_node(status_period=0.1)
    node.wait_for("active")
    wait_until(peer.connected, "the node and its peer to find each other")
    before = services(peer), topics(peer)
    T = Transition
    marks = []
    for cycle in range(50):
        if cycle % 10 == 0:
            wait_until(peer.connected, "subscriptions")
            peer.fresh_status()
            peer.insert(picture(cycle), pose_at(float(cycle)))
            assert peer.render([pose_at(float(cycle))]).success
            marks.append(held(node))
        for step in (
            T.TRANSITION_DEACTIVATE, T.TRANSITION_ACTIVATE, T.TRANSITION_DEACTIVATE, T.TRANSITION_CLEANUP,
            T.TRANSITION_CONFIGURE, T.TRANSITION_ACTIVATE,
        ):  # fmt: skip
            assert change(peer, step), (cycle, step, node.output)
    wait_until(lambda: (services(peer), topics(peer)) == before, "the same services and topics as at first")
    wait_until(peer.connected, "subscriptions")
    peer.fresh_status()
    peer.insert(picture(1), pose_at(100.0))
    assert peer.render([pose_at(100.0)]).success
    marks.append(held(node))
    first, last = marks[1], marks[-1]  # after ten cycles, and forty later
    assert last["threads"] <= first["threads"] and last["files"] <= first["files"] + 1, marks
    assert last["memory"] - first["memory"] < 8 * 1024, marks
    assert "Traceback" not in node.output and "callback failed" not in node.output, node.output


@pytest.fixture(scope="module")
def fragile(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fragile]:
    """Return a node that is active and has a keyframe, its peer, and the folder that its device is ruled by."""
    folder = tmp_path_factory.mktemp("device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELVSM_TEST_FOLDER", str(folder))
        node = NodeProcess(
            program=["-c", PROGRAM], model=str(small_model), status_period=0.1, log_period=0.0, capacity=256,
            diagnostics_period=0.2,
        )  # fmt: skip
    peer = Peer()
    try:
        node.wait_for("active")
        start_anew(peer)
        yield node, peer, folder
        assert node.alive() and "Traceback" not in node.output, node.output
    finally:
        node.close()
        peer.close()


def start_anew(peer: Peer) -> None:
    """Show an active node a keyframe, and have it rendered."""
    wait_until(peer.connected, "the node and its peer to find each other")
    peer.fresh_status()
    peer.insert(picture(0), pose_at(0.0))
    assert peer.render([pose_at(0.1)]).success


def test_cleaning_up_frees_the_device(fragile: Fragile) -> None:
    _, peer, folder = fragile

    def alive() -> tuple[int, int, int]:
        (folder / "ask").touch()
        wait_until(lambda: not (folder / "ask").exists(), "a count")
        things, tensors, frozen = map(int, (folder / "count").read_text().split())
        return things, tensors, frozen

    def serves() -> bool:
        things, tensors, frozen = alive()
        # Hundreds of thousands of objects come with PyTorch: the garbage collector need not look through them.
        return things == 2 and tensors > 0 and frozen > 100_000

    wait_until(serves, "a scene, a model and their tensors")
    assert change(peer, Transition.TRANSITION_DEACTIVATE) and change(peer, Transition.TRANSITION_CLEANUP)
    wait_until(lambda: alive() == (0, 0, 0), "nothing of them to be left")
    assert change(peer, Transition.TRANSITION_CONFIGURE) and change(peer, Transition.TRANSITION_ACTIVATE)
    wait_until(serves, "another scene, another model")
    start_anew(peer)


def test_a_device_that_fails_takes_the_node_out_of_service_and_not_down(fragile: Fragile) -> None:
    node, peer, tmp_path = fragile
    arrays: list[DiagnosticArray] = []
    peer.node.create_subscription(DiagnosticArray, "/diagnostics", arrays.append, 10)

    # Memory that is short: less is rendered at a time, and then less is kept, with a warning.
    assert peer.status.capacity == 256
    (tmp_path / "short").write_text("5")
    assert peer.render([pose_at(0.1)]).success and (tmp_path / "short").read_text() == "0"
    for text in ("rendering 1 targets at once", "keeping keys and values of 128 views"):
        node.wait_for("device: out of device memory: " + text)

    def warned() -> bool:
        if not arrays:
            return False
        status = next(s for s in arrays[-1].status if s.name == "elvsm: device")
        return status.level == DiagnosticStatus.WARN and "out of device memory" in status.message

    wait_until(warned, "diagnostics of a lack of memory")
    peer.wait_for_status(lambda s: s.capacity < 256, "a smaller capacity")

    # A full device, when nothing is left to be given up for it: the request fails, and that is all.
    (tmp_path / "full").touch()
    answer = peer.render([pose_at(0.1)])
    assert not answer.success and "out of memory" in answer.message
    (tmp_path / "full").unlink()
    assert peer.render([pose_at(0.1)]).success
    assert state(peer) == State.PRIMARY_STATE_ACTIVE

    for configured in range(2):
        (tmp_path / "broken").touch()
        if configured:
            peer.send_frame(picture(1), pose_at(3.0))  # found out by an image this time
        else:
            answer = peer.render([pose_at(0.1)])
            assert not answer.success and "illegal memory access" in answer.message
        wait_until(lambda: state(peer) == State.PRIMARY_STATE_UNCONFIGURED, "the node to fall back")
        wait_until(
            lambda: any("the device failed, and the scene on it is lost" in line for line in node.lines),
            "one line",
        )

        def told() -> bool:
            status = arrays[-1].status[0]
            return status.level == DiagnosticStatus.ERROR and "the device failed" in status.message

        wait_until(told, "diagnostics of a fault")
        answer = peer.render([pose_at(0.1)])
        assert not answer.success and "is not configured" in answer.message
        assert "the device failed" in answer.message
        # Configuring again fails as long as the device does, and puts everything right afterwards.
        assert not change(peer, Transition.TRANSITION_CONFIGURE)
        (tmp_path / "broken").unlink()
        assert change(peer, Transition.TRANSITION_CONFIGURE) and change(peer, Transition.TRANSITION_ACTIVATE)
        start_anew(peer)
