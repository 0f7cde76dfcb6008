"""Representation alignment: losses on golden figures, mapping names, tokens, and DINO networks from files.

DINO's published weights are hundreds of megabytes, one of them behind a form. What depends on them, their
layout in the files included, is tested with random networks of the same kind and a few channels.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import elvsm_core as ec
from elvsm_core.files.lpips_weights import import_torchvision
from training.losses.repa import (
    AlignedLayer,
    DinoEncoder,
    DinoSpec,
    Repa,
    RepaError,
    TokenTap,
    alignment,
    load_dino,
    parse_mapping,
)

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 2}


@pytest.fixture(scope="module")
def timm():
    try:
        import_torchvision()
        import timm
    except ImportError as error:
        pytest.skip(f"needs timm ({error}): pip install 'elvsm[train]'")
    return timm


def test_losses_equal_golden(golden_dir):
    g = load_file(golden_dir / "golden_metrics.safetensors")
    expected = json.loads((golden_dir / "golden_metrics.json").read_text())
    for kind in ("sl1", "l2", "cos"):
        measured = alignment(g["repa.x"], g["repa.label"], kind).tolist()
        assert measured == pytest.approx(expected[f"repa_{kind}"], rel=1e-5)
    with pytest.raises(RepaError, match="sl1, l2, cos"):
        alignment(g["repa.x"], g["repa.label"], "l1")


def both(*pairs):
    return [AlignedLayer(stream, *pair) for stream in ("input", "target") for pair in pairs]


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("8-2", both((8, 2))),
        ("8-2t", [AlignedLayer("target", 8, 2)]),
        ("8-2i", [AlignedLayer("input", 8, 2)]),
        ("48-23", both((4, 2), (8, 3))),
        ("6-4", both((6, 4))),
        ("12-3", both((12, 3))),
        ("8-34", both((8, 3), (8, 4))),
        ("8-3t-8-2i", [AlignedLayer("input", 8, 2), AlignedLayer("target", 8, 3)]),
        ("12:10,8:3t", [*both((12, 10)), AlignedLayer("target", 8, 3)]),
    ],
)
def test_mapping_names(name, links):
    assert parse_mapping(name) == sorted(links)


@pytest.mark.parametrize(
    "name", ["1", "", "8-e2", "8-3t-8-e4", "0-2", "8-0", "12-11", "123-4", "8:2:3", "8:13"]
)
def test_names_that_mean_nothing_or_two_things_are_refused(name):
    with pytest.raises(RepaError, match="mapping"):
        parse_mapping(name)


def test_layers_must_exist():
    with pytest.raises(RepaError, match="layer 7 of 6"):
        parse_mapping("8-7", layers=6)


def test_projectors_have_the_published_names_and_shapes():
    repa = Repa(parse_mapping("8-3t-8-2i"), width=64, channels=768)
    shapes = {name: list(value.shape) for name, value in repa.state_dict().items()}
    linear = {"0": [2048, 64], "2": [2048, 2048], "4": [768, 2048]}
    assert shapes == {
        f"{stream}.8.{layer}.{n}.{kind}": shape if kind == "weight" else shape[:1]
        for stream, layer in (("input", 2), ("target", 3))
        for n, shape in linear.items()
        for kind in ("weight", "bias")
    }


def test_loss_is_the_mean_over_samples_of_all_links():
    torch.manual_seed(0)
    links = parse_mapping("4:1,8:2t", layers=2)
    repa = Repa(links, width=8, channels=6, hidden=16)
    tokens = {("input", 1): torch.randn(4, 5, 8), ("target", 1): torch.randn(2, 5, 8)}
    tokens |= {("target", 2): torch.randn(2, 5, 8)}
    features = {
        (link.stream, link.dino): torch.randn(len(tokens[link.stream, link.layer]), 5, 6) for link in links
    }
    each = []
    for link in links:
        w = [repa.state_dict()[f"{link.stream}.{link.dino}.{link.layer}.{n}"] for n in
             ("0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias")]  # fmt: skip
        x = F.silu(tokens[link.stream, link.layer] @ w[0].T + w[1])
        x = F.silu(x @ w[2].T + w[3]) @ w[4].T + w[5]
        each += list(alignment(x, features[link.stream, link.dino]))
    loss = repa(tokens, features)
    torch.testing.assert_close(loss, torch.stack(each).mean())
    loss.backward()
    assert all(parameter.grad is not None for parameter in repa.parameters())
    with pytest.raises(RepaError, match="differ in shape"):
        repa(tokens, {key: value[:, :4] for key, value in features.items()})


def test_tap_takes_the_tokens_after_each_block(golden_dir):
    g = load_file(golden_dir / "golden_small.safetensors")
    model = ec.EfficientLVSM(ec.ModelConfig(width=64, head_dim=32, layers=2, image_size=(32, 32)))
    model.load_published_state_dict({k[6:]: v for k, v in g.items() if k.startswith("model.")})
    tap = TokenTap(model, parse_mapping("8:1,8:2", layers=2))
    names = ("input.image", "input.c2w", "input.fxfycxcy", "target.c2w", "target.fxfycxcy")
    model(*(g[f"in.{name}"] for name in names), (32, 32)).mean().backward()
    tokens = tap.take()
    for layer in (1, 2):
        for stream in ("input", "target"):
            expected = g[f"mid.{stream}_tokens_{layer}"]
            torch.testing.assert_close(tokens[stream, layer], expected, atol=1e-5, rtol=1e-4)
    assert tokens["input", 1].requires_grad and not tap.take()
    tap.close()
    model(*(g[f"in.{name}"] for name in names), (32, 32))
    assert not tap.take()


@pytest.mark.parametrize("kind", ["vit_base_patch14_dinov2", "vit_base_patch16_dinov3"])
def test_features_are_raw_outputs_of_blocks_without_special_tokens(timm, kind):
    torch.manual_seed(0)
    patch = 14 if "dinov2" in kind else 16
    options = {"img_size": 4 * patch, "dynamic_img_size": True} if patch == 14 else {}
    network = timm.create_model(kind, pretrained=False, num_classes=0, **TINY, **options)
    encoder = DinoEncoder(network, side=4 * patch)
    assert (encoder.channels, encoder.layers) == (24, 3)
    assert not encoder.train().network.training and not any(p.requires_grad for p in encoder.parameters())
    images = torch.rand(2, 3, 32, 32)
    seen = {}
    for i, block in enumerate(network.blocks, start=1):
        block.register_forward_hook(lambda _m, _i, out, i=i: seen.__setitem__(i, out))
    features = encoder(images, [3, 1], grid=(4, 4))
    assert list(features) == [1, 3]
    for layer in (1, 3):
        assert torch.equal(features[layer], seen[layer][:, 1 if patch == 14 else 5 :])
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    by_hand = F.interpolate((images - mean) / std, (4 * patch, 4 * patch), mode="bicubic")
    direct = network.forward_features(by_hand)
    torch.testing.assert_close(network.norm(seen[3]), direct)
    other = encoder(images, [3], grid=(8, 8))[3]
    maps = F.interpolate(features[3].transpose(1, 2).unflatten(2, (4, 4)), (8, 8), mode="bicubic")
    torch.testing.assert_close(other, maps.flatten(2).transpose(1, 2))
    wide = encoder(torch.rand(1, 3, 32, 56), [2], grid=(4, 7))[2]
    assert wide.shape == (1, 28, 24) and seen[2].shape[1] == 28 + (1 if patch == 14 else 5)


def test_dinov2_is_loaded_from_the_authors_file(timm, tmp_path):
    options = {**TINY, "img_size": 56, "dynamic_img_size": True}
    arch = "vit_base_patch14_dinov2"
    torch.manual_seed(1)
    network = timm.create_model(arch, pretrained=False, num_classes=0, **options).eval()
    torch.save({**network.state_dict(), "mask_token": torch.zeros(1, 24)}, tmp_path / "dino.pth")
    encoder = load_dino(DinoSpec(arch, 56, "somewhere", options), tmp_path / "dino.pth")
    images = torch.rand(1, 3, 32, 32)
    expected = DinoEncoder(network, 56)(images, [2], (4, 4))[2]
    torch.testing.assert_close(encoder(images, [2], (4, 4))[2], expected)
    # A table of positions for another size is resized, as for the published file of 518 pixels at 336.
    larger = load_dino(DinoSpec(arch, 84, "somewhere", {**options, "img_size": 84}), tmp_path / "dino.pth")
    assert larger(images, [2], (4, 4))[2].shape == (1, 16, 24)


def test_dinov3_is_loaded_from_the_authors_and_timms_files(timm, tmp_path):
    arch = "vit_base_patch16_dinov3"
    torch.manual_seed(2)
    network = timm.create_model(arch, pretrained=False, num_classes=0, **TINY).eval()
    for name, parameter in network.named_parameters():
        if "gamma" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1)
    state = network.state_dict()
    save_file(state, tmp_path / "timm.safetensors")
    authors = {"mask_token": torch.zeros(1, 24), "rope_embed.periods": torch.zeros(3)}
    for name, value in state.items():
        if "rope" not in name:
            name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            authors[name.replace("reg_token", "storage_tokens")] = value
    for i in range(3):
        authors[f"blocks.{i}.attn.qkv.bias"] = torch.zeros(72)
    torch.save(authors, tmp_path / "authors.pth")
    images = torch.rand(1, 3, 32, 32)
    expected = DinoEncoder(network, 64)(images, [2], (4, 4))[2]
    for name in ("timm.safetensors", "authors.pth"):
        encoder = load_dino(DinoSpec(arch, 64, "somewhere", TINY), tmp_path / name)
        torch.testing.assert_close(encoder(images, [2], (4, 4))[2], expected)


def test_files_that_are_missing_or_wrong_are_refused(timm, tmp_path):
    with pytest.raises(RepaError, match=r"dinov2_vitb14_pretrain\.pth"):
        load_dino("dinov2", None)
    with pytest.raises(RepaError, match=r"there is no file .*dinov3-downloads"):
        load_dino("dinov3", tmp_path / "dino.pth")
    with pytest.raises(RepaError, match="'dinov2' or 'dinov3'"):
        load_dino("dino", None)
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    for name in ("other.pth", "cut.safetensors"):
        with pytest.raises(RepaError, match="get it from somewhere"):
            load_dino(DinoSpec("vit_base_patch14_dinov2", 56, "somewhere", TINY), tmp_path / name)


def test_whole_alignment_trains_the_model(timm):
    torch.manual_seed(3)
    model = ec.EfficientLVSM(ec.ModelConfig(width=64, head_dim=32, layers=2, image_size=(32, 32)))
    options = {**TINY, "img_size": 56, "dynamic_img_size": True}
    encoder = DinoEncoder(timm.create_model("vit_base_patch14_dinov2", num_classes=0, **options), 56)
    links = parse_mapping("2-1", dino_layers=encoder.layers, layers=2)
    repa, tap = Repa(links, 64, encoder.channels, hidden=32), TokenTap(model, links)
    eye, k = torch.eye(4).expand(1, 2, 4, 4), torch.tensor([30.0, 30, 16, 16]).expand(1, 2, 4)
    images, truth = torch.rand(1, 2, 3, 32, 32), torch.rand(1, 2, 3, 32, 32)
    model(images, eye, k, eye, k, (32, 32))
    views = {"input": images, "target": truth}
    features = {
        (stream, layer): value
        for stream, view in views.items()
        for layer, value in encoder(view.flatten(0, 1), [2], (4, 4)).items()
    }
    repa(tap.take(), features).backward()
    assert model.self_cross_blocks[0].mlp.mlp[2].weight.grad.abs().sum() > 0
    assert model.input_self_attn_blocks[0].mlp.mlp[2].weight.grad.abs().sum() > 0
    assert model.self_cross_blocks[1].mlp.mlp[2].weight.grad is None
