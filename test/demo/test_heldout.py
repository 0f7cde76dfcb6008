"""Which frames count as held out, and what their renders are compared with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from recordings import CAMERA, SECOND, picture
from std_msgs.msg import Header

from elvsm_ros.conversions import rgb_to_image
from elvsm_ros.demo.heldout import Thresholds, Walked, fit, psnr
from elvsm_ros.recordings.bag_reader import PosedImage

RATE = 10
NONE = np.zeros((0, 4, 4))


def at(x: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


def frame(k: int) -> PosedImage:
    """Return frame k of a walk along x at 0.5 m/s."""
    return PosedImage(stamp(k), at(0.05 * k), CAMERA, rgb_to_image(picture(k), Header()))


def stamp(k: float) -> int:
    return round((1 + k / RATE) * SECOND)


def walk(count: int = 100) -> Iterator[PosedImage]:
    return (frame(k) for k in range(count))


@pytest.fixture
def walked() -> Walked:
    return Walked(walk(), Thresholds(0.2, np.radians(15)))


def keyframes(*ks: int) -> np.ndarray:
    return np.stack([frame(k).T_world_cam for k in ks])


def test_nothing_is_held_out_before_the_first_keyframe(walked: Walked) -> None:
    walked.advance(stamp(20))
    assert walked.candidate(NONE, 0, stamp(20)) is None


def test_the_frame_in_the_middle_between_keyframes_is_taken(walked: Walked) -> None:
    walked.advance(stamp(9))
    walked.learn(keyframes(0, 8))
    chosen = walked.candidate(keyframes(0, 8), 0, stamp(9))
    assert chosen is not None and chosen.stamp == stamp(4)


def test_frames_that_may_still_become_keyframes_are_not_taken(walked: Walked) -> None:
    walked.advance(stamp(19))
    walked.learn(keyframes(0))
    # Nothing newer is a keyframe yet, and none of these has been waiting for two seconds.
    assert walked.candidate(keyframes(0), 0, stamp(19)) is None
    walked.advance(stamp(27))
    chosen = walked.candidate(keyframes(0), 0, stamp(27))
    assert chosen is not None and chosen.stamp == stamp(6)


def test_keyframes_and_what_stands_in_their_place_are_not_taken() -> None:
    twice = (PosedImage(stamp(k), at(0.05 * (k // 2)), CAMERA, frame(k).message) for k in range(100))
    walked = Walked(twice, Thresholds(0.2, np.radians(15)))
    walked.advance(stamp(5))
    stored = np.stack([at(0), at(0.05), at(0.1)])
    walked.learn(stored)
    assert walked.candidate(stored, 0, stamp(5)) is None


def test_only_frames_after_the_last_one_are_taken(walked: Walked) -> None:
    walked.advance(stamp(9))
    walked.learn(keyframes(0, 8))
    chosen = walked.candidate(keyframes(0, 8), stamp(5), stamp(9))
    assert chosen is not None and chosen.stamp == stamp(6)


def test_old_frames_are_forgotten_but_keyframes_are_not(walked: Walked) -> None:
    walked.advance(stamp(9))
    walked.learn(keyframes(3))
    walked.advance(stamp(99))
    assert len(walked.path) == 100
    chosen = walked.candidate(keyframes(3), 0, stamp(99))
    assert chosen is not None and chosen.stamp >= stamp(99) - 6 * SECOND
    image = walked.keyframe_image(at(0.05 * 3), (24, 32))
    assert image is not None
    np.testing.assert_array_equal(image, picture(3))


def test_a_keyframe_whose_frame_was_not_seen_has_no_image(walked: Walked) -> None:
    walked.advance(stamp(9))
    stored = np.stack([at(77.0)])
    walked.learn(stored)
    assert walked.keyframe_image(stored[0], (24, 32)) is None


def test_a_keyframe_that_is_known_before_its_frame_has_passed_gets_its_image(walked: Walked) -> None:
    """On a busy machine the node's list may overtake the messages that tell how far the walk is."""
    walked.advance(stamp(2))
    walked.learn(keyframes(3))
    walked.advance(stamp(9))
    walked.learn(keyframes(3))
    image = walked.keyframe_image(frame(3).T_world_cam, (24, 32))
    assert image is not None
    np.testing.assert_array_equal(image, picture(3))
    assert walked.newest_keyframe == stamp(3)


def test_nearest_weighs_angle_against_distance(walked: Walked) -> None:
    turned = at(0.0)
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    turned[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    index, away = walked.nearest(at(0.0), np.stack([turned, at(0.1)]))
    assert index == 1
    assert away == pytest.approx(0.5)


def test_a_frame_is_fitted_as_keyframes_are() -> None:
    """The middle of 32x24 pixels, 24 wide, at half the size; the camera follows."""
    view = fit(frame(0), (12, 12))
    assert view.image.shape == (12, 12, 3)
    assert view.camera == CAMERA.fitted(12, 12)
    assert view.camera.fx == pytest.approx(15.0)
    assert view.camera.cx == pytest.approx((15.5 - 4) / 2)
    expected = picture(0)[:, 4:28].reshape(12, 2, 12, 2, 3).mean((1, 3))
    assert np.abs(view.image[1:-1, 1:-1] - expected[1:-1, 1:-1]).max() < 3


def test_psnr_of_a_known_difference() -> None:
    a = np.full((12, 12, 3), 100, np.uint8)
    assert psnr(a, a + 51) == pytest.approx(-20 * np.log10(51 / 255))
