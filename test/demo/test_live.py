"""How node and player are started on a recording: topics, parameters, and what tells how far it has been played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo

from elvsm_ros.recordings.bag_reader import (
    CAMERA_INFO,
    COMPRESSED,
    ODOMETRY,
    POSE,
    RAW,
    TF,
    RecordedTopic,
    Streams,
)
from elvsm_ros.recordings.bag_tf import POSE_TOPIC, Ends
from elvsm_ros.tools import node_process


def streams(image: str = RAW, pose: str = POSE, infos: int = 10) -> Streams:
    static = (RecordedTopic("/tf_static", TF, 1),) if pose == TF else ()
    return Streams(
        RecordedTopic("/c/image", image, 10),
        RecordedTopic("/c/info", CAMERA_INFO, infos),
        RecordedTopic("/where", pose, 99),
        static,
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the commands of the processes that would have been started."""
    commands: list[list[str]] = []
    monkeypatch.setattr(
        node_process, "Child", lambda name, command, environment, log: commands.append(command)
    )
    return commands


def after(command: list[str], option: str, count: int = 1) -> list[str]:
    at = command.index(option)
    return command[at + 1 : at + 1 + count]


@pytest.mark.parametrize(
    ("pose", "infos", "expected"),
    [
        (POSE, 10, ("/c/info", CameraInfo)),
        (POSE, 1, ("/where", PoseStamped)),
        (ODOMETRY, 1, ("/where", Odometry)),
        (TF, 1, (POSE_TOPIC, PoseStamped)),
    ],
)
def test_the_clock_is_a_topic_with_small_messages_that_come_often(
    pose: str, infos: int, expected: tuple[str, Any]
) -> None:
    assert node_process.clock(streams(pose=pose, infos=infos)) == expected


@pytest.mark.parametrize(
    ("image", "pose", "renamed", "parameters"),
    [
        (RAW, POSE, ["image:=/c/image", "pose:=/where"], ("raw", "pose")),
        (COMPRESSED, ODOMETRY, ["image/compressed:=/c/image", "odom:=/where"], ("compressed", "odom")),
        (RAW, TF, ["image:=/c/image", f"pose:={POSE_TOPIC}"], ("raw", "pose")),
    ],
)
def test_the_node_reads_the_recordings_topics(
    image: str, pose: str, renamed: list[str], parameters: tuple[str, str], started: Any, tmp_path: Path
) -> None:
    values = {"model": "demo", "body_to_camera": (0.0,) * 6 + (1.0,), "keyframe_distance": 0.3}
    node_process.start_node(streams(image, pose), values, tmp_path, [])
    command = started[0]
    for name in [*renamed, "camera_info:=/c/info"]:
        assert name in command
    told = yaml.safe_load((tmp_path / "node.yaml").read_text())["/**"]["ros__parameters"]
    assert (told["image_transport"], told["pose_source"]) == parameters
    assert told["keyframe_distance"] == 0.3 and told["body_to_camera"][-1] == 1.0
    assert told["sync_timeout"] == 1.0
    node_process.start_node(streams(image, pose), {**values, "sync_timeout": 2.0}, tmp_path, [], rate=0.25)
    assert "sync_timeout: 8.0" in (tmp_path / "node.yaml").read_text()
    assert after(command, "--params-file") == [str(tmp_path / "node.yaml")]


def test_the_player_waits_for_all_who_listen(started: Any, tmp_path: Path) -> None:
    class Bag:
        path = tmp_path / "bag"

    node_process.start_player(Bag(), streams(), None, tmp_path, [], rate=0.5, seconds=3.0)  # type: ignore[arg-type]
    node_process.start_player(Bag(), streams(pose=TF, infos=1), Ends("map", "cam"), tmp_path, [], 1.0)  # type: ignore[arg-type]
    plain, tf = started
    assert after(plain, "--listeners", 3) == ["/c/image=1", "/c/info=2", "/where=1"]
    assert after(plain, "--rate") == ["0.5"] and after(plain, "--seconds") == ["3.0"]
    assert after(plain, "--topics", 3) == ["/c/image", "/c/info", "/where"]
    assert after(tf, "--listeners", 3) == ["/c/image=1", "/c/info=1", f"{POSE_TOPIC}=2"]
    assert after(tf, "--topics", 4) == ["/c/image", "/c/info", "/where", "/tf_static"]
    assert after(tf, "--poses-from-tf", 3) == ["/c/image", "map", "cam"]
    assert "--poses-from-tf" not in plain
