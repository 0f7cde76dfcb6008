"""What README.md points at exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import elvsm_core


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def test_links_lead_to_files(repository: Path, readme: str) -> None:
    links = {link for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link}
    assert "docs/demo.png" in links
    assert not [link for link in sorted(links) if not (repository / link).exists()]


def test_the_folders_of_the_layout_exist(repository: Path, readme: str) -> None:
    layout = readme.partition("## Layout")[2].partition("\n## ")[0]
    named = {
        name for row in layout.splitlines() for name in re.findall(r"`([\w./]+)`", row.partition(" | ")[0])
    }
    assert len(named) > 8
    assert not [name for name in sorted(named) if not (repository / name).exists()]


@pytest.mark.slow
def test_make_has_the_targets(repository: Path, readme: str) -> None:
    named = set(re.findall(r"\bmake (demo|test-fast|test|docs|lint|format|clean)\b", readme))
    assert {"demo", "test", "test-fast"} <= named
    for target in named:
        subprocess.run(["make", "-n", target], cwd=repository, check=True, capture_output=True)


def test_the_python_example_runs(readme: str) -> None:
    """Run the example line by line, with a small model in place of the bundled one."""
    (example,) = (e for e in re.findall(r"```python\n(.*?)```", readme, re.S) if "elvsm_core" in e)
    config = elvsm_core.ModelConfig(width=64, head_dim=32, layers=1, patch_size=8, image_size=(32, 32))
    image = np.zeros((48, 64, 3), np.uint8)
    values = {
        "fx": 50.0,
        "fy": 50.0,
        "cx": 32.0,
        "cy": 24.0,
        "width": 64,
        "height": 48,
        "T_world_cam": np.eye(4),
        "image": image,
        "better_image": image,
        "other_camera": elvsm_core.Camera(50.0, 50.0, 32.0, 24.0, 64, 48, np.eye(4)),
        "small": elvsm_core.EfficientLVSM(config).eval(),
    }
    code = example.replace('ec.load_model("demo")', "small")
    assert code != example
    exec(code, values)
    assert values["out"].images.shape == (1, 48, 64, 3)
    assert values["out"].support.shape == (1,)
