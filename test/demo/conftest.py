"""What the demo's tests share: recordings, and models too small to see anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from recordings import write_walk


@pytest.fixture(scope="session")
def small_walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of ten small images and thirty poses."""
    return write_walk(tmp_path_factory.mktemp("bags") / "walk")
