import dataclasses
import os
import random
import signal

import numpy as np
import pytest
import safetensors.torch
import torch

import elvsm_core as ec
from elvsm_core.persistence import read_scene, write_scene


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


def test_what_cannot_be_a_scene_is_refused(scene, tiny_model, tmp_path):
    """Files with a right hash and wrong content: made by another program, or by somebody who means harm."""
    stored = scene.snapshot()
    first = min(stored.views)
    frameless = dataclasses.replace(stored, frame=None)
    ids, endless = dataclasses.replace(stored, next_id=1), dataclasses.replace(stored, next_id=10**30)
    image = torch.zeros(8, 8, 3).byte()
    views = {**stored.views, first: dataclasses.replace(stored.views[first], image=image)}
    small = dataclasses.replace(stored, views=views)
    for name, bad, reason in (
        ("frameless", frameless, "views, but no frame"), ("ids", ids, "below next_id"),
        ("endless", endless, "next_id is 1000"), ("small", small, "truncated"),
    ):  # fmt: skip
        write_scene(tmp_path / name, bad, {})
        with pytest.raises(ec.SceneFileError, match=reason):
            ec.Scene.load(tmp_path / name, tiny_model)


def test_whatever_is_in_a_file_there_is_one_kind_of_error(scene, tmp_path):
    path, rng = tmp_path / "room.scene", random.Random(0)
    scene.save(path)
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(rng.choice([head, len(content)]))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            read_scene(path)
        except ec.SceneFileError:
            refused += 1
    assert refused > 350


def test_a_file_is_one_of_safetensors_and_holds_what_was_added(scene, tmp_path):
    stored = dataclasses.replace(scene.snapshot(), extra={"world_frame": "map", "stamps": [1, 2]})
    write_scene(tmp_path / "room", stored, {"model": "demo"})
    tensors = safetensors.torch.load_file(tmp_path / "room")
    assert tensors["images"].shape == (4, 32, 32, 3) and tensors["ids"].tolist() == scene.views
    for i, view in enumerate(scene.views):
        assert torch.equal(tensors["images"][i], scene.keyframe(view).image)
    assert read_scene(tmp_path / "room").extra == stored.extra


def test_content_is_exchanged_in_one_step_and_new_ids_stay_new(scene, tiny_model, walk):
    stored = scene.snapshot()
    before = scene.render_tensor(target(walk))
    other = ec.Scene(tiny_model, capacity=3, max_keyframes=3)
    for image, camera in walk[3:8]:
        other.insert(image, camera)
    unpacked = other.unpack(stored)
    assert other.views == [2, 3, 4], "nothing has changed yet"
    assert len(unpacked.keyframes) == 3, "no more than the scene may hold"
    whole = ec.Scene(tiny_model, capacity=3)
    for image, camera in walk[:8]:
        whole.insert(image, camera)
    whole.adopt(whole.unpack(stored))
    assert whole.views == scene.views
    torch.testing.assert_close(whole.render_tensor(target(walk)), before, atol=0, rtol=0)
    assert whole.insert(*walk[7]) == 8, "an id that neither of them had used"
    assert list(stored.views) == scene.views, "a snapshot does not follow the scene"
    coarse = ec.Scene(tiny_model, image_size=(16, 16))
    with pytest.raises(
        ec.SceneError, match=r"32x32 pixels and this scene's have 16x16.*image_size \(32, 32\)"
    ):
        coarse.unpack(stored)


def test_a_failed_write_leaves_the_old_file(scene, tmp_path, monkeypatch):
    path = tmp_path / "room.scene"
    scene.save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            scene.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["room.scene"]


def test_a_killed_writer_leaves_the_old_file_and_its_traces_go_with_the_next(scene, walk, tmp_path):
    path = tmp_path / "room [1].scene"
    scene.save(path)
    before = path.read_bytes()
    child = os.fork()
    if not child:  # in the writer: die in the middle of the file
        calls = iter(range(3))

        class Killed:
            def numpy(self):
                if next(calls) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return np.zeros((32, 32, 3), np.uint8)

        stored = scene.snapshot()
        views = {i: dataclasses.replace(k, image=Killed()) for i, k in stored.views.items()}
        write_scene(path, dataclasses.replace(stored, views=views), {})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert path.read_bytes() == before and len(os.listdir(tmp_path)) == 2
    scene.insert(*walk[6])
    scene.save(path)
    assert os.listdir(tmp_path) == [path.name] and len(read_scene(path).views) == 5
