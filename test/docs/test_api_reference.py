"""The API reference builds without a warning, and has every public name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")
pytest.importorskip("sphinx", reason="needs the extra [docs]: run make docs")

from sphinx.util.inventory import InventoryFile

import elvsm_core
import elvsm_ros

LEFT_TO_THEIR_MODULES = {"checkpoint", "keyframes", "metrics", "PRESETS"}


def test_the_reference_has_every_public_name(repository: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-E",
        str(repository / "docs" / "api"),
    ]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=repository, text=True, capture_output=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
    with (tmp_path / "objects.inv").open("rb") as file:
        objects = InventoryFile.load(file, "", lambda base, path: path)
    described = {name for domain in objects.values() for name in domain}
    for package in (elvsm_core, elvsm_ros):
        names = {f"{package.__name__}.{name}" for name in set(package.__all__) - LEFT_TO_THEIR_MODULES}
        assert names <= described, names - described
    assert {
        "elvsm_core.Scene.render",
        "elvsm_ros.SceneClient.render_views",
        "elvsm_core.metrics.psnr",
    } <= described
    assert "elvsm_core.config.PRESETS" in described
