"""Scores of depth and confidence: perfect heads score perfectly, and the summaries are what their names say."""

import math

import pytest
import torch

import elvsm_core as ec
from elvsm_core.model import Decoded
from training.evaluate import procedural_scenes
from training.evaluation.geometry import area_under_roc, calibration_error, main, score_geometry
from training.sampling.visibility import seen_by_inputs


def test_area_and_calibration():
    truth = torch.tensor([True, True, False, False])
    assert area_under_roc(torch.tensor([0.9, 0.8, 0.2, 0.1]), truth) == 1.0
    assert area_under_roc(torch.tensor([0.9, 0.2, 0.8, 0.1]), truth) == pytest.approx(0.75)
    assert area_under_roc(torch.full((4,), 0.5), truth) == pytest.approx(0.5)
    assert math.isnan(area_under_roc(torch.rand(2), torch.tensor([True, True])))
    assert calibration_error(torch.full((4,), 0.5), truth) == pytest.approx(0.0)
    assert calibration_error(torch.tensor([1.0, 1.0, 0.0, 1.0]), truth) == pytest.approx(0.25)


@pytest.mark.slow
def test_a_model_that_knows_the_scenes_scores_perfectly(monkeypatch, capsys, tmp_path):
    scenes = procedural_scenes(1, (32, 32), inputs=2, targets=1, tiles=16, texture_size=16)
    model = ec.EfficientLVSM(ec.ModelConfig(32, 16, 1, 8, image_size=(32, 32), geometry_heads=True)).eval()
    world = scenes.c2w.float()
    known = (scenes.depth[:, :2], world[:, :2], scenes.fxfycxcy[:, :2])
    seen = seen_by_inputs(scenes.depth[:, 2:], world[:, 2:], scenes.fxfycxcy[:, 2:], *known)
    local = ec.normalize_poses(scenes.c2w.double())
    spans = [(x[0, 1, :3, 3] - x[0, 0, :3, 3]).norm() for x in (local, scenes.c2w.double())]
    depth = scenes.depth[:, 2:] * float(spans[0] / spans[1])

    def knows(factor):
        made = Decoded(scenes.images[:, 2:] / 255, (depth * factor).log(), torch.where(seen, 9.0, -9.0))
        monkeypatch.setattr(model, "decode_geometry", lambda *_: made)
        return score_geometry(model, scenes, 2)

    right, off = knows(1.0), knows(1.1)
    assert right.relative < 1e-3 and right.within == 1 and right.psnr > 90 and right.calibration < 1e-3
    assert right.roc == 1.0 or seen.all()
    assert off.relative == pytest.approx(0.1, abs=2e-3) and off.within == 0
    bare = tmp_path / "bare.safetensors"
    ec.save_model(ec.EfficientLVSM(ec.ModelConfig(32, 16, 1, 8, image_size=(32, 32))), bare)
    assert main(["--checkpoint", str(bare), "--scenes", "1", "--inputs", "2", "--device", "cpu"]) == 2
    assert "no geometry heads" in capsys.readouterr().err
