"""The launch examples, run against stand-ins for `launch` and `launch_ros` (neither is on PyPI).

What is tested is that the files run, and that what they give the node exists: parameters, topics, arguments.
"""

from __future__ import annotations

import py_compile
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")

from elvsm_ros.parameters.table import Settings

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "launch" / "examples").glob("*.launch.py"))
MODULES = {
    "launch": ["LaunchDescription"],
    "launch.actions": ["DeclareLaunchArgument", "IncludeLaunchDescription", "SetEnvironmentVariable"],
    "launch.conditions": ["IfCondition"],
    "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
    "launch.substitutions": ["LaunchConfiguration", "PathJoinSubstitution"],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
    "launch_ros.substitutions": ["FindPackageShare"],
}
POSE_TOPICS = {"pose": {"pose"}, "pose_with_covariance": {"pose"}, "odom": {"odom"}, "tf": set()}


class Kept:
    """Anything of `launch`: remembers its arguments."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.kwargs = args, kwargs


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.name.partition(".")[0])
def actions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """Return what an example launches."""
    for name, classes in MODULES.items():
        module = types.ModuleType(name)
        for kind in classes:
            setattr(module, kind, type(kind, (Kept,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    py_compile.compile(str(request.param), doraise=True)
    (found,) = runpy.run_path(str(request.param))["generate_launch_description"]().args
    return found


def kinds(actions: list[Kept], name: str) -> list[Kept]:
    return [action for action in actions if type(action).__name__ == name]


def configurations(thing: Any) -> set[str]:
    """Return the names of the arguments that are used anywhere inside."""
    if isinstance(thing, Kept):
        own = {thing.args[0]} if type(thing).__name__ == "LaunchConfiguration" else set()
        return own | configurations(thing.args) | configurations(list(thing.kwargs.values()))
    if isinstance(thing, dict):
        return configurations(list(thing.items()))
    if isinstance(thing, str) or not hasattr(thing, "__iter__"):
        return set()
    return set().union(*(configurations(part) for part in thing)) if thing else set()


def test_all_six_are_there() -> None:
    names = {path.name.partition(".")[0] for path in EXAMPLES}
    assert names == {"realsense", "zed", "oak", "orb_slam3", "rtabmap", "cuvslam"}


def test_the_node_gets_topics_and_parameters_that_it_has(actions: list[Kept]) -> None:
    (node,) = (n.kwargs for n in kinds(actions, "Node") if n.kwargs["package"] == "elvsm")
    assert (node["executable"], node["name"]) == ("elvsm_node", "elvsm")
    (values,) = node["parameters"]
    settings = Settings.from_values(values)
    image = "image" if settings.image_transport == "raw" else "image/compressed"
    wanted = {image, "camera_info"} | POSE_TOPICS[settings.pose_source]
    assert {old for old, _ in node["remappings"]} == wanted
    for old, new in node["remappings"]:
        assert isinstance(new, Kept) or (new.startswith("/") and new != "/" + old)
        # What says rect is rectified, and the node has to know.
        if isinstance(new, str) and old == image:
            assert ("rect" in new) == settings.images_rectified


def test_large_images_get_their_room_first(actions: list[Kept]) -> None:
    assert type(actions[0]).__name__ == "SetEnvironmentVariable"
    assert actions[0].args == ("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")


def test_arguments_are_declared_and_described(actions: list[Kept]) -> None:
    declared = {a.args[0]: a.kwargs for a in kinds(actions, "DeclareLaunchArgument")}
    assert configurations(actions) == set(declared)
    assert all(len(kw["description"]) > 5 and kw["default_value"] for kw in declared.values())


def test_the_page_names_every_example_and_its_topics(actions: list[Kept], repository: Path) -> None:
    page = (repository / "docs" / "deployment.md").read_text()
    for path in EXAMPLES:
        assert f"(../launch/examples/{path.name})" in page
    (node,) = (n.kwargs for n in kinds(actions, "Node") if n.kwargs["package"] == "elvsm")
    for _, new in node["remappings"]:
        assert isinstance(new, Kept) or f"`{new}`" in page, new
