"""Camera paths against the published ones."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from training.evaluation.trajectory import TrajectoryError, greedy_order, interpolate, spiral

GOLDEN = {
    name.removeprefix("traj."): value
    for name, value in load_file(Path(__file__).parents[1] / "golden" / "golden_data.safetensors").items()
    if name.startswith("traj.")
}
VIEWS = GOLDEN["c2w"], GOLDEN["fxfycxcy"]


def intrinsics(K):
    return np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=-1)


@pytest.mark.parametrize(
    ("name", "frames", "options"),
    [
        ("interp7.order_False", 7, {}),
        ("interp7.order_True", 7, {"ordered": True}),
        ("loop5", 5, {"loop": True}),
    ],
)
def test_interpolation_equals_golden(name, frames, options):
    c2w, fxfycxcy = interpolate(*VIEWS, frames, **options)
    np.testing.assert_allclose(c2w[:, :3], GOLDEN[f"{name}.c2w_3x4"], atol=2e-6)
    np.testing.assert_allclose(fxfycxcy, intrinsics(GOLDEN[f"{name}.K"]), rtol=1e-6)
    gram = c2w[:, :3, :3] @ c2w[:, :3, :3].swapaxes(1, 2)
    np.testing.assert_allclose(gram, np.tile(np.eye(3), (len(gram), 1, 1)), atol=1e-12)


def test_spiral_equals_golden():
    np.testing.assert_allclose(spiral(VIEWS[0][0], 9), GOLDEN["forward9.c2w_4x4"], atol=2e-6)


def test_order_starts_at_the_first_view_and_takes_every_view_once():
    assert greedy_order(VIEWS[0]) == [0, 3, 1, 2]
    assert greedy_order(VIEWS[0][:1]) == [0]


def test_views_without_a_path_are_refused():
    with pytest.raises(TrajectoryError, match="at least two views"):
        interpolate(VIEWS[0][:1], VIEWS[1][:1], 5)
    with pytest.raises(TrajectoryError, match=r"\[V, 4\]"):
        interpolate(VIEWS[0], VIEWS[1][:2], 5)
    # From its first point the spiral looks along (-0.12, 0, 2.36) in the view's axes: turn that to +y.
    z = np.array([-0.12, 0, 2.36]) / np.hypot(0.12, 2.36)
    x = np.array([z[2], 0, -z[0]])
    pose = np.eye(4)
    pose[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) @ np.stack([x, np.cross(z, x), z])
    with pytest.raises(TrajectoryError, match="straight up or down"):
        spiral(pose, 1)
