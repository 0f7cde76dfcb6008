"""The fused engine computes what the model does, on whatever device there is, with and without graphs."""

import dataclasses

import numpy as np
import pytest
import torch

import elvsm_core as ec
from elvsm_core.cuda.engine_fused import FusedEngine
from elvsm_core.cuda.fused import Tuning
from elvsm_core.engine import batches

KINDS = [("cpu", torch.float32, 2e-6)]
if torch.cuda.is_available():
    KINDS += [
        pytest.param(kind, marks=pytest.mark.gpu)
        for kind in (("cuda", torch.float32, 1e-4), ("cuda", torch.bfloat16, 0.06))
    ]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{str(kind[1])[6:]}")
def kind(request):
    return request.param


@pytest.fixture
def model(kind, tiny_model):
    # A copy on the device, with gains of the norms that are not all one.
    torch.manual_seed(1)
    config = ec.ModelConfig(width=128, head_dim=64, layers=3, patch_size=8, image_size=(48, 64))
    model = ec.EfficientLVSM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, float(parameter.ndim == 1), 0.1)
    return model.to(kind[0], kind[1]).eval().requires_grad_(False)


@pytest.fixture
def frame(walk):
    return ec.SceneFrame.fit([camera.T_world_cam for _, camera in walk])


def cameras(count, width=64, height=48):
    result = []
    for i in range(count):
        T = np.eye(4)
        T[:3, 3] = [0.1 + 0.05 * i, 0.02 * i, 0.1]
        result.append(ec.Camera(60, 60, width / 2, height / 2, width, height, T))
    return result


def scenes(model, walk, frame, capacity=8):
    both = [ec.Scene(model, capacity, frame=frame, engine=name) for name in ("eager", "fused")]
    for image, camera in walk[:6]:
        for scene in both:
            scene.insert(image, camera)
    return both


def test_renders_are_those_of_the_model(model, walk, frame, kind):
    eager, fused = scenes(model, walk, frame)
    assert isinstance(fused._engine, FusedEngine)
    for count, size in ((1, (64, 48)), (3, (64, 48)), (9, (64, 48)), (2, (37, 27))):
        wanted = cameras(count, *size)
        a, b = eager.render_tensor(wanted).cpu(), fused.render_tensor(wanted).cpu()
        assert a.std() > 0.05
        torch.testing.assert_close(a, b, atol=kind[2], rtol=0)
        images = fused.render(wanted).images
        assert images.shape == (count, size[1], size[0], 3)
        assert np.abs(images - b.permute(0, 2, 3, 1).numpy() * 255).max() <= 0.51 + 255 * kind[2]


def test_graphs_show_every_edit(model, walk, frame):
    """Prepared or not, in the first slots or scattered: always the numbers of a fresh scene."""
    scene = ec.Scene(model, 8, frame=frame, engine="fused")
    scene.warm_up(view_counts=(2, 3), target_counts=(1, 2))
    ids = [scene.insert(*view) for view in walk[:4]]

    def check(used, targets):
        fresh = ec.Scene(model, 8, frame=frame, engine="fused")
        for index in used:
            fresh.insert(*walk[index])
        np.testing.assert_array_equal(scene.render(targets).images, fresh.render(targets).images)

    check([0, 1, 2, 3], cameras(2))
    scene.evict(ids[1])
    check([0, 2, 3], cameras(2))
    check([0, 2, 3], cameras(3))
    scene.replace(ids[3], *walk[5])
    check([0, 2, 5], cameras(1))
    scene.evict(ids[0])
    check([2, 5], cameras(2))
    while scene.capture_missing(2):
        pass
    check([2, 5], cameras(3))
    scene.insert(*walk[7])
    check([2, 5, 7], cameras(1))


def test_a_rendering_shows_the_scene_as_it_was_asked_for(model, walk, frame):
    scene = ec.Scene(model, 4, frame=frame, engine="fused")
    ids = [scene.insert(*view) for view in walk[:3]]
    before = scene.render(cameras(2))
    begun = [scene.render_async(cameras(2)) for _ in range(4)]
    scene.replace(ids[0], *walk[6])
    scene.evict(ids[1])
    after = scene.render(cameras(2)).images
    for pending in begun:
        np.testing.assert_array_equal(pending.result().images, before.images)
        assert pending.done() and pending.views == ids
    assert np.abs(after.astype(int) - before.images).max() > 2


@pytest.mark.parametrize("tuning", [Tuning(((10**6, 3),)), Tuning((), ((10**6, 2),), bounded=False)])
def test_keys_in_parts_give_the_same(model, walk, frame, kind, tuning):
    scene = ec.Scene(model, 6, frame=frame, engine="fused")
    for view in walk[:6]:
        scene.insert(*view)
    scene._engine._network.tuning = Tuning()
    whole = scene.render_tensor(cameras(2)).cpu()
    scene._engine._network.tuning = tuning
    torch.testing.assert_close(scene.render_tensor(cameras(2)).cpu(), whole, atol=kind[2], rtol=0)


def test_layer_norm_before_and_after_the_product_gives_the_same(model, walk, frame, kind):
    renders = []
    for most in (0, 10**6):
        scene = ec.Scene(model, 6, frame=frame, engine="fused")
        scene._engine._network.tuning = dataclasses.replace(scene._engine._network.tuning, late_norm=most)
        for view in walk[:4]:
            scene.insert(*view)
        renders.append(scene.render_tensor(cameras(2)).cpu())
    torch.testing.assert_close(*renders, atol=kind[2], rtol=0)
    assert not torch.equal(*renders), "both ways were taken"


def test_the_table_tells_parts():
    tuning = Tuning(((1024, 8), (4096, 2)), ((1024, 4),))
    for queries, views, bounded, expected in (
        (1024, 8, True, 8),
        (1024, 6, True, 6),
        (1024, 6, False, 3),
        (4096, 8, True, 2),
        (4096, 8, False, 1),
        (8192, 8, True, 1),
    ):
        assert tuning.cross_attention(queries, views, bounded) == expected


def test_batches_cover_all_targets_in_few_sizes():
    for limit in (1, 2, 8):
        for count in range(1, 40):
            plain, padded = list(batches(count, limit, False)), list(batches(count, limit, True))
            assert sum(n for n, _ in plain) == sum(n for n, _ in padded) == count
            assert all(n <= size <= limit and size in (1, 2, 4, 8) for n, size in padded)
            assert sum(size for _, size in padded) <= count + 1
    assert list(batches(15, 8, True)) == [(8, 8), (7, 8)]
    assert list(batches(5, 8, True)) == [(4, 4), (1, 1)]


def test_unknown_engines_are_named(model):
    with pytest.raises(ValueError, match="no engine 'fast'; there are auto, eager, fused"):
        ec.Scene(model, engine="fast")


def test_published_rays_are_left_to_the_model(tiny_model):
    config = dataclasses.replace(tiny_model.config, bf16_rays=True)
    with pytest.raises(ValueError, match="engine='eager'"):
        ec.Scene(ec.EfficientLVSM(config), engine="fused")


def test_larger_images_are_resampled_on_the_device_and_kept(model, walk, frame):
    """The images of the walk have four times the pixels of these scenes."""
    both = [ec.Scene(model, 4, (24, 32), frame, engine=name) for name in ("eager", "fused")]
    given = [image.copy() for image, _ in walk[:2]]
    for scene in both:
        for image, (_, camera) in zip(given, walk[:2], strict=True):
            image = image.copy()
            view = scene.insert(image, camera)
            image[:] = 0  # a caller's memory is the caller's
        scene.replace(view, given[0], walk[3][1])
    for view in both[0].views:
        a, b = (scene.keyframe(view) for scene in both)
        assert b.image.shape == (24, 32, 3) and b.image.device.type == "cpu" and not b.image.is_inference()
        assert (a.image.int() - b.image.int()).abs().max() <= 1 and a.image.float().std() > 10
        assert a.camera.fxfycxcy == b.camera.fxfycxcy
    images = [scene.render(cameras(1, 32, 24)).images.astype(int) for scene in both]
    assert np.abs(images[0] - images[1]).max() <= 16
