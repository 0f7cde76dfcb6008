"""The player, over DDS: what is in the recording arrives, as it is, when it should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from recordings import write_walk
from sensor_msgs.msg import CompressedImage

from elvsm_ros.recordings.bag_player import main
from elvsm_ros.recordings.bag_reader import Bag
from elvsm_ros.recordings.bag_writer import STREAMS

pytestmark = pytest.mark.ros

TYPES = {STREAMS.image.name: CompressedImage, STREAMS.pose.name: PoseStamped}


@pytest.fixture
def listener() -> Iterator[Callable[[], dict[str, list[Any]]]]:
    """Listen to images and poses. The function that it gives listens a little longer and returns what came."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    heard: dict[str, list[Any]] = {name: [] for name in TYPES}
    for name, kind in TYPES.items():
        node.create_subscription(kind, name, heard[name].append, 100)

    def listen() -> dict[str, list[Any]]:
        executor.spin_once(timeout_sec=0.05)
        return heard

    yield listen
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def player(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "elvsm_ros.recordings.bag_player", *map(str, arguments)]
    return subprocess.Popen(
        command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_recording_is_played_as_it_is(
    small_walk: Path, listener: Callable[[], dict[str, list[Any]]]
) -> None:
    process = player(small_walk, "--topics", *TYPES, "--rate", 4, "--listeners", *(f"{t}=1" for t in TYPES))
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        heard = listener()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "played 41 messages on 2 topics" in output
    with Bag(small_walk) as bag:
        recorded = {name: [m for _, _, m in bag.messages([name])] for name in TYPES}
    assert heard == recorded


def test_it_ends_when_asked(tmp_path: Path, listener: Callable[[], dict[str, list[Any]]]) -> None:
    path, pose = write_walk(tmp_path / "long", images=300), STREAMS.pose.name
    process = player(path, "--topics", pose)
    end = time.monotonic() + 60
    while not listener()[pose] and process.poll() is None and time.monotonic() < end:
        pass
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    with Bag(path) as bag:
        recorded = bag.topics[pose].count
    (played,) = re.findall(r"played (\d+) messages", output)
    assert 0 < int(played) < recorded


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topics", "/nowhere"], ["no topic /nowhere", STREAMS.pose.name]),
        (
            ["--listeners", f"{STREAMS.pose.name}=1", "--wait", "0.2"],
            [STREAMS.pose.name, "0 listeners instead of 1"],
        ),
        (["--listeners", STREAMS.pose.name], ["TOPIC=N"]),
    ],
)
def test_what_cannot_be_played_is_said(small_walk: Path, arguments: list[str], words: list[str]) -> None:
    process = player(small_walk, *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    for word in words:
        assert word in output


def test_a_rate_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bag", "--rate", "0"])
    assert caught.value.code == 2
    assert "--rate: must be positive, got 0" in capsys.readouterr().err
