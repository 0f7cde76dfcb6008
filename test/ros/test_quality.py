"""Blurred, black and burnt-out pictures: told apart from good ones, and kept out of the scene when asked to."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from rig import CAMERA, header, picture, pose_at

from elvsm_core.keyframes import admit
from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError
from elvsm_ros.input.image_intake import Intake
from elvsm_ros.input.quality import SIDE, Gate, blur, clipped, shrunk
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings


def detailed(seed: int = 0, height: int = 256, width: int = 384) -> np.ndarray:
    """Return a picture with edges of all sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(
            rng.uniform(0, 255, (height // step, width // step)),
            (width, height),
            interpolation=cv2.INTER_NEAREST,
        )
        for step in (8, 16, 32, 64)
    ]
    return np.repeat(np.mean(layers, 0)[..., None], 3, 2).astype(np.uint8)


def moved(rgb: np.ndarray, pixels: int, axis: int) -> np.ndarray:
    """Return the picture that a camera in motion takes: smeared by so many pixels along an axis."""
    return cv2.blur(rgb, (1, pixels) if axis == 0 else (pixels, 1))


def test_blur_grows_with_motion_in_any_direction() -> None:
    sharp = detailed()
    for axis in (0, 1):
        values = [blur(shrunk(moved(sharp, pixels, axis))) for pixels in (1, 5, 9, 15)]
        assert values == sorted(values) and values[-1] - values[0] > 0.3
    assert blur(np.full((64, 64), 90, np.uint8)) == 1.0


def test_what_the_model_cannot_see_is_no_blur() -> None:
    """The same picture four times as large, smeared by as many pixels as would spoil the small one."""
    large = cv2.resize(detailed(), (4 * 384, 4 * 256), interpolation=cv2.INTER_NEAREST)
    assert min(shrunk(large).shape) == SIDE
    assert blur(shrunk(moved(large, 5, 1))) < blur(shrunk(moved(detailed(), 5, 1))) - 0.1


def test_clipped_pixels_are_counted_at_both_ends() -> None:
    grey = np.full((10, 10), 128, np.uint8)
    grey[0], grey[1] = 0, 255
    assert clipped(grey) == pytest.approx(0.2)


def test_gates_are_open_unless_they_are_set() -> None:
    black = np.zeros((64, 96, 3), np.uint8)
    Gate().check(black)
    with pytest.raises(ConversionError, match=r"black or burnt out in 100% of its pixels.*max_clipped"):
        Gate(max_clipped=0.9).check(black)
    with pytest.raises(ConversionError, match=r"blur of 1\.00, more than max_blur \(0\.9\)"):
        Gate(max_blur=0.9).check(black)


def test_a_refused_picture_leaves_its_place_to_the_next() -> None:
    lines: list[str] = []
    settings = Settings(max_blur=0.7)
    intake = Intake(settings, admit, Reports(lines.append, period=0.0))
    for i, rgb in enumerate([moved(detailed(), 25, 1), detailed()]):
        stamp = header((1 + i) * 10**9, "map")
        camera = CAMERA.stretched(384, 256)
        intake.add_camera_info(conversions.camera_info(camera, stamp))
        intake.add_pose(stamp.stamp, "map", conversions.matrix_to_pose(pose_at(0.01 * i)))
        intake.add_image(conversions.rgb_to_image(rgb, stamp), 0.0)
        (candidate,) = intake.poll(0.0)
        if i == 0:
            with pytest.raises(ConversionError, match="blur"):
                candidate.picture()
            intake.admission.release(candidate.key)
        else:
            np.testing.assert_array_equal(candidate.picture(), rgb)
    intake.apply(settings.replaced({"max_blur": 1.0}))  # live
    assert intake._gate == Gate()


@pytest.fixture(scope="module")
def frames(office_walk: Path) -> list[np.ndarray]:
    """Return every tenth of the first 200 frames of the walk."""
    names = sorted(office_walk.rglob("*.jpg"))[:200:10]
    return [np.asarray(PillowImage.open(name).convert("RGB")) for name in names]


def refused(pictures: list[np.ndarray], gate: Gate) -> float:
    """Return the share of pictures that a gate refuses."""
    count = 0
    for rgb in pictures:
        try:
            gate.check(rgb)
        except ConversionError:
            count += 1
    return count / len(pictures)


def test_recorded_frames_pass_and_spoilt_ones_do_not(frames: list[np.ndarray]) -> None:
    """The figures of docs/decisions.md."""
    gate = Gate(max_blur=0.6, max_clipped=0.3)
    assert refused(frames, gate) == 0
    for axis in (0, 1):
        assert refused([moved(rgb, 9, axis) for rgb in frames], gate) > 0.9
        assert refused([moved(rgb, 3, axis) for rgb in frames], gate) < 0.2
    assert refused([exposed(rgb, 8) for rgb in frames], gate) > 0.8
    assert refused([exposed(rgb, 1 / 256) for rgb in frames], gate) == 1
    assert refused([exposed(rgb, 0.5) for rgb in frames], gate) == 0


def exposed(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Return a picture as it would have been with another exposure, by a gamma of 2.2."""
    table = 255 * np.minimum(1, factor * (np.arange(256) / 255) ** 2.2) ** (1 / 2.2)
    return np.asarray(cv2.LUT(rgb, table.astype(np.uint8)))


def test_a_smooth_picture_is_not_taken_for_a_sharp_one() -> None:
    assert blur(shrunk(picture(1, 384, 256))) > 0.75
    assert math.isfinite(blur(np.zeros((1, 1), np.uint8)))
