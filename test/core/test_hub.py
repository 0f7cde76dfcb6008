"""Published weights by name, with a small stand-in for the file on the hub. Nothing is downloaded."""

import dataclasses
import sys
import types

import pytest
import torch

import elvsm_core as ec
from elvsm_core.files import hub

NAME, FILE = "efficient-lvsm-512", "efficient_lvsm_res512.pt"


@pytest.fixture
def cache(tmp_path, monkeypatch, tiny_model):
    """An empty cache folder; the published model is as small as `tiny_model`."""
    small = dataclasses.replace(tiny_model.config, image_size=(64, 64))
    monkeypatch.setattr(hub, "PUBLISHED", {NAME: hub.Published(FILE, small)})
    monkeypatch.setenv(hub.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def client(monkeypatch, tiny_model, tmp_path):
    """A stand-in for huggingface_hub: `requests` holds what was asked for; `error` is raised when it is set."""
    module = types.ModuleType("huggingface_hub")
    module.requests, module.error = [], None

    def hf_hub_download(repository, file):
        module.requests.append((repository, file))
        if module.error is not None:
            raise module.error
        path = tmp_path / "downloads" / file
        path.parent.mkdir(exist_ok=True)
        state = {f"_orig_mod.{name}": tensor for name, tensor in tiny_model.state_dict().items()}
        torch.save({"model": state, "optimizer": {}}, path)
        return str(path)

    module.hf_hub_download = hf_hub_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_the_names_are_the_published_files_of_the_full_model():
    files = {name: published.file for name, published in hub.PUBLISHED.items()}
    assert files == {
        "efficient-lvsm-256": "efficient_lvsm_res256.pt",
        "efficient-lvsm-512": "efficient_lvsm_res512.pt",
        "efficient-lvsm-incremental": "efficient_lvsm_inc_demo.pt",
    }
    sizes = [published.config.image_size for published in hub.PUBLISHED.values()]
    assert sizes == [(256, 256), (512, 512), (256, 256)]
    for published in hub.PUBLISHED.values():
        same_shapes = dataclasses.replace(published.config, image_size=(256, 256))
        assert same_shapes == ec.PRESETS["efficient-lvsm"]
        assert published.url.startswith("https://huggingface.co/Ayakaee/efficient-lvsm/")


def test_downloaded_once_after_the_licence_and_converted(cache, client, tiny_model, caplog):
    model = ec.load_model(NAME, device="cpu")
    assert client.requests == [("Ayakaee/efficient-lvsm", FILE)]
    assert "CC BY-NC-SA 4.0" in caplog.messages[0] and FILE in caplog.messages[0]
    assert model.config.image_size == (64, 64)
    assert [path.name for path in cache.iterdir()] == [f"{NAME}.safetensors"]
    client.error = AssertionError("asked for twice")
    again = ec.load_model(NAME, device="cpu")
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
        assert torch.equal(again.state_dict()[name], tensor)
    assert len(client.requests) == 1


def test_offline_names_the_file_to_copy_and_takes_it(cache, client, tiny_model, monkeypatch):
    client.error = OSError("We couldn't connect to 'https://huggingface.co'\nmore")
    with pytest.raises(ec.CheckpointError) as offline:
        ec.load_model(NAME)
    for part in (
        "couldn't connect",
        f"Ayakaee/efficient-lvsm/resolve/main/{FILE}",
        str(cache / FILE),
        "by hand",
    ):
        assert part in str(offline.value)
    assert "more" not in str(offline.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not installed
    with pytest.raises(ec.CheckpointError, match=r"pip install 'elvsm\[hub\]', or copy https"):
        ec.load_model(NAME)
    cache.mkdir()
    torch.save(tiny_model.state_dict(), cache / FILE)
    assert ec.load_model(NAME, device="cpu").config.width == tiny_model.config.width
    assert (cache / FILE).is_file() and (cache / f"{NAME}.safetensors").is_file()


def test_a_file_that_does_not_fit_is_refused_and_not_kept(cache, client, tiny_model):
    cache.mkdir()

    def refused(state):
        torch.save(state, cache / FILE)
        with pytest.raises(ec.CheckpointError, match=FILE) as refusal:
            ec.load_model(NAME)
        assert not (cache / f"{NAME}.safetensors").exists()
        return str(refusal.value)

    state = tiny_model.state_dict()
    deeper = ec.EfficientLVSM(dataclasses.replace(tiny_model.config, layers=3))
    assert "another model (64 wide, 3 layers" in refused(deeper.state_dict())
    assert "missing" in refused({k: v for k, v in state.items() if k != "rgbp_tokenizer.1.weight"})
    (cache / FILE).write_bytes((cache / FILE).read_bytes()[:2000])
    with pytest.raises(ec.CheckpointError, match="truncated"):
        ec.load_model(NAME)


def test_no_room_for_the_converted_weights(cache, client, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "write_atomically", full)
    with pytest.raises(ec.CheckpointError, match=r"No space left.*make room, or set ELVSM_CACHE"):
        ec.load_model(NAME)


def test_unknown_names_list_the_published_ones(cache):
    with pytest.raises(ec.CheckpointError, match=f"a published one \\({NAME}\\)"):
        ec.load_model("efficient-lvsm-1024")
