"""launch/replay.launch.py, run against stand-ins for `launch` and `launch_ros`."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
from launch_stand_ins import Kept, described, load


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch, repository: Path) -> dict[str, Any]:
    return load(repository / "launch" / "replay.launch.py", monkeypatch)


def named(actions: list[Kept], kind: str) -> list[Kept]:
    return [action for action in actions if type(action).__name__ == kind]


def run(launch_file: dict[str, Any], **given: str) -> list[Kept]:
    arguments, others = described(launch_file)
    values = {name: a.default_value for name, a in arguments.items() if hasattr(a, "default_value")}
    # What the included file declares, and what the description remembers, is set by the time `start` runs.
    context = {**values, "camera_info": "camera_info", "replayed_bag": "walk_bag", **given}
    assert type(others[-1]).__name__ == "OpaqueFunction"
    return others[-1].function(context)


def played(launch_file: dict[str, Any], output: list[bytes], **given: str) -> list[list[str]]:
    """Return the commands that the node's output starts."""
    (handler,) = named(run(launch_file, **given), "RegisterEventHandler")
    listen = handler.args[0].on_stderr
    return [action.cmd for text in output for action in listen(types.SimpleNamespace(text=text))]


def test_the_bag_is_asked_for_and_everything_else_has_a_default(launch_file: dict[str, Any]) -> None:
    arguments, _ = described(launch_file)
    assert set(arguments) == {"bag", "rate", "loop", "start_after", "viewer", "viewer_port"}
    assert not hasattr(arguments["bag"], "default_value")
    for argument in arguments.values():
        assert len(argument.description) > 10


def test_the_node_runs_on_the_bags_clock_and_does_not_play_it_itself(launch_file: dict[str, Any]) -> None:
    _, others = described(launch_file)
    (node,) = named(others, "IncludeLaunchDescription")
    assert node.args[0].args == ("/share/elvsm/launch/elvsm.launch.py",)
    assert dict(node.launch_arguments) == {"use_sim_time": "true", "bag": ""}
    (remembered,) = named(others, "SetLaunchConfiguration")
    assert remembered.args[0] == "replayed_bag" and remembered.args[1].args == ("bag",)
    assert others.index(remembered) < others.index(node)


def test_playing_begins_once_when_the_node_listens(launch_file: dict[str, Any]) -> None:
    output = [b"[INFO] [elvsm]: model 'demo' on cpu", b"[INFO] [elvsm]: active: watching image\n"] * 2
    (command,) = played(launch_file, output, rate="0.5")
    assert command == ["ros2", "bag", "play", "--clock", "100", "--rate", "0.5", "walk_bag"]
    (command,) = played(launch_file, output, loop="true")
    assert command[-1] == "--loop"
    assert played(launch_file, [b"cannot configure"]) == []


def test_what_the_node_says_is_what_is_waited_for(launch_file: dict[str, Any], repository: Path) -> None:
    assert launch_file["READY"].decode() in (repository / "elvsm_ros" / "node.py").read_text()


def test_a_node_that_says_nothing_is_not_waited_for_for_ever(launch_file: dict[str, Any]) -> None:
    (timer,) = named(run(launch_file, start_after="7"), "TimerAction")
    (function,) = timer.actions
    assert timer.period == 7.0
    assert [action.cmd[-1] for action in function.function({})] == ["walk_bag"]
    assert function.function({}) == []


def test_the_viewer_is_started_when_asked_for(launch_file: dict[str, Any]) -> None:
    assert named(run(launch_file), "Node") == []
    (viewer,) = named(run(launch_file, viewer="true", viewer_port="9000", camera_info="/cam/info"), "Node")
    assert (viewer.package, viewer.executable) == ("elvsm", "elvsm_viewer")
    assert viewer.parameters == [{"use_sim_time": True}]
    assert viewer.arguments == ["--port", "9000"]
    assert ("camera_info", "/cam/info") in viewer.remappings
