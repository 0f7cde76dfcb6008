"""The viewer beside the demo: started on its network, opened in a browser, kept after the report."""

from __future__ import annotations

import os
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from elvsm_ros.tools.processes import Child, ProcessDied

PATIENCE = 30.0
"""Seconds that the viewer may take to serve its page."""


def start_viewer(port: int, camera_info_topic: str, out: Path, children: list[Child]) -> str:
    """Start elvsm_viewer and return the page's address. Raises ProcessDied when it does not come up."""
    command = [sys.executable, "-m", "elvsm_ros.viewer", "--port", str(port), "--out", str(out)]
    command += ["--ros-args", "-r", f"camera_info:={camera_info_topic}"]
    viewer = Child("elvsm_viewer", command, os.environ, out / "viewer.log")
    children.append(viewer)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and viewer.status is None:
        for line in viewer.log.read_text(errors="replace").splitlines():
            if line.startswith("elvsm_viewer: http"):
                return line.split()[1]
        time.sleep(0.1)
    raise ProcessDied(viewer.obituary())


def open_page(url: str) -> None:
    """Open the page where there is a screen; a browser in the terminal would be in the way."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


def keep(processes: Sequence[Child]) -> None:
    """Wait until one of the processes ends, or somebody interrupts. Raises ProcessDied for a bad end."""
    while all(process.status is None for process in processes):
        time.sleep(0.2)
    for process in processes:
        process.check()
