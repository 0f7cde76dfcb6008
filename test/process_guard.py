"""The base of the test pyramid: marks that follow from fixtures, and a guard that keeps other tests to one process."""

from __future__ import annotations

import multiprocessing.process
import sys
from collections.abc import Iterator
from typing import Any

import pytest

BY_FIXTURE = {"peer": "ros", "start_node": "ros", "shared": "ros", "browser": "browser", "checkout": "slow"}
"""What a test is marked with that uses a fixture."""
MARKS = ("ros", "gpu", "slow", "browser")
"""Marks that `make test-fast` leaves out; pyproject.toml says what each means."""
EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec"}
"""Audit events (sys.addaudithook) of a process that starts."""

_guarded: pytest.Item | None = None
_caught: list[str] = []


class UnmarkedError(RuntimeError):
    """A test without a mark does what `make test-fast` promises not to do."""


def _catch(what: str) -> None:
    if _guarded is not None:
        _caught.append(what)
        raise UnmarkedError(f"{_guarded.nodeid} {what}: mark it with one of {', '.join(MARKS)}")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if (
        event in EVENTS and _guarded is not None and "ldconfig" not in str(arguments[:1])
    ):  # ctypes asks it for libraries
        _catch(f"starts a process ({event} {str(arguments)[:100]})")


def pytest_configure(config: pytest.Config) -> None:
    del config
    sys.addaudithook(_audit)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in BY_FIXTURE:
                item.add_marker(BY_FIXTURE[fixture])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watch a test without marks, its fixtures included: also those that it shares with others."""
    global _guarded
    with pytest.MonkeyPatch.context() as patch:
        _caught.clear()
        if not any(item.get_closest_marker(mark) for mark in MARKS):
            patch.setattr(multiprocessing.process.BaseProcess, "start", lambda _: _catch("starts a process"))
            if "rclpy" in sys.modules:
                context = sys.modules["rclpy"].Context
                patch.setattr(context, "init", lambda *_, **__: _catch("joins the ROS network"))
            _guarded = item
        try:
            return (yield)
        finally:
            _guarded = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test as well whose code took the guard's error for one of its own."""
    result = yield
    if _guarded is item and _caught:
        raise UnmarkedError(f"{item.nodeid} {_caught[0]}: mark it with one of {', '.join(MARKS)}")
    return result
