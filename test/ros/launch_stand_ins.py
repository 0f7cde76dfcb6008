"""Stand-ins for `launch` and `launch_ros`, which are missing wherever ROS is not installed.

They keep what they are given; what is tested is that a launch file runs, describes every argument, and hands each to
the right place.
"""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path
from typing import Any

import pytest


class Kept:
    """Anything of `launch`: remembers its arguments."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.__dict__ = args, {"args": args, **kwargs}


class Substitution(Kept):
    def perform(self, context: dict[str, str]) -> str:
        return context[self.args[0]]


KINDS = {
    "launch": ["LaunchContext", "LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument", "ExecuteProcess", "IncludeLaunchDescription", "OpaqueFunction",
        "RegisterEventHandler", "SetEnvironmentVariable", "SetLaunchConfiguration", "TimerAction",
    ],
    "launch.event_handlers": ["OnProcessIO"],
    "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
}  # fmt: skip


def load(file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a launch file against the stand-ins, and return what it defines."""
    for name, classes in KINDS.items():
        module = types.ModuleType(name)
        for kind in classes:
            setattr(module, kind, type(kind, (Kept,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    substitutions = types.ModuleType("launch.substitutions")
    substitutions.LaunchConfiguration = Substitution  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "launch.substitutions", substitutions)
    packages = types.ModuleType("ament_index_python.packages")
    packages.get_package_share_directory = lambda name: f"/share/{name}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", packages)
    return runpy.run_path(str(file))


def described(launch_file: dict[str, Any]) -> tuple[dict[str, Kept], list[Kept]]:
    """Return the declared arguments by name, and the other actions."""
    (actions,) = launch_file["generate_launch_description"]().args
    arguments = {a.args[0]: a for a in actions if type(a).__name__ == "DeclareLaunchArgument"}
    return arguments, [a for a in actions if type(a).__name__ != "DeclareLaunchArgument"]
