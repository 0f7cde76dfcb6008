"""The configurations for RViz and Foxglove name topics and types that the node has."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

# What each display of RViz subscribes to (rviz_default_plugins).
DISPLAYS = {
    "PoseArray": "geometry_msgs/msg/PoseArray",
    "PointCloud2": "sensor_msgs/msg/PointCloud2",
    "Image": "sensor_msgs/msg/Image",
}


@pytest.fixture(scope="module")
def topics(repository: Path) -> dict[str, tuple[str, str]]:
    """Return type and QoS of the topics in docs/interface.md, which another test holds against the real node."""
    text = (repository / "docs" / "interface.md").read_text()
    rows = re.findall(r"^\| `([~/\w]+)` \| (\w+/msg/\w+) \| ([\w ]+) \|", text, re.M)
    return {re.sub(r"^(?!/)", "/", name.replace("~", "/elvsm")): (kind, qos) for name, kind, qos in rows}


@pytest.fixture(scope="module")
def foxglove(repository: Path) -> dict[str, Any]:
    return json.loads((repository / "config" / "elvsm_foxglove.json").read_text())


def test_rviz_shows_what_the_node_publishes(repository: Path, topics: dict[str, tuple[str, str]]) -> None:
    config = yaml.safe_load((repository / "config" / "elvsm.rviz").read_text())
    shown = set()
    for display in config["Visualization Manager"]["Displays"]:
        if "Topic" not in display:
            continue
        name = display["Topic"]["Value"]
        kind, qos = topics[name]
        assert DISPLAYS[display["Class"].removeprefix("rviz_default_plugins/")] == kind
        durability = "Transient Local" if qos == "latched" else "Volatile"
        assert display["Topic"]["Durability Policy"] == durability, name
        shown.add(name)
    assert {"/elvsm/keyframes", "/elvsm/keyframe_cloud", "/elvsm/rendered/image"} <= shown


def places(node: Any) -> list[str]:
    """Return the panels of a Foxglove layout."""
    return [node] if isinstance(node, str) else [*places(node["first"]), *places(node["second"])]


def test_every_panel_has_its_place(foxglove: dict[str, Any]) -> None:
    assert sorted(places(foxglove["layout"])) == sorted(foxglove["configById"])


def test_foxglove_shows_what_the_node_publishes(
    foxglove: dict[str, Any], topics: dict[str, tuple[str, str]]
) -> None:
    panels = foxglove["configById"]
    three = panels["3D!elvsm"]
    images = [panel["imageMode"] for name, panel in panels.items() if name.startswith("Image!")]
    assert set(three["topics"]) == {"/elvsm/keyframes", "/elvsm/keyframe_cloud"}
    assert set(three["topics"]) <= set(topics)
    assert topics[three["publish"]["poseTopic"]][0] == "geometry_msgs/msg/PoseStamped"
    for mode in images:
        assert topics[mode["imageTopic"]][0] == "sensor_msgs/msg/Image"
        assert topics[mode["calibrationTopic"]][0] == "sensor_msgs/msg/CameraInfo"
    assert panels["DiagnosticSummary!node"]["topicToRender"] in topics


def test_paths_into_messages_exist(foxglove: dict[str, Any], topics: dict[str, tuple[str, str]]) -> None:
    pytest.importorskip("rclpy", reason="needs the ROS packages: run make")
    panels = foxglove["configById"]
    paths = [path["value"] for path in panels["Plot!latency"]["paths"]]
    for path in [*paths, panels["RawMessages!status"]["topicPath"]]:
        name, _, field = path.partition(".")
        package, _, kind = topics[name][0].partition("/msg/")
        message = getattr(importlib.import_module(f"{package}.msg"), kind)
        assert not field or field in message.get_fields_and_field_types(), path
