"""Samples with exact geometry: windows, depth and visibility fit together; poses drift as a tracker's do."""

import math

import pytest
import torch

from elvsm_core import compute_rays
from training.procedural.scenes import SceneConfig, draw_scenes, make_texture_bank
from training.sampling.recipe import drift
from training.sampling.shaped import shaped_sample
from training.settings import BatchShape, SamplingSettings, SettingsError, load_settings

SIDE = 40


@pytest.fixture(scope="module")
def scenes():
    config = SceneConfig(supersampling=1, noise=0, exposure=0, fov=(70.0, 80.0), shadows=False)
    return draw_scenes(config, make_texture_bank(16, 32, seed=3), 2, 6, (SIDE, SIDE), 7)


@pytest.mark.parametrize(
    ("size", "crop"), [((SIDE, SIDE), (24, 32)), ((SIDE // 2, SIDE // 2), (SIDE // 2, SIDE // 2))]
)
def test_pixels_that_are_seen_have_the_inputs_colours_and_the_others_have_not(scenes, size, crop):
    """Lift each target pixel by the sample's own depth and poses, and look it up in the inputs."""
    settings = SamplingSettings(noisy_share=0.0, camera=0.0, published=0.5)
    sample = shaped_sample(
        scenes, BatchShape(2, 3, 2, size, crop), settings, torch.Generator().manual_seed(1)
    )
    assert sample.images.shape == (2, 2, 3, *size) and sample.target_images.shape == (2, 3, 3, *crop)
    assert sample.seen.shape == sample.target_depth.shape == (2, 3, *crop) and sample.precise.all()
    origins, directions = compute_rays(sample.target_c2w, sample.target_fxfycxcy, crop)
    axis = sample.target_c2w[..., :3, 2, None, None]
    points = origins + directions * (
        sample.target_depth[:, :, None] / (directions * axis).sum(2, keepdim=True)
    )
    nearest = torch.full(sample.seen.shape, 9.0)
    for view in range(2):
        w2c = torch.linalg.inv(sample.c2w[:, view])
        local = torch.einsum("bij,bmjhw->bmihw", w2c[:, :3, :3], points) + w2c[:, None, :3, 3, None, None]
        fx, fy, cx, cy = (sample.fxfycxcy[:, view, i, None, None, None] for i in range(4))
        u, v = local[:, :, 0] / local[:, :, 2] * fx + cx, local[:, :, 1] / local[:, :, 2] * fy + cy
        inside = (local[:, :, 2] > 0) & (u >= 0) & (u < size[1]) & (v >= 0) & (v < size[0])
        column, row = u.clamp(0, size[1] - 1).long(), v.clamp(0, size[0] - 1).long()
        for b in range(2):
            there = sample.images[b, view][:, row[b], column[b]].transpose(0, 1)
            error = (there - sample.target_images[b]).abs().mean(1)
            nearest[b] = torch.where(inside[b], torch.minimum(nearest[b], error), nearest[b])
    assert 0.3 < sample.seen.float().mean() < 0.999
    assert (nearest[sample.seen] < 0.08).float().mean() > 0.93
    assert (nearest[~sample.seen] < 0.08).float().mean() < 0.4


def test_drift_grows_with_the_distance_along_the_walk():
    c2w = torch.eye(4).repeat(400, 12, 1, 1)
    made = drift(c2w, 0.1, 0.002, 0.5, torch.Generator().manual_seed(0))
    moved = made[..., :3, 3].abs().amax((1, 2)) > 0
    assert 0.4 < moved.float().mean() < 0.6

    def apart(k):
        turn = made[:, :-k, :3, :3].mT @ made[:, k:, :3, :3]
        cosine = (turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
        return cosine.double().clamp(-1, 1).acos()[moved].square().mean().sqrt()

    near, far = apart(1), apart(9)
    assert 2.5 < far / near < 3.5 and math.degrees(near) < 0.1 * 3**0.5


def test_poses_with_white_errors_are_marked(scenes):
    settings = SamplingSettings(noisy_share=1.0, drift_share=1.0, pose_drift=(0.1, 0.002), camera=0.0)
    shape = BatchShape(2, 2, 2, (SIDE, SIDE), (SIDE, SIDE))
    assert not shaped_sample(scenes, shape, settings, torch.Generator().manual_seed(1)).precise.any()


def test_shapes_that_do_not_fit_are_refused():
    def refused(shape, *more):
        with pytest.raises(SettingsError) as error:
            load_settings(None, [f"sampling.shapes=[{shape}]", "data.size=[64,64]", *more])
        return str(error.value)

    good = "{inputs: 2, targets: 3, batch: 2, size: [64, 64], crop: [32, 32]}"
    assert (
        load_settings(None, [f"sampling.shapes=[{good}]", "data.size=[64,64]"]).sampling.shapes[0].share
        == 1.0
    )
    assert "no whole fraction" in refused(good.replace("size: [64, 64]", "size: [48, 48]"))
    assert "larger than size" in refused(good.replace("crop: [32, 32]", "crop: [32, 72]"))
    assert "whole patches" in refused(good.replace("crop: [32, 32]", "crop: [32, 36]"))
    assert "need that many data.views" in refused(good.replace("inputs: 2", "inputs: 12"))
    assert "inputs must be at least 1" in refused(good.replace("inputs: 2", "inputs: 0"))
    assert "set model.geometry_heads=true" in refused(good, "loss.depth=0.1")
    with pytest.raises(SettingsError, match=r"need sampling\.shapes"):
        load_settings(None, ["loss.unseen=0.2"])
    with pytest.raises(SettingsError, match="attention must be"):
        load_settings(None, ["attention=fast"])
