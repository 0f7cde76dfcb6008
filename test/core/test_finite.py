"""Numbers that overflow: rejected before they get into a scene, and never shown as a picture."""

import numpy as np
import pytest
import torch

import elvsm_core as ec
from elvsm_core.engine import FARTHEST, camera_numbers

SIZE = (32, 32)


def small_model(poison=False):
    torch.manual_seed(0)
    model = ec.EfficientLVSM(
        ec.ModelConfig(width=64, head_dim=32, layers=2, patch_size=8, image_size=SIZE)
    ).eval()
    if poison:
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if p.ndim > 1)[0, 0] = float("nan")
    return model


def camera(x=0.0, **changes):
    T = np.eye(4)
    T[0, 3] = x
    return ec.Camera(
        **{"fx": 32, "fy": 32, "cx": 16, "cy": 16, "width": 32, "height": 32, "T_world_cam": T, **changes}
    )


IMAGE = np.zeros((*SIZE, 3), np.uint8)


def test_what_the_model_cannot_compute_with_is_rejected_and_the_scene_is_as_it_was():
    frame = ec.SceneFrame(np.eye(4), 1e6)
    scene = ec.Scene(small_model(), capacity=2, frame=frame)
    view = scene.insert(IMAGE, camera())
    before = scene.render([camera(1e-9)]).images
    far = camera(1e9)
    for change in (
        lambda: scene.insert(IMAGE, far),
        lambda: scene.replace(view, IMAGE, far),
        lambda: scene.render([far]),
    ):
        with pytest.raises(ec.CameraError, match=r"1e\+09.*float32 cannot hold"):
            change()
        assert scene.views == [view]
        np.testing.assert_array_equal(scene.render([camera(1e-9)]).images, before)


def test_numbers_for_the_device_are_finite_and_their_squares_are():
    near = camera_numbers([camera(FARTHEST / 1e6, fx=1e-3, cx=1e6)], ec.SceneFrame(np.eye(4), 1.0))
    assert np.isfinite(near).all() and np.isfinite(np.square(near)).all()


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_weights_with_nan_make_no_black_pictures(engine):
    scene = ec.Scene(small_model(poison=True), capacity=2, engine=engine)
    if engine == "eager":
        with pytest.raises(ec.NotFiniteError, match="weights"):
            scene.insert(IMAGE, camera())
        assert len(scene) == 0 and scene.frame is None
        return
    # Without a wait for the device: what is rendered tells.
    scene.insert(IMAGE, camera())
    pending = scene.render_async([camera(0.1), camera(0.2)])
    with pytest.raises(ec.NotFiniteError, match="weights"):
        pending.result()


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_one_bad_keyframe_spoils_only_what_is_made_of_it(engine):
    scene = ec.Scene(small_model(), capacity=2, engine=engine)
    first, second = scene.insert(IMAGE, camera()), scene.insert(IMAGE + 99, camera(0.3))
    scene.render([camera(0.1)])
    slot = scene._pager._slots[second, None]
    scene._cache.store[:, 1, slot] = float("nan")  # what damaged memory would do: nothing else gets it there
    with pytest.raises(ec.NotFiniteError):
        scene.render([camera(0.1)])
    scene.evict(second)
    assert scene.render([camera(0.1)]).views == [first]
