"""The pose buffer and the queue of images that wait for it."""

from __future__ import annotations

import numpy as np
import pytest
from rig import pose_at
from scipy.spatial.transform import Rotation

from elvsm_ros.input.pose_source import SECOND, PoseBuffer, PoseError
from elvsm_ros.input.sync import ImageSync

NONE = np.array([0.0, 0.0, 0.0, 1.0])


def at(seconds: float) -> int:
    return 1_700_000_000 * SECOND + round(seconds * SECOND)


def filled(*seconds: float, **options: float) -> PoseBuffer:
    buffer = PoseBuffer(**options)
    for s in seconds:
        buffer.add(at(s), np.array([s, 0.0, 0.0]), Rotation.from_euler("y", 10 * s, degrees=True).as_quat())
    return buffer


def test_interpolates_position_and_orientation() -> None:
    buffer = filled(0.0, 0.4)
    T = buffer.lookup(at(0.1))
    assert T is not None
    np.testing.assert_allclose(T, pose_at(0.1, np.deg2rad(1.0)), atol=1e-9)


def test_never_extrapolates() -> None:
    buffer = filled(1.0, 1.4)
    assert buffer.lookup(at(1.5)) is None  # it may still become known
    with pytest.raises(PoseError, match="older than the oldest pose") as error:
        buffer.lookup(at(0.9))
    assert error.value.reason == "before"
    assert PoseBuffer().lookup(at(0)) is None


def test_a_pose_at_the_very_stamp_needs_no_neighbour() -> None:
    buffer = filled(1.0)
    T = buffer.lookup(at(1.0))
    assert T is not None
    np.testing.assert_allclose(T, pose_at(1.0, np.deg2rad(10.0)), atol=1e-12)


def test_does_not_interpolate_over_a_gap() -> None:
    buffer = filled(0.0, 0.5, 1.1, gap=0.5)
    assert buffer.lookup(at(0.25)) is not None
    with pytest.raises(PoseError, match=r"0\.600 s apart") as error:
        buffer.lookup(at(0.8))
    assert error.value.reason == "gap"
    assert buffer.lookup(at(1.1)) is not None


def test_a_pose_that_is_far_ahead_decides_nothing_until_the_next_one_comes() -> None:
    buffer = filled(0.0, 3600.0)
    assert buffer.lookup(at(0.1)) is None
    buffer.drop_newest()  # it was out of line
    buffer.add(at(0.2), np.array([0.2, 0, 0]), NONE)
    assert buffer.lookup(at(0.1)) is not None
    late = filled(0.0, 3600.0, 3600.1)  # it was a pause
    with pytest.raises(PoseError, match=r"3600\.000 s apart"):
        late.lookup(at(0.1))


@pytest.mark.parametrize(
    ("stamp", "translation", "quaternion", "reason"),
    [
        (at(2), [np.nan, 0, 0], NONE, "invalid"),
        (at(2), [0, 0, 0], [0, 0, np.inf, 1], "invalid"),
        (at(2), [0, 0, 0], [0, 0, 0, 0.5], "invalid"),
        (at(2), [0, 0, 0], [0, 0, 0, 0], "invalid"),
        (at(1), [0, 0, 0], NONE, "duplicate"),
        (at(0.9), [0, 0, 0], NONE, "out of order"),
        (at(-7), [0, 0, 0], NONE, "too old"),
    ],
)
def test_refuses_and_counts_and_stays_as_it_was(
    stamp: int, translation: list[float], quaternion: list[float], reason: str
) -> None:
    buffer = filled(0.0, 1.0, gap=2.0)
    with pytest.raises(PoseError) as error:
        buffer.add(stamp, np.array(translation), np.array(quaternion))
    assert error.value.reason == reason
    assert buffer.counts == {reason: 1}
    assert len(buffer) == 2 and buffer.newest == at(1.0)
    np.testing.assert_allclose(buffer.lookup(at(0.5)), pose_at(0.5, np.deg2rad(5)), atol=1e-9)


def test_forgets_old_poses_but_keeps_the_promised_length() -> None:
    buffer = PoseBuffer(length=5.0, gap=0.5)
    for i in range(10_000):
        buffer.add(at(i * 0.01), np.zeros(3), NONE)
    assert len(buffer) < 700
    assert buffer.lookup(at(99.99 - 4.999)) is not None
    with pytest.raises(PoseError):
        buffer.lookup(at(50.0))
    buffer.clear()
    assert len(buffer) == 0
    buffer.add(at(0), np.zeros(3), NONE)  # a clock that was set back


def test_applies_the_pose_of_the_camera_on_the_body() -> None:
    T_body_cam = pose_at(0.0, y=0.3)
    buffer = PoseBuffer(T_body_cam=T_body_cam)
    buffer.add(at(0), np.array([1.0, 2.0, 3.0]), Rotation.from_euler("z", 90, degrees=True).as_quat())
    T = buffer.lookup(at(0))
    assert T is not None
    np.testing.assert_allclose(T[:3, 3], [0.7, 2.0, 3.0], atol=1e-12)


def test_images_wait_until_poses_surround_them() -> None:
    buffer = filled(0.0)
    sync: ImageSync[str] = ImageSync(buffer, length=10, timeout=1.0)
    assert sync.add(at(0.1), "a", now=0.0) == []
    assert sync.add(at(0.3), "b", now=0.2) == []
    assert sync.poll(now=0.2) == ([], [])
    buffer.add(at(0.2), np.array([0.2, 0, 0]), NONE)
    ready, given_up = sync.poll(now=0.3)
    assert [(r.payload, r.stamp) for r in ready] == [("a", at(0.1))] and not given_up
    np.testing.assert_allclose(ready[0].T_world_cam[:3, 3], [0.1, 0, 0], atol=1e-12)
    assert len(sync) == 1


def test_an_image_without_a_pose_is_given_up_with_its_reason() -> None:
    sync: ImageSync[str] = ImageSync(filled(1.0, 1.2, 3.0, gap=0.5), length=10, timeout=1.0)
    for payload, seconds in [("early", 0.5), ("gap", 2.0), ("late", 5.0), ("good", 1.1)]:
        sync.add(at(seconds), payload, now=0.0)
    ready, given_up = sync.poll(now=0.9)
    assert [r.payload for r in ready] == ["good"]
    assert [(g.payload, g.reason) for g in given_up] == [("early", "before"), ("gap", "gap")]
    assert len(sync) == 1
    ready, given_up = sync.poll(now=1.1)
    assert not ready and [(g.payload, g.reason) for g in given_up] == [("late", "timeout")]
    assert sync.counts == {"before": 1, "gap": 1, "timeout": 1}


def test_the_queue_of_waiting_images_is_bounded_and_the_newest_stay() -> None:
    sync: ImageSync[int] = ImageSync(PoseBuffer(), length=3, timeout=10.0)
    given_up = [image for i in range(5) for image in sync.add(at(i), i, now=0.0)]
    assert [(g.payload, g.reason) for g in given_up] == [(0, "overflow"), (1, "overflow")]
    assert len(sync) == 3
    assert sync.clear() == 3 and len(sync) == 0
