import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile

import pytest
import safetensors.torch
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


@pytest.mark.slow
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


LOAD = """
import resource, sys, time
import elvsm_core as ec
import elvsm_core.checkpoint
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    ec.load_model(sys.argv[1], device="cpu")
except ec.CheckpointError as error:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(used, round(time.process_time() - begin), str(error))
"""


def load_elsewhere(path):
    """Return kilobytes, seconds of processor time, and the error of loading a file in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, timeout=100, check=True
    )
    used, seconds, error = run.stdout.split(" ", 2)
    return int(used), int(seconds), error


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_deeply_nested_objects_is_refused_soon(tiny_model, tmp_path, zipped):
    path = tmp_path / "nested.pt"
    deep = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 3_000_000 + b"}" + b"s" * 3_000_000 + b"."
    if zipped:
        torch.save(tiny_model.state_dict(), tmp_path / "whole.pt")
        with zipfile.ZipFile(tmp_path / "whole.pt") as source, zipfile.ZipFile(path, "w") as target:
            for info in source.infolist():
                inside = deep if info.filename.endswith("data.pkl") else source.read(info)
                target.writestr(info.filename, inside, zipfile.ZIP_DEFLATED)
    else:
        path.write_bytes(deep)
    used, seconds, error = load_elsewhere(path)
    assert "was rejected" in error and str(path) in error
    assert used < 200_000 and seconds < 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": 10**9}, "layers must be 256 at most"), ({"width": 2**40}, "width must be 16384"),
        ({"mlp_ratio": 10**6}, "mlp_ratio"), ({"image_size": [2**40, 2**40]}, "image_size"),
        ({"image_size": 5}, "image_size"), ({"layers": 200, "width": 16384}, "missing"),
        ({"width": 16384}, "has shape"),
    ],
)  # fmt: skip
def test_a_configuration_that_asks_for_everything_is_refused_before_anything_is_allocated(
    tiny_model, tmp_path, change, reason
):
    path = tmp_path / "greedy.safetensors"
    config = {**json.loads(tiny_model.config.to_json()), **change}
    tensors = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    metadata = {"format": "elvsm-1", "config": json.dumps(config)}
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    used, seconds, error = load_elsewhere(path)
    assert reason in error and str(path) in error
    assert used < 300_000 and seconds < 20


@pytest.mark.slow
def test_a_name_with_a_huge_number_is_no_layer(tiny_model, tmp_path):
    state = dict(tiny_model.state_dict())
    state["self_cross_blocks.999999998.mlp.mlp.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "layers.pt")
    _, seconds, error = load_elsewhere(tmp_path / "layers.pt")
    assert "layers must be 256 at most" in error and seconds < 20
