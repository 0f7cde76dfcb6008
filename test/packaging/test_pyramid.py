"""Tests without a mark keep to one process, or fail."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = """
import multiprocessing, subprocess, sys
import pytest

def start():
    subprocess.run([sys.executable, "-c", ""], check=True)

@pytest.fixture
def peer():
    start()

def test_plain():
    start()

def test_hidden():
    try:
        start()
    except RuntimeError:
        pass

def test_multiprocessing():
    multiprocessing.get_context("spawn").Process(target=print).start()

def test_ros():
    rclpy = pytest.importorskip("rclpy")
    context = rclpy.Context()
    rclpy.init(context=context)
    rclpy.shutdown(context=context)

@pytest.mark.slow
def test_marked():
    start()

def test_fixture(peer):
    start()

def test_nothing():
    pass
"""


def test_a_process_needs_a_mark(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    ros = {"ros"} if importlib.util.find_spec("rclpy") else set()
    command = [sys.executable, "-m", "pytest", "-p", "process_guard", "-rA", "-q", "--tb=line"]
    command += ["-p", "rclpy"] if ros else []  # imported before the tests, as by test/ros
    config = ["-c", str(repository / "pyproject.toml"), "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*command, *config, str(tmp_path / "test_some.py")],
        cwd=repository / "test",
        text=True,
        capture_output=True,
    )
    outcomes = {
        line.split("::")[1].split(" ")[0].removeprefix("test_"): line.split(" ")[0]
        for line in done.stdout.splitlines()
        if line.startswith(("PASSED", "FAILED", "ERROR"))
    }
    passed = {name for name, outcome in outcomes.items() if outcome == "PASSED"}
    assert passed == {"marked", "fixture", "nothing"}, done.stdout + done.stderr
    assert "mark it with one of ros, gpu, slow, browser" in done.stdout
    assert set(outcomes) - passed == {"plain", "hidden", "multiprocessing", *ros}
