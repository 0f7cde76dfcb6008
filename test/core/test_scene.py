"""Every edit of a scene is exact: the result is that of a fresh scene with the same views."""

import threading

import numpy as np
import pytest
import torch

import elvsm_core as ec

TARGETS_AT = ([0.2, 0.0, 0.1], [0.45, -0.05, 0.2])


def targets(width=32, height=32):
    cameras = []
    for t in TARGETS_AT:
        T = np.eye(4)
        T[:3, 3] = t
        cameras.append(ec.Camera(30, 30, width / 2, height / 2, width, height, T))
    return cameras


@pytest.fixture
def frame(walk):
    return ec.SceneFrame.fit([camera.T_world_cam for _, camera in walk])


def build(model, views, frame, **kwargs):
    scene = ec.Scene(model, capacity=kwargs.pop("capacity", 8), frame=frame, **kwargs)
    return scene, [scene.insert(*view) for view in views]


def assert_same(a, b):
    torch.testing.assert_close(a.render_tensor(targets()), b.render_tensor(targets()), atol=1e-6, rtol=0)


def test_renders_depend_on_the_views(tiny_model, walk, frame):
    one, _ = build(tiny_model, walk[:3], frame)
    other, _ = build(tiny_model, walk[1:4], frame)
    assert (one.render_tensor(targets()) - other.render_tensor(targets())).abs().max() > 0.01


def test_scene_equals_forward(tiny_model, walk, frame, engine):
    scene, ids = build(tiny_model, walk[:4], frame)
    kept = [scene.keyframe(i) for i in ids]
    assert scene._engine.name == engine
    images = torch.stack([k.image for k in kept]).permute(0, 3, 1, 2)[None].float() / 255
    c2w = torch.from_numpy(frame.to_model([k.camera.T_world_cam for k in kept]))[None]
    intrinsics = torch.tensor([k.camera.fxfycxcy for k in kept])[None]
    target_c2w = torch.from_numpy(frame.to_model([t.T_world_cam for t in targets()]))[None]
    target_k = torch.tensor([t.fxfycxcy for t in targets()])[None]
    full = tiny_model(images, c2w, intrinsics, target_c2w, target_k, (32, 32))[0]
    torch.testing.assert_close(scene.render_tensor(targets()), full, atol=2e-6, rtol=0)
    rendering = scene.render(targets())
    assert rendering.images.dtype == np.uint8 and rendering.images.shape == (2, 32, 32, 3)
    assert np.abs(rendering.images - full.permute(0, 2, 3, 1).numpy() * 255).max() <= 0.501
    assert rendering.views == ids


def test_evict_equals_fresh(tiny_model, walk, frame):
    scene, ids = build(tiny_model, walk, frame)
    scene.evict(ids[2])
    scene.evict(ids[0])
    fresh, _ = build(tiny_model, [walk[i] for i in (1, 3, 4, 5, 6, 7)], frame)
    assert_same(scene, fresh)
    with pytest.raises(ec.SceneError, match=f"no view {ids[2]}"):
        scene.evict(ids[2])


def test_replace_equals_fresh(tiny_model, walk, frame):
    scene, ids = build(tiny_model, walk[:4], frame)
    before = scene.render_tensor(targets())
    scene.replace(ids[1], *walk[7])
    assert (scene.render_tensor(targets()) - before).abs().max() > 1e-3
    fresh, _ = build(tiny_model, [walk[0], walk[7], walk[2], walk[3]], frame)
    assert_same(scene, fresh)
    assert scene.views == ids


@pytest.mark.parametrize("limits", [{}, {"capacity": 2}, {"max_keyframes": 3}], ids=str)
def test_inserting_many_equals_one_by_one(tiny_model, walk, frame, limits):
    # What is evicted on the way counts when a frame is chosen, so there it is given.
    given = {"capacity": 8, "frame": frame if "max_keyframes" in limits else None, **limits}
    several, one_by_one = (ec.Scene(tiny_model, **given) for _ in range(2))
    views = several.insert_many([(*walk[0], 0.0)])
    views += several.insert_many([(*view, float(k)) for k, view in enumerate(walk[1:6], start=1)])
    assert views == [one_by_one.insert(*view, float(k)) for k, view in enumerate(walk[:6])]
    assert several.views == one_by_one.views
    assert [several.keyframe(v).stamp for v in several.views] == [float(v) for v in several.views]
    assert several.frame.numbers == one_by_one.frame.numbers
    assert_same(several, one_by_one)
    assert several.insert_many([]) == []


def test_one_bad_image_of_many_leaves_the_scene_as_it_was(tiny_model, walk):
    scene, _ = build(tiny_model, walk[:2], None)
    before, frame = scene.render_tensor(targets()), scene.frame
    image, camera = walk[3]
    with pytest.raises(ec.ImageError):
        scene.insert_many([(*walk[2], None), (image[:5], camera, None)])
    assert scene.views == [0, 1] and scene.frame is frame
    assert torch.equal(scene.render_tensor(targets()), before)
    assert scene.insert_many([(*walk[2], None)]) == [2]


def test_reinserting_restores(tiny_model, walk, frame):
    scene, ids = build(tiny_model, walk[:4], frame)
    before = scene.render_tensor(targets())
    scene.evict(ids[1])
    again = scene.insert(*walk[1])
    assert again not in ids
    torch.testing.assert_close(scene.render_tensor(targets()), before, atol=1e-6, rtol=0)


def test_clear_forgets_views_and_chosen_frame(tiny_model, walk):
    scene, ids = build(tiny_model, walk[:3], None)
    scene.clear()
    assert len(scene) == 0 and scene.views == [] and scene.frame is None
    with pytest.raises(ec.SceneError, match="empty"):
        scene.render(targets())
    assert scene.insert(*walk[0]) not in ids


def test_more_keyframes_than_slots_are_paged_in(tiny_model, walk, frame):
    small, ids = build(tiny_model, walk, frame, capacity=3)
    large, _ = build(tiny_model, walk, frame, capacity=8)
    assert len(small) == 8
    for camera in [view[1] for view in walk]:
        out = small.render([camera], max_views=2)
        assert len(out.views) == 2 and set(out.views) <= set(ids)
        np.testing.assert_array_equal(out.images, large.render([camera], max_views=2).images)


def test_max_keyframes_evicts_the_redundant_ones(tiny_model, walk, frame):
    scene, ids = build(tiny_model, walk[:4], frame, max_keyframes=12)
    for image, camera in [walk[3]] * 12:
        scene.insert(image, camera)
    assert len(scene) == 12
    assert ids[0] in scene.views and ids[3] not in scene.views


def test_update_poses_equals_fresh(tiny_model, walk, frame):
    scene, ids = build(tiny_model, walk[:4], frame)
    scene.render(targets())
    correction = np.eye(4)
    correction[:3, 3] = [0.05, -0.02, 0.03]
    corrected = [(image, camera.at(correction @ camera.T_world_cam)) for image, camera in walk[:4]]
    scene.update_poses({ids[1]: corrected[1][1].T_world_cam, ids[3]: corrected[3][1].T_world_cam})
    fresh, _ = build(tiny_model, [walk[0], corrected[1], walk[2], corrected[3]], frame)
    assert_same(scene, fresh)
    unchanged = scene.poses
    with pytest.raises(ec.CameraError, match="NaN"):
        scene.update_poses({ids[0]: np.eye(4), ids[2]: np.full((4, 4), np.nan)})
    np.testing.assert_array_equal(scene.poses, unchanged)


@pytest.fixture(autouse=True, params=["eager", "fused"])
def engine(request, monkeypatch):
    """Everything here holds for every engine; on a CPU the fused one runs without graphs."""
    monkeypatch.setattr("elvsm_core.engine_selection.default_engine", lambda model: request.param)
    return request.param


def count_encodings(scene, monkeypatch):
    """Return a list that grows with every call of the encoder."""
    encode, calls = scene._engine.encode, []
    monkeypatch.setattr(scene._engine, "encode", lambda *a: calls.extend(a[2]) or encode(*a))
    return calls


def test_rigid_correction_moves_the_frame_only(tiny_model, walk, monkeypatch):
    scene, ids = build(tiny_model, walk, None)
    T = np.eye(4)
    T[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    T[:3, 3] = [100, 20, -3]
    here = [walk[6][1].resized(32, 32), walk[7][1].resized(32, 32)]
    before = scene.render_tensor(here)
    encoded = count_encodings(scene, monkeypatch)
    scene.update_poses({i: T @ camera.T_world_cam for i, (_, camera) in zip(ids, walk, strict=True)})
    moved = [camera.at(T @ camera.T_world_cam) for camera in here]
    torch.testing.assert_close(scene.render_tensor(moved), before, atol=1e-4, rtol=0)
    assert not encoded


def test_chosen_frame_follows_the_camera_and_stays_exact(tiny_model, walk):
    scene = ec.Scene(tiny_model, capacity=32)
    frames = []
    for step in range(24):
        image, camera = walk[step % 8]
        T = camera.T_world_cam.copy()
        T[0, 3] += (0.02 if step < 12 else 0.5) * step
        scene.insert(image, camera.at(T))
        frames += [] if frames and scene.frame is frames[-1] else [scene.frame]
        assert scene.frame.extent(T[None]) <= 1 / 1.35 + 1e-6
        assert scene.frame.scale <= 8.0
    assert 4 < len(frames) < 24, "the frame should follow the first keyframes, then change now and then"
    here = [camera.at(T) for camera in targets()]
    fresh = ec.Scene(tiny_model, capacity=32, frame=scene.frame)
    for view in scene.views:
        kept = scene.keyframe(view)
        fresh.insert(kept.image, kept.camera)
    torch.testing.assert_close(scene.render_tensor(here), fresh.render_tensor(here), atol=1e-6, rtol=0)


def test_requests_far_from_the_robot_get_a_frame_of_their_own(tiny_model, walk, monkeypatch):
    scene, ids = build(tiny_model, walk, None)
    image, camera = walk[0]
    for step in range(6):
        T = camera.T_world_cam.copy()
        T[0, 3] = 20 + 0.1 * step
        scene.insert(image, camera.at(T))
    encoded = count_encodings(scene, monkeypatch)
    start = [walk[i][1].resized(32, 32) for i in (2, 3)]
    for near in (start, [c.at(c.T_world_cam + 0.01 * np.eye(4, k=3)) for c in start]):
        out = scene.render_tensor(near, max_views=4)
        used = scene.render(near, max_views=4).views
        poses = np.stack([scene.keyframe(v).camera.T_world_cam for v in used])
        frame = ec.FramePolicy().frame_for(poses, np.stack([t.T_world_cam for t in near]))
        assert set(used) <= set(ids) and frame.extent(poses) <= 1 / 1.35 + 1e-6
        there = ec.Scene(tiny_model, frame=frame)
        for view in used:
            there.insert(scene.keyframe(view).image, scene.keyframe(view).camera)
        torch.testing.assert_close(out, there.render_tensor(near), atol=1e-6, rtol=0)
    assert len(encoded) == 4, "views are encoded once for requests that share them"
    scene.replace(used[0], *walk[7])
    assert (scene.render_tensor(near, max_views=4) - out).abs().max() > 1e-4
    # Farther away than any view can be placed in the range: the target takes part in choosing the frame.
    beyond = [c.at(c.T_world_cam + 3.0 * np.eye(4, k=3)) for c in start]
    assert torch.isfinite(scene.render_tensor(beyond, max_views=2)).all()


def test_a_plan_renders_a_part_of_a_request_as_the_whole_would(tiny_model, walk):
    """Near the robot and far from it, with more keyframes than are used."""
    scene, _ = build(tiny_model, walk, None)
    image, camera = walk[0]
    for step in range(6):
        T = camera.T_world_cam.copy()
        T[0, 3] = 20 + 0.1 * step
        scene.insert(image, camera.at(T))
    for x, far in ((20.0, False), (0.01, True)):
        there = walk[3][1].resized(32, 32)
        aside = np.zeros((4, 4))
        aside[0, 3] = x
        cameras = [there.at(there.T_world_cam + aside * (1 + 0.002 * i)) for i in range(3)]
        plan = scene.plan(cameras, max_views=3)
        whole = scene.render(cameras, max_views=3)
        assert (plan.frame is not None) == far and list(plan.views) == whole.views and len(plan.views) == 3
        part = scene.render_async(cameras[1:2], plan=plan).result()
        assert part.views == whole.views and part.support[0] == whole.support[1]
        expected = scene.render_tensor(cameras, max_views=3)[1:2]
        torch.testing.assert_close(scene.render_tensor(cameras[1:2], plan=plan), expected, atol=1e-5, rtol=0)
        other = scene.plan(cameras[1:2], max_views=2)
        assert (scene.render_tensor(cameras[1:2], plan=other) - expected).abs().max() > 1e-4
    scene.evict(plan.views[0])
    with pytest.raises(ec.SceneError, match=f"no view {plan.views[0]}"):
        scene.render_async(cameras, plan=plan)
    assert plan.views[0] not in scene and plan.views[1] in scene


def test_sizes_that_are_no_whole_patches(tiny_model, walk, frame):
    scene, _ = build(tiny_model, walk[:2], frame)
    odd = scene.render(targets(width=37, height=27))
    assert odd.images.shape == (2, 27, 37, 3)
    padded = [ec.Camera(c.fx, c.fy, c.cx, c.cy, 40, 32, c.T_world_cam) for c in targets(width=37, height=27)]
    np.testing.assert_array_equal(odd.images, scene.render(padded).images[:, :27, :37])


def test_bad_requests_leave_the_scene_as_it_was(tiny_model, walk, frame):
    scene, _ = build(tiny_model, walk[:2], frame)
    before = scene.render_tensor(targets())
    image, camera = walk[2]
    bad_images = [
        (image[:, :, 0], "shape"),
        (image.astype(np.float32), "uint8"),
        (image[:-1], "calibrated for"),
    ]
    for bad, reason in bad_images:
        with pytest.raises(ec.ImageError, match=reason):
            scene.insert(bad, camera)
        with pytest.raises(ec.ImageError, match=reason):
            scene.replace(scene.views[0], bad, camera)
    with pytest.raises(ec.SceneError, match="at least one view"):
        scene.render([])
    with pytest.raises(ec.SceneError, match="max_views"):
        scene.render(targets(), max_views=0)
    with pytest.raises(ec.SceneError, match="same size"):
        scene.render([targets()[0], targets(40, 32)[0]])
    assert len(scene) == 2
    torch.testing.assert_close(scene.render_tensor(targets()), before, atol=0, rtol=0)


def test_a_failing_device_leaves_the_scene_as_it_was(tiny_model, walk, frame, monkeypatch):
    scene, ids = build(tiny_model, walk[:2], frame)
    before = scene.render_tensor(targets())

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(scene._engine, "encode", fail)
        with pytest.raises(torch.OutOfMemoryError):
            scene.insert(*walk[2])
        with pytest.raises(torch.OutOfMemoryError):
            scene.replace(ids[0], *walk[2])
    assert scene.views == ids
    torch.testing.assert_close(scene.render_tensor(targets()), before, atol=0, rtol=0)


@pytest.mark.parametrize("made_in_inference_mode", [True, False])
@pytest.mark.parametrize("used_in_inference_mode", [True, False])
def test_inference_mode_makes_no_difference(
    tiny_model, walk, engine, made_in_inference_mode, used_in_inference_mode
):
    with torch.inference_mode(made_in_inference_mode):
        scene = ec.Scene(tiny_model, 4, image_size=(32, 32), engine=engine)
    with torch.inference_mode(used_in_inference_mode):
        ids = [scene.insert(image, camera) for image, camera in walk[:2]]
        image, camera = walk[2]
        scene.replace(ids[0], torch.from_numpy(image), camera)
        before = scene.render(targets()).images
    scene.warm_up()
    np.testing.assert_array_equal(scene.render(targets()).images, before)
    with torch.inference_mode(not used_in_inference_mode):
        scene.replace(ids[1], *walk[3])
        scene.render(targets())
    scene.keyframe(ids[1]).image.add_(1)


@pytest.mark.parametrize("size", [(48, 64), (24, 40)])
def test_images_may_lie_in_memory_in_any_way(tiny_model, walk, frame, engine, size):
    """Read-only, as ROS messages are; mirrored views, as OpenCV's colours turned round are; tensors."""
    images = [image for image, _ in walk[:2]]
    turned = [np.ascontiguousarray(image[..., ::-1])[..., ::-1] for image in images]
    fixed = [np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape) for image in images]
    tensors = [torch.from_numpy(image.transpose(2, 0, 1).copy()).permute(1, 2, 0) for image in images]
    assert turned[0].strides[2] < 0 and not fixed[0].flags.writeable and not tensors[0].is_contiguous()
    renders, kept = [], []
    for given in (images, turned, fixed, tensors):
        scene = ec.Scene(tiny_model, 4, image_size=size, frame=frame, engine=engine)
        ids = [scene.insert(image, camera) for image, (_, camera) in zip(given, walk, strict=False)]
        renders.append(scene.render(targets()).images)
        kept.append(scene.keyframe(ids[0]).image.numpy())
    for i in (1, 2, 3):
        np.testing.assert_array_equal(renders[i], renders[0])
        np.testing.assert_array_equal(kept[i], kept[0])


@pytest.mark.parametrize("fixed", [True, False])
def test_short_host_memory_leaves_the_scene_as_it_was(tiny_model, walk, frame, monkeypatch, fixed):
    """The copy of an image is made when the device has been given its work already."""
    scene = ec.Scene(tiny_model, frame=frame if fixed else None)
    ids = [scene.insert(*view) for view in walk[:2]]
    before, given = scene.render_tensor(targets()), scene.frame

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("elvsm_core.engine.copy_to_host", fail)
        with pytest.raises(MemoryError):
            scene.insert(*walk[7])
        with pytest.raises(MemoryError):
            scene.replace(ids[0], *walk[2])
    assert scene.views == ids and scene.frame is given
    torch.testing.assert_close(scene.render_tensor(targets()), before, atol=0, rtol=0)
    assert scene.insert(*walk[7]) == ids[-1] + 1


def test_threads_see_whole_states(tiny_model, walk, frame):
    """A render sees the scene before an edit or after it, never between."""
    scene, ids = build(tiny_model, walk[:2], frame)
    states = []
    for view in (walk[2], walk[3]):
        scene.replace(ids[1], *view)
        states.append(scene.render(targets()).images)
    stop = threading.Event()

    def edit():
        while not stop.is_set():
            scene.replace(ids[1], *walk[2])
            scene.replace(ids[1], *walk[3])

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        for _ in range(40):
            image = scene.render(targets()).images
            assert any(np.array_equal(image, state) for state in states)
    finally:
        stop.set()
        editor.join()


def test_support_tells_invention_from_knowledge(tiny_model, walk, frame):
    scene, _ = build(tiny_model, walk[:2], frame)
    behind = np.diag([-1.0, 1.0, -1.0, 1.0])
    out = scene.render([targets()[0], targets()[0].at(behind)])
    assert out.support.dtype == np.float32
    assert out.support[0] > 0.6
    assert out.support[1] == 0.0


@pytest.mark.parametrize("fixed", [False, True])
def test_cameras_at_the_bounds_give_finite_renders(tiny_model, fixed):
    """What Camera and SceneFrame accept makes no NaN, in the keys and values either, or is rejected."""
    image = np.full((32, 32, 3), 128, np.uint8)
    low, high = ec.cameras.FOCAL_RANGE
    far, off = ec.cameras.MAX_POSITION, ec.cameras.MAX_PRINCIPAL_POINT
    cameras = []
    for k, f in enumerate((30.0, low, high)):
        for x, c in ((0.0, 16.0), (far, off), (-far, -off)):
            T = np.eye(4)
            T[:3, 3] = x, -x, x if k else 0
            cameras.append(ec.Camera(f, f, c, c, 32, 32, T))
    scene = ec.Scene(tiny_model, capacity=16, frame=ec.SceneFrame(np.eye(4), 1e6) if fixed else None)
    for camera in cameras:
        if fixed and np.abs(camera.T_world_cam[:3, 3]).max() == far:  # a million model units to a metre
            with pytest.raises(ec.CameraError, match="float32"):
                scene.insert(image, camera)
            continue
        scene.insert(image, camera)
        assert torch.isfinite(scene.render_tensor([camera])).all()
        assert np.isfinite(scene.render([camera]).support).all()
