import json

import pytest
import torch
from safetensors.torch import load_file

import elvsm_core as ec


@pytest.fixture(scope="module")
def images(golden):
    g = load_file(golden / "golden_metrics.safetensors")
    return g, json.loads((golden / "golden_metrics.json").read_text())


def test_psnr_and_ssim_equal_golden(images):
    g, expected = images
    torch.testing.assert_close(
        ec.metrics.psnr(g["pred"], g["gt"]), torch.tensor(expected["psnr"]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        ec.metrics.ssim(g["pred"], g["gt"]), torch.tensor(expected["ssim"]), atol=1e-5, rtol=0
    )


def test_identical_images(images):
    g, _ = images
    assert torch.isinf(ec.metrics.psnr(g["gt"], g["gt"])).all()
    torch.testing.assert_close(ec.metrics.ssim(g["gt"], g["gt"]), torch.ones(4), atol=1e-6, rtol=0)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        ec.metrics.psnr(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 8))
    with pytest.raises(ValueError, match="11x11"):
        ec.metrics.ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
