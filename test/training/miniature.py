"""What the tests of evaluations evaluate: views of the scenes in conftest.py as an index has them, and models."""

from __future__ import annotations

import torch

import elvsm_core as ec

SCENES = {
    "5aca87f95a9412c6": {"context": [2, 30], "target": [5, 9, 21]},
    "322261824c4a3003": {"context": [0, 26], "target": [3, 11, 26]},
    "17d9303ee77c3a3d": {"context": [4, 31], "target": [8, 16, 24]},
}


def random_model(**sizes: int) -> ec.EfficientLVSM:
    """Return a model for 32x32 pixels whose weights are so large that renders depend on inputs and poses."""
    torch.manual_seed(0)
    made = ec.EfficientLVSM(ec.ModelConfig(image_size=(32, 32), **sizes))
    for parameter in made.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    return made.eval().requires_grad_(False)
