import os

import numpy as np
import pytest
import safetensors.torch
import torch

import elvsm_core as ec


@pytest.fixture
def scene(tiny_model, walk):
    scene = ec.Scene(tiny_model, capacity=3)
    for i, (image, camera) in enumerate(walk[:5]):
        scene.insert(image, camera, stamp=1.5 * i if i else None)
    scene.evict(scene.views[1])
    return scene


def target(walk):
    return [walk[2][1].resized(32, 32)]


def test_a_loaded_scene_renders_the_same(scene, tiny_model, walk, tmp_path):
    scene.save(tmp_path / "room.scene")
    loaded = ec.Scene.load(tmp_path / "room.scene", tiny_model, capacity=3)
    assert loaded.views == scene.views and loaded.image_size == scene.image_size
    assert [loaded.keyframe(v).stamp for v in loaded.views] == [None, 3.0, 4.5, 6.0]
    np.testing.assert_array_equal(loaded.poses, scene.poses)
    torch.testing.assert_close(
        loaded.render_tensor(target(walk)), scene.render_tensor(target(walk)), atol=0, rtol=0
    )
    assert loaded.insert(*walk[7]) == scene.insert(*walk[7]), "ids go on where they were"
    torch.testing.assert_close(
        loaded.render_tensor(target(walk)), scene.render_tensor(target(walk)), atol=0, rtol=0
    )


def test_another_model_encodes_the_images_anew(scene, walk, tmp_path):
    scene.save(tmp_path / "room.scene")
    other = ec.EfficientLVSM(ec.ModelConfig(width=32, head_dim=32, layers=1)).eval()
    loaded = ec.Scene.load(tmp_path / "room.scene", other)
    assert loaded.render(target(walk)).images.shape == (1, 32, 32, 3)
    coarse = ec.EfficientLVSM(
        ec.ModelConfig(width=32, head_dim=32, layers=1, patch_size=24, image_size=(48, 48))
    )
    with pytest.raises(ValueError, match="patch size 24"):
        ec.Scene.load(tmp_path / "room.scene", coarse)


def test_an_empty_scene_can_be_kept(tiny_model, tmp_path):
    ec.Scene(tiny_model).save(tmp_path / "empty.scene")
    assert len(ec.Scene.load(tmp_path / "empty.scene", tiny_model)) == 0


def test_damaged_and_foreign_files_are_refused(scene, tiny_model, tmp_path):
    path = tmp_path / "room.scene"
    scene.save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1000] ^= 1
    ec.save_model(tiny_model, tmp_path / "model.safetensors")
    cases = {
        "truncated": (whole[:-100], "truncated"),
        "empty": (b"", "truncated"),
        "foreign": (b"PK\x03\x04 something else entirely" * 10, "truncated, or not a scene"),
        "model": ((tmp_path / "model.safetensors").read_bytes(), "not a scene file"),
        "flipped": (bytes(flipped), "damaged"),
        "newer": (whole.replace(b'\\"version\\": 1', b'\\"version\\": 9'), "version 9"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ec.SceneFileError, match=f"{name}.*{reason}"):
            ec.Scene.load(tmp_path / name, tiny_model)
    with pytest.raises(ec.SceneFileError, match="no scene file"):
        ec.Scene.load(tmp_path / "absent", tiny_model)


def test_a_failed_write_leaves_the_old_file(scene, tiny_model, tmp_path, monkeypatch):
    path = tmp_path / "room.scene"
    scene.save(path)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        scene.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["room.scene"]
