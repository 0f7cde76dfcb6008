"""The training objective against the published one's figures, for VGG19 weights made by a recipe."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from safetensors.torch import load_file, save_file

from training.losses.objective import LossConfig, Objective, perceptual_loss, perceptual_terms
from training.losses.pixels import geometry_errors, pixel_errors
from training.losses.vgg import CHANNELS, LAYERS, VGG19, WeightFileError, read_vgg19

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def state():
    """VGG19's weights by the recipe of test/golden/README.md."""

    def draw(name, *shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))

    tensors, channels = {}, 3
    for i, width in zip(LAYERS, CHANNELS, strict=True):
        scale = (2 / (9 * channels)) ** 0.5
        tensors[f"features.{i}.weight"] = draw(f"vgg19.features.{i}.weight", width, channels, 3, 3) * scale
        tensors[f"features.{i}.bias"] = draw(f"vgg19.features.{i}.bias", width) * 0.1
        channels = width
    return tensors


@pytest.fixture(scope="module")
def vgg(state):
    return VGG19(state)


@pytest.fixture(scope="module")
def golden():
    tensors = load_file(GOLDEN / "golden_metrics.safetensors")
    return (
        tensors["pred"].clamp(0, 1),
        tensors["gt"],
        tensors,
        json.loads((GOLDEN / "golden_metrics.json").read_text()),
    )


def test_perceptual_loss_equals_golden(vgg, golden):
    pred, gt, _, expected = golden
    assert [list(f.shape) for f in vgg(vgg.pixels(gt))] == expected["feature_shapes"]
    terms = torch.stack(perceptual_terms(vgg, pred, gt))
    torch.testing.assert_close(terms, torch.tensor(expected["raw_L1"]), rtol=1e-5, atol=0)
    batch = perceptual_loss(vgg, pred, gt).item()
    assert batch == pytest.approx(expected["perceptual_loss_batch4"], rel=1e-5)
    each = [perceptual_loss(vgg, pred[i : i + 1], gt[i : i + 1]).item() for i in range(4)]
    assert each == pytest.approx(expected["perceptual_loss_per_image"], rel=1e-5)


def test_objective_and_its_gradient_equal_golden(state, golden, tmp_path):
    pred, gt, tensors, expected = golden
    save_file(state, tmp_path / "vgg19.safetensors")
    objective = Objective(LossConfig(), tmp_path / "vgg19.safetensors")
    rendering = pred.unflatten(0, (2, 2)).clone().requires_grad_()
    opaque = torch.cat([gt, torch.ones_like(gt[:, :1])], 1).unflatten(0, (2, 2))
    values = objective(rendering, opaque)
    values.total.backward()
    published = {
        "total": "loss",
        "mse": "l2_loss",
        "psnr": "psnr",
        "perceptual": "perceptual_loss",
        "lpips": "lpips_loss",
        "repa": "proj_loss",
        "norm_perceptual": "norm_perceptual_loss",
        "norm_lpips": "norm_lpips_loss",
    }
    measured = {published[name]: value for name, value in values.scalars().items()}
    assert measured == pytest.approx(expected["loss_computer"], rel=1e-5)
    torch.testing.assert_close(rendering.grad, tensors["loss_grad_wrt_pred"], rtol=1e-3, atol=1e-8)
    with torch.no_grad():
        with_repa = Objective(LossConfig(perceptual=0))(
            rendering, opaque, torch.tensor(expected["repa_total_loss"]["proj_loss"])
        )
    assert with_repa.total.item() == pytest.approx(expected["repa_total_loss"]["loss"], rel=1e-5)
    assert not any(parameter.requires_grad for parameter in objective.parameters())


def test_weight_files_of_all_layouts_give_the_same(state, tmp_path):
    layers = np.empty(2 * len(LAYERS) + 1, dtype=object)
    for n, i in enumerate(LAYERS):
        weights = np.empty(2, dtype=object)
        weights[0] = state[f"features.{i}.weight"].numpy().transpose(2, 3, 1, 0)
        weights[1] = state[f"features.{i}.bias"].numpy()[:, None]
        layers[2 * n] = {"name": f"conv{n}", "type": "conv", "weights": weights}
        layers[2 * n + 1] = {"name": f"relu{n}", "type": "relu"}
    fully = np.empty(2, dtype=object)
    fully[0], fully[1] = np.zeros((7, 7, 2, 2)), np.zeros(2)
    layers[-1] = {"name": "fc6", "type": "conv", "weights": fully}
    scipy.io.savemat(tmp_path / "vgg.mat", {"layers": layers})
    np.savez(tmp_path / "vgg.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    published = {f"loss_computer.perceptual_loss_module.vgg.{name}": tensor for name, tensor in state.items()}
    torch.save({"model": published | {"rgbp_tokenizer.1.weight": torch.zeros(2)}}, tmp_path / "vgg.pt")
    for name in ("vgg.mat", "vgg.npz", "vgg.pt"):
        read = read_vgg19(tmp_path / name)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state), name


def test_weights_that_are_missing_or_wrong_are_refused(state, tmp_path):
    with pytest.raises(WeightFileError, match=r"imagenet-vgg-verydeep-19\.mat"):
        Objective(LossConfig())
    with pytest.raises(WeightFileError, match=r"there is no file .*vgg\.mat"):
        Objective(LossConfig(), tmp_path / "vgg.mat")
    torch.save(state | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "torchvision.pth")
    with pytest.raises(WeightFileError, match="torchvision's"):
        read_vgg19(tmp_path / "torchvision.pth")
    (tmp_path / "cut.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut")
    with pytest.raises(WeightFileError, match="download it again"):
        read_vgg19(tmp_path / "cut.mat")
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightFileError, match="not the weights of VGG19"):
        read_vgg19(tmp_path / "other.safetensors")
    with pytest.raises(WeightFileError, match=r"shape \[64, 3, 5, 5\]"):
        VGG19(state | {"features.0.weight": torch.zeros(64, 3, 5, 5)})


def test_terms_without_weight_need_no_files():
    a, b = torch.rand(1, 2, 3, 16, 16), torch.rand(1, 2, 3, 16, 16)
    values = Objective(LossConfig(perceptual=0))(a, b)
    assert values.total == values.mse == (a - b).square().mean()
    with pytest.raises(ValueError, match="at least 0"):
        LossConfig(lpips=-1)
    with pytest.raises(ValueError, match="target"):
        Objective(LossConfig(perceptual=0))(a, b[:, :1])


@pytest.mark.slow
def test_lpips_term_equals_the_metric(test_data):
    import elvsm_core as ec

    weights = test_data / "lpips"
    try:
        objective = Objective(LossConfig(mse=0, perceptual=0, lpips=1), lpips_weights=weights)
    except ec.metrics.MetricError as error:
        pytest.skip(str(error))
    a, b = torch.rand(1, 2, 3, 32, 32).requires_grad_(), torch.rand(1, 2, 3, 32, 32)
    values = objective(a, b)
    values.total.backward()
    torch.testing.assert_close(
        values.total.detach(), ec.metrics.lpips(a[0], b[0], weights=weights).mean().detach()
    )
    assert a.grad.abs().sum() > 0
    first = Objective(LossConfig(mse=0, perceptual=0, lpips=1), lpips_weights=weights, lpips_targets=1)
    expected = ec.metrics.lpips(a[:, 0], b[:, 0], weights=weights).mean().detach()
    torch.testing.assert_close(first(a, b).lpips, expected)
    assert first(a, b, lpips=False).total == 0


def test_unseen_pixels_count_less_and_coarse_scenes_at_half_the_size():
    target = torch.zeros(2, 1, 3, 8, 8)
    image = target.clone()
    image[:, :, :, :, 4:] = 0.5  # wrong where nothing was seen
    weight = torch.ones(2, 1, 8, 8)
    weight[..., 4:] = 0.15
    plain, weighted, _ = pixel_errors(image, target, weight)
    assert plain == pytest.approx(0.125) and weighted == pytest.approx(0.25 * 0.15 / 1.15)
    assert pixel_errors(image, target)[1] == plain
    stripes = target.clone()
    stripes[..., ::2] = 0.2
    stripes[..., 1::2] = -0.2
    fine = pixel_errors(stripes, target, None, torch.tensor([True, True]))
    mixed = pixel_errors(stripes, target, None, torch.tensor([True, False]))
    assert fine[1] == pytest.approx(0.04) and mixed[1] == pytest.approx(0.02), (
        "gone in a picture of half the size"
    )
    assert fine[2] > 0.1 > pixel_errors(target + 0.2, target)[2] == 0


def test_geometry_errors_are_of_log_depth_and_of_visibility():
    depth = torch.full((1, 1, 2, 2), 2.0)
    seen = torch.tensor([[[[True, False], [True, True]]]])
    weight = torch.where(seen, 1.0, 0.15)
    right = geometry_errors(depth.log(), torch.where(seen, 30.0, -30.0), depth, seen, weight)
    assert right[0] < 1e-6 and right[1] < 1e-6
    off = depth.log().clone()
    off[0, 0, 0, 1] += 1.0
    half = geometry_errors(off, torch.zeros_like(depth), depth, seen, weight)
    assert half[0] == pytest.approx(0.15 / 3.15, rel=1e-4) and half[1] == pytest.approx(math.log(2), rel=1e-4)
