"""Depth and confidence heads: optional, beside the image and not in it, and never loaded by mistake."""

import hashlib
import json

import pytest
import torch

import elvsm_core as ec
from elvsm_core.checkpoint import CheckpointError, infer_config

SIZES = {"width": 32, "head_dim": 16, "layers": 2, "patch_size": 4, "image_size": (16, 16)}


def model_of(heads: bool) -> ec.EfficientLVSM:
    torch.manual_seed(0)
    made = ec.EfficientLVSM(ec.ModelConfig(**SIZES, geometry_heads=heads))
    for name, parameter in made.named_parameters():
        if name.startswith(("depth_head", "confidence_head")):
            torch.nn.init.normal_(parameter, std=0.5)
    return made.eval().requires_grad_(False)


def views():
    g = torch.Generator().manual_seed(1)
    c2w = torch.eye(4).repeat(2, 4, 1, 1)
    c2w[..., :3, 3] = torch.rand(2, 4, 3, generator=g)
    k = torch.tensor([16.0, 16.0, 8.0, 8.0]).expand(2, 4, 4)
    return torch.rand(2, 2, 3, 16, 16, generator=g), c2w, k


def test_geometry_comes_beside_the_same_image():
    model, (images, c2w, k) = model_of(True), views()
    encoded = model.encode_scenes(images, c2w[:, :2], k[:, :2])
    made = model.decode_geometry(encoded, c2w[:, 2:], k[:, 2:], (8, 16))
    image = model(images, c2w[:, :2], k[:, :2], c2w[:, 2:], k[:, 2:], (8, 16))
    assert torch.equal(made.images, image) and made.depth.shape == made.confidence.shape == (2, 2, 8, 16)
    assert (
        (made.depth > 0).all()
        and made.depth.std() > 0
        and 0 < made.confidence.min() < made.confidence.max() < 1
    )
    # The heads' outputs lie in the image as the pixels do: token by token, row by row.
    one = model.decode_geometry([(a[:1], b[:1]) for a, b in encoded], c2w[:1, 2:3], k[:1, 2:3], (8, 16))
    torch.testing.assert_close(one.log_depth[0, 0], made.log_depth[0, 0])
    plain = model_of(False)
    shared = {
        n: x for n, x in model.state_dict().items() if not n.startswith(("depth_head", "confidence_head"))
    }
    plain.load_published_state_dict(shared)
    torch.testing.assert_close(plain(images, c2w[:, :2], k[:, :2], c2w[:, 2:], k[:, 2:], (8, 16)), image)
    with pytest.raises(ValueError, match="no geometry heads"):
        plain.decode_geometry(encoded, c2w[:, 2:], k[:, 2:], (8, 16))


def test_files_say_whether_there_are_heads(tmp_path):
    for heads in (False, True):
        path = tmp_path / f"{heads}.safetensors"
        ec.save_model(model_of(heads), path)
        assert ec.load_model(path, device="cpu").config.geometry_heads is heads
        torch.save({"model": model_of(heads).state_dict()}, tmp_path / f"{heads}.pt")
        assert ec.load_model(tmp_path / f"{heads}.pt", device="cpu").config.geometry_heads is heads
        assert infer_config(model_of(heads).state_dict()).geometry_heads is heads
    # A file without heads stays readable by versions that know of none.
    assert "geometry_heads" not in json.loads(ec.ModelConfig().to_json())
    assert ec.ModelConfig.from_json(ec.ModelConfig(**SIZES, geometry_heads=True).to_json()).geometry_heads


def test_heads_and_a_configuration_without_them_do_not_mix():
    with pytest.raises(CheckpointError, match=r"holds geometry heads.*geometry_heads=True"):
        model_of(False).load_published_state_dict(model_of(True).state_dict())
    with pytest.raises(CheckpointError, match=r"lacks geometry heads.*geometry_heads=False"):
        model_of(True).load_published_state_dict(model_of(False).state_dict())


def test_a_scene_renders_with_such_weights(tmp_path):
    model = model_of(True)
    scene = ec.Scene(model, capacity=4)
    images, c2w, _ = views()
    for i in range(2):
        camera = ec.Camera(16, 16, 8, 8, 16, 16, c2w[0, i].numpy())
        scene.insert((images[0, i].permute(1, 2, 0) * 255).byte().numpy(), camera)
    made = scene.render([ec.Camera(16, 16, 8, 8, 16, 16, c2w[0, 2].numpy())])
    assert made.images.shape == (1, 16, 16, 3)


def test_the_bundled_weights_for_256x256_are_the_ones_of_their_card(repository):
    weights = repository / "elvsm_core" / "weights"
    digest = hashlib.sha256((weights / "demo-256.safetensors").read_bytes()).hexdigest()
    assert digest in (weights / "MODEL_CARD_256.md").read_text()
    model = ec.load_model("demo-256", device="cpu")
    assert model.config.image_size == (256, 256) and model.config.geometry_heads
