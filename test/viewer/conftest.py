"""What the tests of the viewer share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# For `rig`, which is no test and in no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ros"))


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that pictures of the page go to: ELVSM_SCREENSHOTS, or one that pytest removes."""
    folder = os.environ.get("ELVSM_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small model with random weights; its own size is 32x32."""
    from rig import save_small_model

    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors")
