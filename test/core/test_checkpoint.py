import io
import os
import pickle
import re

import pytest
import torch

import elvsm_core as ec


def listed(path):
    for line in path.read_text().splitlines():
        match = re.match(r"(\S+)\s+\(([\d, ]*)\)", line)
        if match:
            yield match[1], tuple(int(n) for n in match[2].split(",") if n.strip())


@pytest.fixture(scope="module")
def published(golden):
    """The layout of a published training checkpoint, compiled, with the losses' tensors in it."""
    keys = dict(listed(golden / "full_state_dict_keys.txt"))
    assert len(keys) == 207
    extra = dict(listed(golden / "loss_computer_state_dict_keys.txt"))
    assert len(extra) == 66
    # One stored value per tensor, expanded: 1.4 GB of weights in a few kilobytes.
    state = {f"_orig_mod.{name}": torch.zeros(1).expand(shape) for name, shape in {**keys, **extra}.items()}
    state["_orig_mod.repa_projector.input.8.2.0.weight"] = torch.zeros(4, 4)
    return state


@pytest.fixture(scope="module")
def full_model():
    with torch.device("meta"):
        return ec.EfficientLVSM(ec.PRESETS["efficient-lvsm"])


def test_published_layout_loads_from_a_file(published, tmp_path):
    path = tmp_path / "published.pt"
    torch.save({"model": published, "fwdbwd_pass_step": 7, "optimizer": {"state": {}}}, path)
    assert path.stat().st_size < 1_000_000
    model = ec.load_model(path, device="cpu")
    assert model.config == ec.PRESETS["efficient-lvsm"]
    assert sum(p.numel() for p in model.parameters()) == 199_070_208
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def small_state(tiny_model):
    return {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_any_prefix_wrapped_or_bare(tiny_model, tmp_path, prefix, wrapped):
    state = {prefix + name: tensor for name, tensor in tiny_model.state_dict().items()}
    path = tmp_path / "small.pt"
    torch.save({"model": state} if wrapped else state, path)
    loaded = ec.load_model(path, device="cpu")
    for name, tensor in tiny_model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=0, rtol=0)


def test_wrong_tensors_are_refused_by_name(tiny_model):
    model = ec.EfficientLVSM(tiny_model.config)
    before = small_state(model)
    name = "self_cross_blocks.1.cross_attn.to_kv.weight"
    missing = small_state(tiny_model)
    del missing[name]
    extra = {**small_state(tiny_model), "self_cross_blocks.9.mlp.mlp.0.weight": torch.zeros(2, 2)}
    misshaped = {**small_state(tiny_model), name: torch.zeros(3, 64)}
    nan = {**small_state(tiny_model), name: torch.full((128, 64), torch.nan)}
    for bad, reason in (
        (missing, f"'{name}' missing"),
        (extra, "'self_cross_blocks.9.mlp.mlp.0.weight' in the checkpoint but not"),
        (misshaped, rf"'{name}' has shape \[3, 64\], the model needs \[128, 64\]"),
        (nan, f"'{name}'.*not finite"),
    ):
        with pytest.raises(ec.CheckpointError, match=reason):
            model.load_published_state_dict(bad)
    for key, tensor in before.items():
        torch.testing.assert_close(model.state_dict()[key], tensor, atol=0, rtol=0)


def test_wrong_tensors_are_refused_from_a_file(tiny_model, tmp_path):
    name = "input_self_attn_blocks.0.attn.fc.weight"
    state = small_state(tiny_model)
    del state[name]
    torch.save(state, tmp_path / "missing.pt")
    with pytest.raises(ec.CheckpointError, match=f"missing.pt.*{name}"):
        ec.load_model(tmp_path / "missing.pt", device="cpu")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ec.CheckpointError, match="not an Efficient-LVSM checkpoint"):
        ec.load_model(tmp_path / "other.pt", device="cpu")


def test_truncated_files_are_refused(tiny_model, tmp_path):
    whole = io.BytesIO()
    torch.save({"model": tiny_model.state_dict()}, whole)
    ec.save_model(tiny_model, tmp_path / "whole.safetensors")
    for name, content in (
        ("a.pt", whole.getvalue()[: len(whole.getvalue()) // 2]),
        ("b.pt", b""),
        ("c.pt", b"\x00not a checkpoint"),
        ("d.safetensors", (tmp_path / "whole.safetensors").read_bytes()[:-1000]),
        ("e.safetensors", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ec.CheckpointError, match=rf"{name}.*truncated"):
            ec.load_model(tmp_path / name, device="cpu")


class Payload:
    def __reduce__(self):
        return os.mkdir, (os.environ["ELVSM_TEST_CANARY"],)


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_pickle_is_not_run(tiny_model, tmp_path, monkeypatch, legacy):
    canary = tmp_path / "canary"
    monkeypatch.setenv("ELVSM_TEST_CANARY", str(canary))
    path = tmp_path / "evil.pt"
    if legacy:
        path.write_bytes(pickle.dumps({"model": Payload()}))
    else:
        torch.save({"model": tiny_model.state_dict(), "extra": Payload()}, path)
    with pytest.raises(ec.CheckpointError, match="refused"):
        ec.load_model(path, device="cpu")
    assert not canary.exists()


def test_our_own_format_keeps_configuration_and_weights(tiny_model, tmp_path):
    path = tmp_path / "mine.safetensors"
    ec.save_model(tiny_model, path, metadata={"trained_on": "nothing"})
    loaded = ec.load_model(path, device="cpu")
    assert loaded.config == tiny_model.config
    for name, tensor in tiny_model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=0, rtol=0)
    ec.save_model(tiny_model, path, dtype=torch.bfloat16)
    assert os.listdir(tmp_path) == ["mine.safetensors"]
    half = ec.load_model(path, device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16


def test_unknown_names_and_devices_are_explained(tmp_path):
    with pytest.raises(ec.CheckpointError, match="neither a bundled model"):
        ec.load_model("no-such-model")
    with pytest.raises(ec.CheckpointError, match="no weight file"):
        ec.load_model(tmp_path / "absent.pt")
    from elvsm_core.checkpoint import resolve_device, resolve_dtype

    with pytest.raises(ValueError, match="unknown device"):
        resolve_device("gpu0")
    with pytest.raises(ValueError, match="unknown dtype"):
        resolve_dtype("fp4", torch.device("cpu"))


def test_configuration_errors_name_the_nearest_key():
    with pytest.raises(ec.ConfigError, match="did you mean 'layers'"):
        ec.ModelConfig.from_mapping({"layer": 3})
    with pytest.raises(ec.ConfigError, match="multiple of head_dim"):
        ec.ModelConfig(width=100, head_dim=64)
    with pytest.raises(ec.ConfigError, match="image_size"):
        ec.ModelConfig(image_size=(100, 128))
    config = ec.ModelConfig(width=128, layers=3, image_size=(96, 160))
    assert ec.ModelConfig.from_json(config.to_json()) == config
