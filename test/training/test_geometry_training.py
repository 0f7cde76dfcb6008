"""One tiny training with fixed shapes and geometry heads, from weights that have none, to exports with some."""

import pytest
import torch

import elvsm_core as ec
from training.settings import load_settings
from training.train import train

pytestmark = pytest.mark.slow

TINY = [
    "model.width=32", "model.head_dim=16", "model.layers=2", "model.patch_size=8", "model.image_size=[32,32]",
    "data.size=[32,32]", "data.views=6", "data.draw_batch=2", "data.pool=2", "data.draw_every=1000", "data.tiles=8",
    "data.texture_size=16", "data.scenes.supersampling=1", "data.scenes.shadows=false", "compile=false", "device=cpu",
    "eval_scenes=0", "logger=none", "optim.warmup=1", "optim.ema=0", "optim.lr=3e-3", "optim.edge=0.1", "minutes=10",
    "steps=24", "log_every=8",
]  # fmt: skip
SHAPES = (
    "sampling.shapes=[{inputs: 2, targets: 3, batch: 2, size: [32, 32], crop: [16, 24], share: 0.5}, "
    "{inputs: 3, targets: 2, batch: 1, size: [32, 32], crop: [32, 32], share: 0.3}, "
    "{inputs: 3, targets: 2, batch: 2, size: [16, 16], crop: [16, 16], share: 0.2}]"
)


def test_heads_learn_beside_the_image_and_are_exported(tmp_path, caplog):
    caplog.set_level("INFO", "training")
    bare = tmp_path / "bare.safetensors"
    torch.manual_seed(0)
    ec.save_model(ec.EfficientLVSM(ec.ModelConfig(32, 16, 2, 8, image_size=(32, 32))), bare)
    settings = load_settings(
        None,
        [
            *TINY, SHAPES, f"out={tmp_path / 'run'}", f"init={bare}", "model.geometry_heads=true", "loss.unseen=0.15",
            "loss.depth=0.3", "loss.confidence=0.1", "sampling.pose_drift=[0.06,0.0015]", "sampling.drift_share=0.5",
            "keep_before_decay=true", "optim.decay=0.999999",
        ],
    )  # fmt: skip
    made = ec.load_model(train(settings), device="cpu")
    assert "has no geometry heads: they start from nothing" in caplog.text
    lines = [m for m in caplog.messages if " loss " in m]
    values = [
        {name: float(line.split(f" {name} ")[1].split()[0]) for name in ("loss", "depth", "confidence")}
        for line in lines
    ]
    assert len(values) == 3 and values[-1]["confidence"] < values[0]["confidence"]
    assert made.config.geometry_heads and made.depth_head[1].bias.abs().max() > 1e-3
    before = ec.load_model(tmp_path / "run/before_decay.safetensors", device="cpu")
    assert before.config == made.config
    assert not torch.equal(before.depth_head[1].bias, made.depth_head[1].bias)
