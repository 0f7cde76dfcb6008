from pathlib import Path

import numpy as np
import pytest
import torch

import elvsm_core as ec


@pytest.fixture(scope="session")
def golden() -> Path:
    return Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def tiny_model() -> ec.EfficientLVSM:
    """A random network whose output depends strongly on what it is shown."""
    torch.manual_seed(3)
    model = ec.EfficientLVSM(
        ec.ModelConfig(width=64, head_dim=32, layers=2, patch_size=8, image_size=(32, 32))
    )
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval().requires_grad_(False)


@pytest.fixture
def walk():
    """Eight posed images of a walk of about a metre: [(uint8 [48, 64, 3], Camera), ...]."""
    rng = np.random.default_rng(5)
    views = []
    for i in range(8):
        angle = 0.1 * i
        T = np.eye(4)
        T[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        T[:3, 3] = [0.12 * i, 0.01 * i * i, 0.05 * i]
        image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        views.append((image, ec.Camera(60, 61, 32, 24, 64, 48, T)))
    return views
