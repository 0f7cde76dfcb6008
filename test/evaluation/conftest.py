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


@pytest.fixture(scope="session")
def blind_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a tiny model with random weights: quick, and certain to render badly."""
    import torch

    import elvsm_core as ec

    torch.manual_seed(0)
    model = ec.EfficientLVSM(
        ec.ModelConfig(width=64, head_dim=32, layers=2, patch_size=8, image_size=(32, 32))
    )
    path = tmp_path_factory.mktemp("models") / "blind.safetensors"
    ec.save_model(model, path)
    return path
