"""The model against the numbers that the published one gives."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import elvsm_core as ec
from elvsm_core.model import RMSNorm

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = ec.ModelConfig(width=64, head_dim=32, layers=2, patch_size=8)


@pytest.fixture(scope="module")
def small():
    return load_file(GOLDEN / "golden_small.safetensors")


@pytest.fixture(scope="module")
def model(small):
    model = ec.EfficientLVSM(SMALL).eval()
    model.load_published_state_dict({k[6:]: v for k, v in small.items() if k.startswith("model.")})
    return model.requires_grad_(False)


def render(model, g, first=None):
    size = tuple(g["in.target.image"].shape[-2:])
    return model(
        g["in.input.image"][:, :first],
        g["in.input.c2w"][:, :first],
        g["in.input.fxfycxcy"][:, :first],
        g["in.target.c2w"],
        g["in.target.fxfycxcy"],
        target_size=size,
    )


def append(old, new):
    if old is None:
        return new
    return [(torch.cat([a, c], 1), torch.cat([b, d], 1)) for (a, b), (c, d) in zip(old, new, strict=True)]


def incremental(model, g, groups):
    """Render after every group of view indices has been appended to the cache."""
    cache, renders, scenes = None, [], g["in.input.image"].shape[0]
    for group in groups:
        picked = [g[f"in.input.{name}"][:, group].flatten(0, 1) for name in ("image", "c2w", "fxfycxcy")]
        encoded = [
            tuple(t.unflatten(0, (scenes, -1)).flatten(1, 2) for t in kv)
            for kv in model.encode_views(*picked)
        ]
        cache = append(cache, encoded)
        size = tuple(g["in.target.image"].shape[-2:])
        renders.append(model.decode(cache, g["in.target.c2w"], g["in.target.fxfycxcy"], size))
    return cache, renders


@pytest.mark.parametrize("name", ["golden_small", "golden_small_nonsquare"])
def test_render_equals_golden(model, name):
    g = load_file(GOLDEN / f"{name}.safetensors")
    torch.testing.assert_close(render(model, g), g["render.full"], atol=2e-6, rtol=0)
    for first in (1, 2, 3):
        if f"render.full_first{first}" in g:
            expected = g[f"render.full_first{first}"]
            torch.testing.assert_close(render(model, g, first), expected, atol=2e-6, rtol=0)
    for step, image in enumerate(incremental(model, g, [[0], [1], [2]])[1], start=1):
        torch.testing.assert_close(image, g[f"render.inc_{step}"], atol=2e-6, rtol=0)


def test_keys_and_values_equal_golden(model, small):
    cache, _ = incremental(model, small, [[0, 1, 2]])
    for layer, (k, v) in enumerate(cache):
        torch.testing.assert_close(k, small[f"cache.k_{layer}"], atol=5e-6, rtol=1e-6)
        torch.testing.assert_close(v, small[f"cache.v_{layer}"], atol=5e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "groups", [[[0], [1], [2]], [[0, 1], [2]], [[0], [1, 2]], [[2], [0], [1]], [[1, 2, 0]]]
)
@pytest.mark.parametrize("name", ["golden_small", "golden_small_nonsquare"])
def test_any_order_and_grouping_equals_full(model, name, groups):
    g = load_file(GOLDEN / f"{name}.safetensors")
    _, renders = incremental(model, g, groups)
    torch.testing.assert_close(renders[-1], render(model, g), atol=1e-6, rtol=0)


def test_targets_do_not_influence_each_other(model, small):
    together = render(model, small)
    for m in range(together.shape[1]):
        alone = dict(small)
        for key in ("c2w", "fxfycxcy"):
            alone[f"in.target.{key}"] = small[f"in.target.{key}"][:, m : m + 1]
        torch.testing.assert_close(render(model, alone)[:, 0], together[:, m], atol=1e-6, rtol=0)


def test_targets_may_have_another_size(model, small):
    image = model(
        small["in.input.image"],
        small["in.input.c2w"],
        small["in.input.fxfycxcy"],
        small["in.target.c2w"],
        small["in.target.fxfycxcy"],
        target_size=(16, 40),
    )
    assert image.shape == (1, 2, 3, 16, 40)
    with pytest.raises(ValueError, match="patch size 8"):
        model.check_size((20, 32))


def test_rms_norm_uses_the_published_epsilon():
    x = torch.full((1, 32), 1e-3)
    expected = 1e-3 / np.sqrt(1e-6 + 1e-5)
    torch.testing.assert_close(RMSNorm(32)(x), torch.full((1, 32), float(expected)), rtol=1e-6, atol=0)
    half = RMSNorm(32).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16


def test_bfloat16_stays_near_float32(model, small):
    half = ec.EfficientLVSM(SMALL).eval().bfloat16()
    half.load_state_dict(model.state_dict())
    image = render(half, small)
    assert image.dtype == torch.float32
    assert (image - small["render.full"]).abs().mean() < 1e-2


def test_training_recipe_initialisation():
    torch.manual_seed(0)
    m = ec.EfficientLVSM(ec.ModelConfig(width=256, head_dim=64, layers=3))
    assert m.rgbp_tokenizer[1].weight.std().item() == pytest.approx(0.02, rel=0.03)
    for layer, block in enumerate(m.self_cross_blocks):
        expected = 0.02 / np.sqrt(2 * (layer + 1))
        assert block.cross_attn.to_kv.weight.std().item() == pytest.approx(expected, rel=0.03)
    encoder = m.input_self_attn_blocks[0].mlp.mlp[0].weight
    assert encoder.abs().max().item() == pytest.approx(1 / np.sqrt(256), rel=0.01)


def recipe_tensor(name, shape):
    generator = torch.Generator("cpu").manual_seed(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    values = torch.randn(shape, generator=generator, dtype=torch.float32)
    return 0.02 * values if len(shape) == 2 else 1 + 0.1 * values


def recipe_image(view):
    y, x = np.meshgrid(np.arange(256) / 256, np.arange(256) / 256, indexing="ij")
    channels = []
    for c in range(3):
        a, b, phase = 3 + 2 * view + c, 5 - view + 2 * c, 0.7 * view + 1.1 * c
        wave = 0.5 + 0.3 * np.sin(2 * np.pi * (a * x + b * y) + phase)
        channels.append(wave + 0.15 * np.cos(4 * np.pi * (b * x - a * y) + phase))
    return torch.from_numpy(np.stack(channels).astype(np.float32))


@pytest.mark.slow
def test_full_size_model_equals_golden():
    golden = json.loads((GOLDEN / "golden_full.json").read_text())
    with torch.device("meta"):
        model = ec.EfficientLVSM(ec.PRESETS["efficient-lvsm"]).eval()
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert len(shapes) == golden["tensors"]
    assert sum(int(np.prod(s)) for s in shapes.values()) == golden["params"]
    listed = (GOLDEN / "full_state_dict_keys.txt").read_text()
    assert all(name in listed for name in shapes)
    weights = {name: recipe_tensor(name, shape) for name, shape in shapes.items()}
    for name, check in golden["weight_checks"].items():
        raw = weights[name].numpy().astype("<f4").tobytes()
        assert hashlib.sha256(raw).hexdigest() == check["sha256"], f"random numbers differ for {name}"
    model.to_empty(device="cpu").load_published_state_dict(weights)
    images = torch.stack([recipe_image(v) for v in (0, 1)])[None]
    c2w = torch.tensor(golden["c2w"], dtype=torch.float32)[None]
    intrinsics = torch.tensor(golden["fxfycxcy"], dtype=torch.float32)[None]
    stored = np.load(GOLDEN / "golden_full_render.npz")
    with torch.inference_mode():
        for views, key in ((2, "render_2in"), (1, "render_1in")):
            image = model(
                images[:, :views],
                c2w[:, :views],
                intrinsics[:, :views],
                c2w[:, 2:],
                intrinsics[:, 2:],
                (256, 256),
            )
            difference = (image - torch.from_numpy(stored[key].astype(np.float32))).abs().max().item()
            assert difference <= 3e-4, f"{key}: {difference}"
