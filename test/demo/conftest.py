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
