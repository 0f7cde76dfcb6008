"""Stale views are encoded again when there is time; a device that runs out of memory is used less."""

import logging

import numpy as np
import pytest
import torch

import elvsm_core as ec


@pytest.fixture(params=["eager", "fused"])
def scene(request, tiny_model, walk):
    frame = ec.SceneFrame.fit([camera.T_world_cam for _, camera in walk])
    scene = ec.Scene(tiny_model, capacity=8, frame=frame, engine=request.param)
    for view in walk[:6]:
        scene.insert(*view)
    return scene


def target(count=1):
    T = np.eye(4)
    T[:3, 3] = [0.2, 0.0, 0.1]
    return [ec.Camera(30, 30, 16, 16, 32, 32, T)] * count


def encodings(scene, monkeypatch):
    encode, calls = scene._engine.encode, []
    monkeypatch.setattr(scene._engine, "encode", lambda *a: calls.extend(a[2]) or encode(*a))
    return calls


def shifted(scene, views):
    return {v: scene.keyframe(v).camera.T_world_cam + 0.01 * np.eye(4, k=3) for v in views}


def test_moved_views_are_encoded_when_there_is_time(scene, monkeypatch):
    assert scene.stale == [] and scene.encode_stale() == 0
    scene.update_poses(shifted(scene, [1, 4]))
    assert scene.stale == [4, 1]
    calls = encodings(scene, monkeypatch)
    assert scene.encode_stale(1) == 1 and scene.stale == [1]
    assert scene.encode_stale(5) == 0 and len(calls) == 2
    image = scene.render(target()).images
    assert len(calls) == 2, "the render finds everything in place"
    fresh = ec.Scene(scene.model, frame=scene.frame, engine=scene._engine.name)
    for view in scene.views:
        fresh.insert(scene.keyframe(view).image, scene.keyframe(view).camera)
    np.testing.assert_array_equal(image, fresh.render(target()).images)


def test_stale_views_that_a_render_needed_or_that_are_gone_are_stale_no_more(scene):
    scene.update_poses(shifted(scene, [0, 2, 3]))
    scene.evict(2)
    assert scene.stale == [3, 0]
    scene.render(target())
    assert scene.stale == []
    scene.update_poses(shifted(scene, [0]))
    scene.clear()
    assert scene.stale == []


def test_a_new_frame_leaves_the_old_views_stale(tiny_model, walk):
    scene = ec.Scene(tiny_model, capacity=8)
    for image, camera in walk[:5]:
        scene.insert(image, camera)
    frame, (image, camera) = scene.frame, walk[5]
    assert scene.encode_stale(8) == 0
    far = camera.T_world_cam + 30 * np.eye(4, k=3)
    last = scene.insert(image, camera.at(far))
    assert scene.frame is not frame and scene.stale == [v for v in reversed(scene.views) if v != last]


def test_stale_views_take_no_slot_from_others(scene, walk):
    scene.update_poses(shifted(scene, [0, 1]))
    for view in walk[4:8]:
        scene.insert(*view)
    assert scene.encode_stale(2) == 0, "all eight slots are in use"
    assert len(scene.render(target()).views) == 8


def out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_renders_shrink_and_go_on(scene, monkeypatch, caplog):
    """Room for two targets and four views is all that there is: then that is what is used."""
    whole = scene.render(target(3))
    name = "decode"
    network = scene.model if scene._engine.name == "eager" else scene._engine._network
    decode, tokens = getattr(network, name), 16

    def small(*args):
        if scene._engine.name == "eager":
            targets, keys = args[1].shape[1], args[0][0][0].shape[1]
        else:
            targets, keys = args[0].shape[0], len(args[3]) * tokens
        return out_of_memory() if targets > 2 or keys > 4 * tokens else decode(*args)

    monkeypatch.setattr(network, name, small)
    with caplog.at_level(logging.WARNING):
        less = scene.render(target(3))
    assert less.images.shape == whole.images.shape and len(less.views) == 4 == scene.capacity
    assert "2 targets at once" in caplog.text and "4 views on the device" in caplog.text
    assert len(scene) == 6
    np.testing.assert_array_equal(less.images, scene.render(target(3), max_views=4).images)


def test_a_render_that_never_fits_says_so(scene, monkeypatch):
    monkeypatch.setattr(scene._engine, "render", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        scene.render(target())
    assert len(scene) == 6 and scene.capacity == 1
    monkeypatch.undo()
    assert scene.render(target()).images.shape == (1, 32, 32, 3)


def test_an_insertion_finds_room_with_half_the_slots(scene, walk, monkeypatch):
    encode = scene._engine.encode
    monkeypatch.setattr(
        scene._engine, "encode", lambda *a: encode(*a) if scene.capacity < 8 else out_of_memory()
    )
    view = scene.insert(*walk[6])
    assert scene.capacity == 4 and view in scene.views
    assert len(scene.render(target()).views) == 4
