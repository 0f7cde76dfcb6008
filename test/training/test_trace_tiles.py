"""The Triton tracer against the one in plain PyTorch: on a GPU, or anywhere with Triton and TRITON_INTERPRET=1."""

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
if not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET")):
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

from training.procedural.furniture import furnish
from training.procedural.raycast import render_views
from training.procedural.rng import Dice
from training.procedural.textures import make_texture_bank
from training.procedural.walks import draw_intrinsics, draw_walks

pytestmark = pytest.mark.gpu

SIZE = (16, 24)  # a tile and a half


def test_tiles_draw_what_the_dense_tracer_draws():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(11)
    bank = make_texture_bank(8, 16, seed=3, device=device)
    room = furnish(bank, 2, generator, device)
    dice = Dice(2, generator, device, 4096)
    c2w, room = draw_walks(room, 1, dice)
    k = draw_intrinsics(dice, 1, SIZE, (60.0, 80.0))
    made = {
        method: render_views(room, bank, c2w, k, SIZE, supersampling=1, method=method)
        for method in ("dense", "tiled")
    }
    (a, depth_a), (b, depth_b) = made["dense"], made["tiled"]
    assert depth_a.std() > 0.1
    assert ((depth_a - depth_b).abs() < 1e-3).float().mean() > 0.995
    assert ((a.int() - b.int()).abs() <= 2).float().mean() > 0.98, "shadows at grazing angles may differ"
