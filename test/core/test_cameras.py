import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import elvsm_core as ec


@pytest.fixture(scope="module")
def data(golden):
    return load_file(golden / "golden_data.safetensors")


def test_rays_equal_golden(data):
    for name, size in (("native", (24, 40)), ("half", (12, 20))):
        origins, directions = ec.compute_rays(data["rays.c2w"], data["rays.fxfycxcy"], size)
        torch.testing.assert_close(directions, data[f"rays.{name}.ray_d"], atol=1e-6, rtol=0)
        torch.testing.assert_close(origins, data[f"rays.{name}.ray_o"], atol=0, rtol=0)


def test_rays_stay_float32_under_autocast(data):
    _, expected = ec.compute_rays(data["rays.c2w"], data["rays.fxfycxcy"], (24, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, directions = ec.compute_rays(data["rays.c2w"], data["rays.fxfycxcy"], (24, 40))
    assert directions.dtype == torch.float32
    torch.testing.assert_close(directions, expected, atol=0, rtol=0)


def test_bf16_rays_are_off_by_a_sixth_of_a_pixel():
    """The published rounding: mean 0.17 px, at most about one, at 256x256 and f = 235."""
    T = np.eye(4)
    T[:3, :3] = [[0.936, -0.1036, 0.3363], [0.1987, 0.9413, -0.2729], [-0.2883, 0.3223, 0.9017]]
    u, _, vt = np.linalg.svd(T[:3, :3])
    T[:3, :3] = u @ vt
    c2w, k = torch.tensor(T, dtype=torch.float32)[None], torch.tensor([[235.0, 235.0, 128.0, 128.0]])
    exact = ec.compute_rays(c2w, k, (256, 256))[1]
    rounded = ec.compute_rays(c2w, k, (256, 256), bf16=True)[1]
    pixels = (exact - rounded).norm(dim=1) * 235
    assert 0.05 < pixels.mean() < 0.4
    assert pixels.max() < 1.5


@pytest.mark.parametrize("i", [0, 1, 2])
def test_normalised_poses_equal_golden(data, i):
    factor = 1.0 if i == 2 else 1.35
    out = ec.normalize_poses(data[f"poses.{i}.in"], scale_factor=factor)
    torch.testing.assert_close(out, data[f"poses.{i}.out"], atol=1e-6, rtol=0)
    assert out[:, :3, 3].abs().max().item() == pytest.approx(1 / factor, rel=1e-5)
    batch = torch.stack([data[f"poses.{i}.in"]] * 2)
    torch.testing.assert_close(ec.normalize_poses(batch, factor)[1], out, atol=1e-6, rtol=0)


def test_raw_poses_of_the_small_golden_normalise_to_its_inputs(golden):
    g = load_file(golden / "golden_small.safetensors")
    out = ec.normalize_poses(g["in.raw_c2w"])
    expected = torch.cat([g["in.input.c2w"], g["in.target.c2w"]], 1)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)


def test_coinciding_centres_cannot_be_normalised():
    with pytest.raises(ec.CameraError, match="coincide"):
        ec.normalize_poses(torch.eye(4).expand(3, 4, 4).clone())


def rotation(seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def pose(seed, spread=1.0):
    T = np.eye(4)
    T[:3, :3] = rotation(seed)
    T[:3, 3] = spread * np.random.default_rng(seed + 100).normal(size=3)
    return T


def moved(x):
    T = np.eye(4)
    T[0, 3] = x
    return T


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fx": float("nan")}, "fx is nan"),
        ({"fy": 0.0}, "positive"),
        ({"cx": float("inf")}, "cx is inf"),
        ({"cx": 1e39}, "principal point"),
        ({"cy": -1e8}, "principal point"),
        ({"fx": 1e-40}, "between"),
        ({"fy": 1e30}, "between"),
        ({"width": 70000}, "65535"),
        ({"T_world_cam": moved(1e30)}, "check its unit"),
        ({"T_world_cam": moved(-1e11)}, "check its unit"),
        (
            {
                "T_world_cam": np.array(
                    [[1e200, 1e200, 0, 0], [1e200, -1e200, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
                )
            },
            "normalise the quaternion",
        ),
        ({"width": 0}, "width"),
        ({"height": 2.5}, "height"),
        ({"height": float("inf")}, "height"),
        ({"T_world_cam": np.full((4, 4), np.nan)}, "NaN"),
        ({"T_world_cam": np.eye(3)}, "4x4"),
        ({"T_world_cam": np.diag([2.0, 2.0, 2.0, 1.0])}, "normalise the quaternion"),
        ({"T_world_cam": np.diag([-1.0, 1.0, 1.0, 1.0])}, "mirrored"),
        ({"T_world_cam": np.eye(4)[::-1]}, "rotation|row"),
    ],
)
def test_bad_cameras_are_refused(change, reason):
    good = {"fx": 50, "fy": 50, "cx": 32, "cy": 24, "width": 64, "height": 48, "T_world_cam": np.eye(4)}
    ec.Camera(**good)
    with pytest.raises(ec.CameraError, match=reason):
        ec.Camera(**{**good, **change})


def test_a_camera_cannot_be_changed_behind_its_back():
    T = np.eye(4)
    camera = ec.Camera(50, 50, 32, 24, 64, 48, T)
    T[0, 3] = 5
    assert camera.T_world_cam[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        camera.T_world_cam[0, 3] = 1


def project(camera, point):
    local = np.linalg.inv(camera.T_world_cam) @ np.append(point, 1)
    return np.array(
        [camera.fx * local[0] / local[2] + camera.cx, camera.fy * local[1] / local[2] + camera.cy]
    )


def test_resize_and_crop_moves_pixels_and_intrinsics_together():
    """A bright dot lies where the resized camera projects the point that it is a picture of."""
    camera = ec.Camera(500, 510, 330, 235, 640, 480, pose(1))
    point = camera.T_world_cam @ [0.2, -0.12, 2.0, 1.0]
    u, v = project(camera, point[:3])
    ys, xs = np.mgrid[:480, :640] + 0.5
    blob = np.exp(-((xs - u) ** 2 + (ys - v) ** 2) / (2 * 9.0**2))
    image = np.repeat((255 * blob).astype(np.uint8)[..., None], 3, axis=2)
    for size in ((128, 128), (96, 160), (240, 320), (480, 640)):
        small, small_camera = ec.resize_and_crop(image, camera, size)
        assert small.shape == (*size, 3) and small_camera.size == size
        weights = small[..., 0].numpy().astype(float)
        rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
        centroid = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
        np.testing.assert_allclose(centroid, project(small_camera, point[:3]), atol=0.1)


def test_resize_keeps_what_has_the_size_already():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    camera = ec.Camera(50, 50, 32, 24, 64, 48, np.eye(4))
    same, same_camera = ec.resize_and_crop(image, camera, (48, 64))
    np.testing.assert_array_equal(same.numpy(), image)
    assert same_camera is camera


def test_frame_fit_is_the_published_normalisation(data):
    poses = data["poses.0.in"].double().numpy()
    frame = ec.SceneFrame.fit(poses)
    np.testing.assert_allclose(frame.to_model(poses), data["poses.0.out"].numpy(), atol=2e-6)
    assert frame.extent(poses) == pytest.approx(1 / 1.35, rel=1e-5)


def test_frame_loses_nothing_far_from_the_origin():
    near = np.stack([pose(i) for i in range(4)])
    shift = np.eye(4)
    shift[:3, 3] = [448_000.0, 5_411_000.0, 300.0]
    a, b = ec.SceneFrame.fit(near), ec.SceneFrame.fit(shift @ near)
    np.testing.assert_allclose(a.to_model(near), b.to_model(shift @ near), atol=1e-6)


def test_frame_of_a_robot_turning_on_the_spot():
    poses = []
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        T = np.eye(4)
        T[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        T[:3, 3] = [3, 1, 2]
        poses.append(T)
    frame = ec.SceneFrame.fit(poses)
    assert np.isfinite(frame.to_model(poses)).all()
    assert frame.extent(poses) < 1e-6


def test_jitter_of_a_resting_camera_is_not_blown_up():
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = [0, 0.002, -0.002, 0.001]
    assert ec.SceneFrame.fit(poses).extent(poses) == pytest.approx(1 / 1.35)
    assert ec.SceneFrame.fit(poses, max_scale=8.0).extent(poses) == pytest.approx(0.018, rel=0.05)


def test_moved_frame_keeps_model_coordinates():
    poses, T = np.stack([pose(i) for i in range(3)]), pose(9, 10)
    frame = ec.SceneFrame.fit(poses)
    np.testing.assert_allclose(frame.moved(T).to_model(T @ poses), frame.to_model(poses), atol=1e-6)
    rows = [frame.moved(T).pose_to_model(T @ pose) for pose in poses]
    np.testing.assert_allclose(rows, frame.to_model(poses)[:, :3].reshape(-1, 12), atol=1e-6)


def test_frame_refuses_a_scale_that_is_none():
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ec.CameraError, match="scale"):
            ec.SceneFrame(np.eye(4), scale)


@pytest.mark.parametrize("scale", [float("nan"), 0.0, -1.0, 1e300, 1e-300, float("inf")])
def test_a_frame_with_a_scale_that_float32_cannot_hold_is_rejected(scale):
    with pytest.raises(ec.CameraError, match="scale"):
        ec.SceneFrame(np.eye(4), scale)


def test_rays_are_finite_at_the_bounds():
    """Every combination of extremes that a Camera accepts."""
    low, high = ec.cameras.FOCAL_RANGE
    principal = (-ec.cameras.MAX_PRINCIPAL_POINT, 0.0, ec.cameras.MAX_PRINCIPAL_POINT)
    for fx, fy, cx, cy in itertools.product((low, high), (low, high), principal, principal):
        camera = ec.Camera(fx, fy, cx, cy, 16, 16, moved(ec.cameras.MAX_POSITION))
        frame = ec.SceneFrame(np.eye(4), 1e6)
        c2w = torch.from_numpy(frame.to_model(camera.T_world_cam[None]))
        for bf16 in (False, True):
            for rays in ec.compute_rays(c2w, torch.tensor([camera.fxfycxcy]), camera.size, bf16):
                assert torch.isfinite(rays).all() and torch.isfinite(rays.square()).all()
