"""The demo itself: drawn walk, node, player and client as processes, over DDS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest
from recordings import write_topics, write_walk

from elvsm_core.files import owned
from elvsm_ros.demo.run import OUTPUT
from elvsm_ros.demo.walk import KIND

pytestmark = pytest.mark.ros

SECONDS = 5


def start(out: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "elvsm_ros.demo", "--out", str(out), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 120) -> str:
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        pytest.fail(f"the demo did not end:\n{process.communicate(timeout=30)[0]}")


def descendants(pid: int) -> dict[int, str]:
    """Return {pid: command line} of the processes that a process has started, and they."""
    found: dict[int, str] = {}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                found |= descendants(child)
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], timeout: float = 90) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def find(process: subprocess.Popen[str], module: str) -> int | None:
    return next((pid for pid, line in descendants(process.pid).items() if module in line), None)


def alive(pids: dict[int, str]) -> dict[int, str]:
    """Return those of the processes that still run: a number may be somebody else's by now."""
    left = {}
    for pid, line in pids.items():
        try:
            if Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") == line:
                left[pid] = line
        except (FileNotFoundError, ProcessLookupError):
            continue
    return left


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that keeps the drawn walk from one test to the next."""
    return tmp_path_factory.mktemp("demo_out")


def test_renders_beat_the_nearest_keyframe(out: Path) -> None:
    """With the bundled weights: exit status 0, and everything that was promised is there."""
    picture = out / "docs" / "demo.png"
    process = start(out, "--seconds", SECONDS, "--film-frames", 10, "--picture", picture)
    output = finish(process)
    assert process.returncode == 0, output
    for row in (
        "keyframes",
        "renders",
        "PSNR of the render",
        "PSNR of copying",
        "latency p50",
        "latency p95",
    ):
        assert row in output
    page = (out / "index.html").read_text()
    assert page.count("<article") >= 2
    assert picture.stat().st_size < 400_000
    reader = imageio_ffmpeg.read_frames(str(out / "walk.mp4"))
    assert next(reader)["codec"] == "h264"
    assert 5 <= sum(1 for _ in reader) <= 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(out: Path, blind_model: Path, number: int) -> None:
    process = start(out, "--seconds", SECONDS, "--model", blind_model)
    wait_for(
        lambda: find(process, "elvsm_ros.node") and find(process, "elvsm_ros.recordings.bag_player"), process
    )
    started = descendants(process.pid)
    process.send_signal(number)
    output = finish(process, timeout=20)
    assert process.returncode == 0, output
    assert "ended by" in output
    assert len(started) >= 2
    assert alive(started) == {}


@pytest.mark.parametrize("taken_for_damage", [False, True])
def test_a_signal_within_a_c_extension_ends_it_as_well(taken_for_damage: bool) -> None:
    """rclpy turns what a handler raises while it makes a message into another exception."""
    code = f"""
import os, signal, sys
import elvsm_ros.demo, elvsm_ros.demo.run
from geometry_msgs.msg import PoseStamped
from rclpy.serialization import deserialize_message, serialize_message

cdr = serialize_message(PoseStamped())

def make(self, **values):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass

def run(options):
    PoseStamped.__init__ = make
    try:
        deserialize_message(cdr, PoseStamped)
    except TypeError:
        if not {taken_for_damage}:
            raise
    return 2

elvsm_ros.demo.run.run = run
sys.exit(elvsm_ros.demo.main([]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "elvsm_demo: ended by SIGTERM\n")


def test_the_nodes_death_is_noticed(out: Path, blind_model: Path) -> None:
    process = start(out, "--seconds", SECONDS, "--model", blind_model)
    wait_for(lambda: find(process, "elvsm_ros.recordings.bag_player"), process)
    started = descendants(process.pid)
    node = find(process, "elvsm_ros.node")
    assert node is not None
    os.kill(node, signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 1, output
    assert "elvsm_node ended with status -9" in output
    assert alive(started) == {}


def test_an_output_folder_keeps_what_is_not_the_demos_own(tmp_path: Path, blind_model: Path) -> None:
    """Walks that the demo drew before go; folders that are called like them, or nearly so, stay."""
    out = tmp_path / "recordings"
    owned.claim_output(out, OUTPUT)
    foreign = ("office_walk_2024", "moonwalk_photos", "dogwalk_", "walk_0123456789ab", ".walk_0123456789ab.x")
    for name in foreign:
        (out / name).mkdir(parents=True)
        (out / name / "photo.jpg").write_bytes(b"mine")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "photo.jpg").write_bytes(b"mine")
    (out / "walk_aaaaaaaaaaaa").symlink_to(linked)
    drawn = out / "walk_bbbbbbbbbbbb"
    owned.claim(drawn, KIND)
    (drawn / "old.mcap").write_bytes(b"drawn")
    process = start(out, "--seconds", 2, "--model", blind_model, "--film-frames", 0)
    wait_for(lambda: find(process, "elvsm_ros.recordings.bag_player"), process)
    process.send_signal(signal.SIGINT)
    finish(process, timeout=20)
    for folder in (*(out / name for name in foreign), out / "walk_aaaaaaaaaaaa"):
        assert (folder / "photo.jpg").read_bytes() == b"mine"
    assert not drawn.exists()
    (new,) = (p for p in out.iterdir() if owned.is_owned(p, KIND))
    assert (new / "metadata.yaml").is_file()
    assert not list(out.glob(f".*{owned.SUFFIX}"))


OUTPUTS = ("index.html", "node.yaml", "node.log", "player.log", "walk.mp4")


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_folder_that_is_not_the_demos_own_is_left_alone(name: str, tmp_path: Path) -> None:
    """Files that are called like the demo's, such as those of an earlier version, are not replaced."""
    out = tmp_path / "site"
    out.mkdir()
    (out / name).write_text("mine")
    process = start(out, "--seconds", 1)
    output = " ".join(finish(process).split())
    assert process.returncode == 2, output
    assert str(out) in output and repr(name) in output and "an empty folder" in output and "earlier" in output
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [(name, "mine")]


def test_bad_renders_are_no_success(out: Path, blind_model: Path) -> None:
    process = start(out, "--seconds", SECONDS, "--model", blind_model, "--film-frames", 0, "--rate", 2)
    output = finish(process)
    assert process.returncode == 1, output
    assert "no better than copying" in output


def test_a_walk_that_is_over_before_anything_was_rendered(tmp_path: Path, blind_model: Path) -> None:
    """A node that is too slow for a short recording is asked afterwards: everybody gets a figure."""
    bag = write_walk(tmp_path / "walk")
    process = start(tmp_path / "out", "--bag", bag, "--model", blind_model, "--film-frames", 0, "--rate", 20)
    output = finish(process)
    renders = re.search(r"│ renders +│ (\d+)", output)
    assert renders and int(renders[1]) >= 2, output


def test_a_model_that_is_not_there(out: Path) -> None:
    process = start(out, "--model", "/nowhere/model.safetensors", "--seconds", SECONDS)
    output = finish(process)
    assert process.returncode == 1, output
    assert "/nowhere/model.safetensors" in output


def test_recordings_that_cannot_be_used(tmp_path: Path) -> None:
    """The file, the topic and the remedy are named."""
    process = start(tmp_path / "out", "--bag", tmp_path / "nothing")
    output = finish(process)
    assert process.returncode == 2, output
    assert str(tmp_path / "nothing") in output.replace("\n", "")
    path = write_topics(
        tmp_path / "bag", {"/a/image": "sensor_msgs/msg/Image", "/info": "sensor_msgs/msg/CameraInfo"}
    )
    process = start(tmp_path / "out", "--bag", path)
    output = finish(process)
    assert process.returncode == 2, output
    for words in (str(path), "no pose topic", "geometry_msgs/msg/PoseStamped", "record one"):
        assert words in output.replace("\n", " ")
