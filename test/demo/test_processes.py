"""Processes that are started are ended, and so is what they started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from elvsm_ros.tools import processes
from elvsm_ros.tools.processes import Child, ProcessDied, free_domain, private_environment, stop

pytestmark = pytest.mark.slow

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
code = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code])
print(child.pid, flush=True)
time.sleep(60)
"""


def wait_for(condition: Callable[[], object], timeout: float = 20.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def python(code: str, folder: Path, name: str = "child") -> Child:
    return Child(name, [sys.executable, "-c", code], os.environ, folder / f"{name}.log")


def test_a_process_that_ends_by_itself_is_asked_only(tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(2, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(60)"
    child = python(code, tmp_path)
    wait_for(lambda: "up" in child.log.read_text())
    stop([child], grace=20)
    assert child.status == 7


def test_processes_that_will_not_end_are_killed_with_their_children(tmp_path: Path) -> None:
    children = [python(STUBBORN, tmp_path, name) for name in ("one", "two")]
    wait_for(lambda: all(child.log.read_text().strip() for child in children))
    pids = [int(child.log.read_text()) for child in children] + [child.pid for child in children]
    assert all(runs(pid) for pid in pids)
    stop(children, grace=0.2)
    wait_for(lambda: not any(runs(pid) for pid in pids))
    assert [child.status for child in children] == [-signal.SIGKILL] * 2
    stop(children)  # may be called again


def test_the_last_one_started_goes_first(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n    print('asked', time.monotonic(), flush=True); time.sleep(0.2); sys.exit()\n"
        "signal.signal(2, end); print('up', flush=True); time.sleep(60)"
    )
    children = [python(code, tmp_path, name) for name in ("node", "player")]
    wait_for(lambda: all("up" in child.log.read_text() for child in children))
    stop(children, grace=20)
    node, player = (float(child.log.read_text().split()[-1]) for child in children)
    assert player + 0.2 <= node


def test_a_death_is_reported_with_the_last_words(tmp_path: Path) -> None:
    child = python("import sys; print('the disk is full'); sys.exit(3)", tmp_path)
    wait_for(lambda: child.status is not None)
    with pytest.raises(ProcessDied) as caught:
        child.check()
    for words in ("child", "status 3", "the disk is full", "child.log"):
        assert words in str(caught.value)


def test_an_end_in_good_order_is_no_death(tmp_path: Path) -> None:
    child = python("pass", tmp_path)
    child.check()
    wait_for(lambda: child.status == 0)
    child.check()


def test_children_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "from elvsm_ros.tools.processes import Child\n"
        f"child = Child('c', [sys.executable, '-c', 'import time; time.sleep(60)'], os.environ, "
        f"pathlib.Path({str(tmp_path / 'c.log')!r}))\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert runs(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not runs(pid))


def test_the_network_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS", raising=False)
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    environment = private_environment()
    assert 1 <= int(environment["ROS_DOMAIN_ID"]) <= 101
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert environment["FASTDDS_BUILTIN_TRANSPORTS"] == "LARGE_DATA"
    assert environment["AMENT_PREFIX_PATH"] == sys.prefix
    assert private_environment(7)["ROS_DOMAIN_ID"] == "7"


def test_a_domain_that_somebody_uses_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    # The dice fall on 5 first; somebody is there.
    monkeypatch.setattr(
        "random.SystemRandom.shuffle", lambda self, domains: domains.sort(key=lambda d: (d - 5) % 101)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebody:
        somebody.bind(("", 7400 + 250 * 5))
        assert free_domain() == 6


def test_private_traffic_keeps_its_large_images(monkeypatch, tmp_path):
    """Limited to this machine, Fast DDS ignores LARGE_DATA; a profile has to stand in for it."""
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    profile = private_environment()["FASTDDS_DEFAULT_PROFILES_FILE"]
    assert "segment_size" in Path(profile).read_text()
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/mine.xml")
    assert private_environment()["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"
    # Installed by colcon, the profile lies in the package's share folder.
    monkeypatch.setattr(processes, "__file__", str(tmp_path / "lib" / "elvsm_ros" / "processes.py"))
    assert processes.localhost_profile(str(tmp_path)) is None
    installed = tmp_path / "share" / "elvsm" / "config" / "fastdds_localhost.xml"
    installed.parent.mkdir(parents=True)
    installed.write_text("<profiles/>")
    assert processes.localhost_profile(f"/nowhere:{tmp_path}") == installed
