"""Scenes that render with detail: whatever was edited before, sizes, files, and what is kept of a keyframe."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors
import torch

import elvsm_core as ec
from elvsm_core.files import persistence


@pytest.fixture
def frames():
    """Six pictures, larger than the model's, of a wall of noise seen from a camera that moves sideways."""
    rng = np.random.default_rng(0)
    wall = rng.integers(0, 256, (96, 400, 3), dtype=np.uint8)
    views = []
    for i in range(6):
        T = np.eye(4)
        T[0, 3] = 0.1 * i
        views.append((wall[:, 16 * i : 16 * i + 128].copy(), ec.Camera(160, 160, 64, 48, 128, 96, T)))
    return views


def filled(model, frames, **more):
    scene = ec.Scene(model, capacity=8, **more)
    for image, camera in frames:
        scene.insert(image, camera, stamp=1.0)
    return scene


def between(camera, size=(96, 128)):
    T = np.eye(4)
    T[0, 3] = 0.25
    return camera.at(T).resized(size[1], size[0])


def same(a, b):
    for name in ("images", "support", "depth", "confidence"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("size", [(96, 128), (32, 32), (45, 61), (20, 40)])
def test_any_size_is_answered(tiny_model, frames, size):
    scene = filled(tiny_model, frames)
    out = scene.render([between(frames[0][1], size)] * 2, detail=True)
    assert out.images.shape == (2, *size, 3) and out.images.dtype == np.uint8
    for extra in (out.depth, out.confidence):
        assert extra.shape == (2, *size) and extra.dtype == np.float32
    assert (out.depth > 0).all() and np.isfinite(out.depth).all()
    assert (out.confidence >= 0).all() and (out.confidence <= 1).all()
    assert len(out.views) == 6 and out.support.shape == (2,)


def test_without_detail_nothing_is_added(tiny_model, frames):
    out = filled(tiny_model, frames).render([between(frames[0][1], (32, 32))])
    assert out.depth is None and out.confidence is None


def test_a_request_gives_what_each_target_alone_gives(tiny_model, frames):
    scene = filled(tiny_model, frames)
    cameras = [between(frames[0][1]), frames[3][1]]
    plan = scene.plan(cameras)
    both = scene.render(cameras, detail=True, plan=plan)
    for row, camera in enumerate(cameras):
        alone = scene.render([camera], detail=True, plan=plan)
        np.testing.assert_array_equal(both.depth[row], alone.depth[0])
        np.testing.assert_array_equal(both.images[row], alone.images[0])


def test_an_edited_scene_answers_as_a_fresh_one(tiny_model, frames):
    frame = ec.SceneFrame(np.eye(4), 1.0)
    scene = filled(tiny_model, frames[:5], frame=frame)
    scene.evict(1)
    scene.replace(2, *frames[5])
    scene.update_poses({0: frames[0][1].T_world_cam @ np.diag([-1, -1, 1, 1])})
    scene.update_poses({0: frames[0][1].T_world_cam})
    fresh = filled(tiny_model, [frames[0], frames[5], frames[3], frames[4]], frame=frame)
    camera = between(frames[0][1])
    same(scene.render([camera], detail=True), fresh.render([camera], detail=True))


def test_poses_are_those_at_the_time_of_the_request(tiny_model, frames):
    frame = ec.SceneFrame(np.eye(4), 1.0)
    scene = filled(tiny_model, frames, frame=frame)
    moved = {}
    for view, (_, camera) in enumerate(frames):
        T = camera.T_world_cam.copy()
        T[1, 3] += 0.05 * view
        moved[view] = T
    scene.update_poses(moved)
    fresh = filled(tiny_model, [(i, c.at(moved[v])) for v, (i, c) in enumerate(frames)], frame=frame)
    same(*(one.render([between(frames[0][1])], detail=True) for one in (scene, fresh)))


def test_the_picture_is_kept_at_the_size_asked_for(tiny_model, frames):
    camera = frames[0][1]
    for detail_size, size in ((640, (96, 128)), (64, (48, 64))):
        scene = filled(tiny_model, frames[:1], detail_size=detail_size)
        picture, lens = scene.keyframe(0).finest
        assert tuple(picture.shape) == (*size, 3) and lens.size == size
        assert lens.fx == pytest.approx(camera.fx * size[1] / 128)
    keyframe = filled(tiny_model, frames[:1], detail_size=0).keyframe(0)
    assert keyframe.picture is None and keyframe.finest == (keyframe.image, keyframe.camera)
    with pytest.raises(ec.SceneError, match="detail_size"):
        ec.Scene(tiny_model, detail_size=-1)


def test_the_caller_may_write_to_its_image_afterwards(tiny_model, frames):
    image, camera = frames[0]
    scene = ec.Scene(tiny_model, capacity=2)
    scene.insert(image, camera)
    before = image.copy()
    image[:] = 0
    np.testing.assert_array_equal(scene.keyframe(0).finest[0].numpy(), before)


def test_cameras_of_different_sizes_serve_one_target(tiny_model, frames):
    scene = filled(tiny_model, frames[:4])
    image, camera = frames[4]
    scene.insert(image[:, 20:100].copy(), camera.cropped(20, 0, 80, 96))
    out = scene.render([between(camera)], detail=True)
    assert np.isfinite(out.depth).all() and len(out.views) == 5


def test_a_file_keeps_the_pictures(tiny_model, frames, tmp_path):
    scene = filled(tiny_model, frames[:3])
    scene.insert(frames[3][0][:32, :32].copy(), frames[3][1].cropped(0, 0, 32, 32))  # no finer than the image
    scene.save(tmp_path / "a.scene")
    loaded = ec.Scene.load(tmp_path / "a.scene", tiny_model, capacity=8)
    for view in scene.views:
        a, b = scene.keyframe(view), loaded.keyframe(view)
        assert (a.picture is None) == (b.picture is None) and a.lens == b.lens
        assert torch.equal(a.finest[0], b.finest[0])
    camera = between(frames[0][1])
    same(scene.render([camera], detail=True), loaded.render([camera], detail=True))


def test_a_changed_picture_is_noticed(tiny_model, frames, tmp_path):
    path = tmp_path / "a.scene"
    filled(tiny_model, frames[:2]).save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last byte of the last picture
    path.write_bytes(data)
    with pytest.raises(ec.SceneFileError, match="SHA-256"):
        ec.Scene.load(path, tiny_model)


def test_a_file_of_the_first_version_loads(tiny_model, frames, tmp_path):
    """Written as the first version was: without pictures, and hashed without them."""
    import hashlib

    scene = filled(tiny_model, frames[:3])
    scene.save(tmp_path / "new.scene")
    with safetensors.safe_open(tmp_path / "new.scene", framework="np") as file:
        header = json.loads(file.metadata()["scene"])
        tensors = {name: file.get_tensor(name) for name in persistence.IN_FIRST_VERSION}
    text = json.dumps({**header, "version": 1}, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for name, array in tensors.items():
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    metadata = {"format": "elvsm-scene", "scene": text, "sha256": digest.hexdigest()}
    shapes = {name: array.shape for name, array in tensors.items()}
    content = [persistence._head(shapes, metadata), *(array.tobytes() for array in tensors.values())]
    (tmp_path / "old.scene").write_bytes(b"".join(content))
    loaded = ec.Scene.load(tmp_path / "old.scene", tiny_model, capacity=8)
    assert loaded.views == scene.views and all(loaded.keyframe(v).picture is None for v in loaded.views)
    assert loaded.render([between(frames[0][1], (32, 32))], detail=True).depth is not None
