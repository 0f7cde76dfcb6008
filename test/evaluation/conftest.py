"""What the evaluation's tests share: a world that is infinitely far away, recordings of it, and a blind model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from far_away import write_turning


@pytest.fixture(scope="session")
def turning_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of a camera that turns in a world far away: 24 images of 48x32 pixels."""
    return write_turning(tmp_path_factory.mktemp("bags") / "turning")
