"""The launch file, run against stand-ins for `launch` and `launch_ros`: neither package is on PyPI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from launch_stand_ins import Kept, described, load

from elvsm_ros.parameters import table


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch, repository: Path) -> dict[str, Any]:
    return load(repository / "launch" / "elvsm.launch.py", monkeypatch)


def run(launch_file: dict[str, Any], **given: str) -> list[Kept]:
    arguments, others = described(launch_file)
    assert set(given) <= set(arguments)
    values = {name: a.default_value for name, a in arguments.items()}
    return others[-1].function({**values, **given})


def test_every_argument_is_described_and_has_a_default(launch_file: dict[str, Any]) -> None:
    arguments, _ = described(launch_file)
    assert {
        "model", "device", "image", "camera_info", "pose", "odom", "pose_source", "image_transport", "bag",
        "use_sim_time", "params_file",
    } == set(arguments)  # fmt: skip
    for argument in arguments.values():
        assert len(argument.description) > 10 and isinstance(argument.default_value, str)
    assert arguments["params_file"].default_value == "/share/elvsm/config/elvsm.yaml"


def test_room_for_large_images_is_made_before_anything_starts(launch_file: dict[str, Any]) -> None:
    _, (environment, start) = described(launch_file)
    assert type(environment).__name__ == "SetEnvironmentVariable"
    assert environment.args == ("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    assert type(start).__name__ == "OpaqueFunction"


def test_defaults_leave_the_parameters_to_the_file(launch_file: dict[str, Any]) -> None:
    (node,) = run(launch_file)
    assert (node.package, node.executable, node.name) == ("elvsm", "elvsm_node", "elvsm")
    assert node.parameters == ["/share/elvsm/config/elvsm.yaml", {"use_sim_time": False}]
    assert ("image", "image") in node.remappings


def test_arguments_arrive(launch_file: dict[str, Any]) -> None:
    node, bag = run(
        launch_file,
        model="m.pt",
        device="cpu",
        image_transport="compressed",
        pose_source="odom",
        image="/camera/image_raw",
        camera_info="/camera/info",
        odom="/vio",
        bag="walk_bag",
        use_sim_time="true",
        params_file="mine.yaml",
    )
    assert node.parameters[0] == "mine.yaml"
    assert node.parameters[1] == {
        "model": "m.pt", "device": "cpu", "image_transport": "compressed", "pose_source": "odom",
        "use_sim_time": True,
    }  # fmt: skip
    known = {row.name: row for row in table.table()}
    for name, value in node.parameters[1].items():
        if name != "use_sim_time":
            known[name].check(value)
    assert dict(node.remappings) == {
        "image": "/camera/image_raw", "image/compressed": "/camera/image_raw/compressed",
        "camera_info": "/camera/info", "pose": "pose", "odom": "/vio",
    }  # fmt: skip
    assert bag.cmd == ["ros2", "bag", "play", "--clock", "100", "walk_bag"]
