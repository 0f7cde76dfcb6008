"""The rotation warp, the metrics, and noise on poses."""

from __future__ import annotations

import numpy as np
import pytest
from far_away import camera, picture, pose
from scipy.spatial.transform import Rotation

import elvsm_core as ec
from elvsm_ros.evaluation.baselines import PSNR_LIMIT, Metrics, psnr, warped
from elvsm_ros.evaluation.noise import disturbed


def test_the_warp_is_exact_for_a_world_far_away() -> None:
    source = camera(pose(0.0)).resized(96, 64)
    turned = pose(0.3)
    # Another size, and a field of view that the source covers but for a strip at one side.
    target = camera(turned).resized(48, 32)
    truth, copy = picture(target), picture(camera(pose(0.0)).resized(48, 32))
    found = warped(picture(source), source, target)
    error = np.abs(found.astype(float) - truth).mean((0, 2))
    copied = np.abs(copy.astype(float) - truth).mean((0, 2))
    covered = error < 4
    assert covered.mean() > 0.6
    assert error[covered].mean() < 0.2 * copied[covered].mean()


def test_the_warp_without_a_rotation_is_a_copy() -> None:
    source = camera(pose(0.4))
    moved = source.T_world_cam.copy()
    moved[:3, 3] += 5
    image = picture(source)
    assert np.array_equal(warped(image, source, source.at(moved)), image)


def test_what_lies_behind_the_source_does_not_break_the_warp() -> None:
    source = camera(np.eye(4))
    back = np.eye(4)
    back[:3, :3] = Rotation.from_euler("y", 170, degrees=True).as_matrix()
    image = picture(source)
    found = warped(image, source, source.at(back))
    colours = {tuple(c) for c in np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])}
    assert {tuple(c) for c in found.reshape(-1, 3)} <= {tuple(c) for c in image.reshape(-1, 3)} | colours


def test_metrics_of_identical_and_of_different_pictures() -> None:
    image = picture(camera(pose(0.0)))
    metrics = Metrics("no", image.shape[:2])
    same, other = metrics.compare([image, 255 - image], image)
    assert (same.psnr, same.ssim, same.lpips) == (PSNR_LIMIT, pytest.approx(1.0), None)
    assert other.psnr < 10
    assert other.ssim is not None and other.ssim < 0
    assert psnr(image, image) == PSNR_LIMIT
    assert psnr(image, np.full_like(image, 0)) == pytest.approx(
        -10 * np.log10(np.mean((image / 255.0) ** 2)), abs=1e-3
    )


def test_lpips_without_weights_is_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("ELVSM_LPIPS_WEIGHTS", str(tmp_path / "nothing"))
    image = picture(camera(pose(0.0)))
    metrics = Metrics("vgg", image.shape[:2])
    assert "LPIPS is left out" in metrics.missing
    assert metrics.compare([image], image)[0].lpips is None


def test_a_disturbed_camera_is_off_by_exactly_so_much() -> None:
    rng = np.random.default_rng(0)
    original = camera(pose(1.0))
    moved = disturbed(original, 0.05, 2.0, rng)
    metres, radians = ec.keyframes.differences(moved.T_world_cam, original.T_world_cam[None])
    assert metres[0] == pytest.approx(0.05)
    assert np.degrees(radians[0]) == pytest.approx(2.0, abs=1e-4)
