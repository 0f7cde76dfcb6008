"""From messages to candidates, without a node: what is used, what is refused, and what is said about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Pose
from rig import CAMERA, header, picture, pose_at
from sensor_msgs.msg import CameraInfo

from elvsm_core.keyframes import admit
from elvsm_ros import conversions
from elvsm_ros.input.image_intake import Intake
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings

SECOND = 1_000_000_000


class Desk:
    """An intake and the lines it logs."""

    def __init__(self, **settings: Any):
        self.lines: list[str] = []
        self.intake = Intake(Settings.from_values(settings), admit, Reports(self.lines.append, period=0.0))
        self.now = 0.0

    def info(self, stamp: int, message: CameraInfo | None = None) -> None:
        message = message or conversions.camera_info(CAMERA, header(stamp, "camera"))
        message.header = header(stamp, "camera")
        self.intake.add_camera_info(message)

    def pose(self, stamp: int, T: np.ndarray, frame: str = "map") -> None:
        self.intake.add_pose(header(stamp, frame).stamp, frame, conversions.matrix_to_pose(T))

    def image(self, stamp: int) -> list:
        message = conversions.rgb_to_image(picture(0), header(stamp, "camera"))
        self.intake.add_image(message, self.now)
        return self.intake.poll(self.now)

    def frame(self, stamp: int, T: np.ndarray) -> list:
        self.info(stamp)
        self.pose(stamp, T)
        return self.image(stamp)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_posed_image_becomes_a_candidate(desk: Desk) -> None:
    (candidate,) = desk.frame(SECOND, pose_at(0.5))
    assert candidate.camera == CAMERA and candidate.stamp == SECOND
    np.testing.assert_allclose(candidate.T_world_cam, pose_at(0.5))
    assert desk.frame(2 * SECOND, pose_at(0.6)) == []  # too close to be one
    assert desk.lines == []
    assert desk.intake.world_frame == "map"


def test_the_camera_is_where_it_is_mounted_on_the_body() -> None:
    # An optical frame that looks along the body's x: right is -y, down is -z.
    desk = Desk(body_to_camera=[0.1, 0.0, 0.5, -0.5, 0.5, -0.5, 0.5])
    (candidate,) = desk.frame(SECOND, np.eye(4))
    np.testing.assert_allclose(candidate.T_world_cam[:3, 2], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(candidate.T_world_cam[:3, 0], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(candidate.T_world_cam[:3, 3], [0.1, 0, 0.5], atol=1e-12)


def test_odometry_of_a_body_is_not_taken_for_the_cameras_without_a_word() -> None:
    def watch(**settings: Any) -> list[str]:
        desk = Desk(pose_source="odom", **settings)
        for i in range(3):
            stamp = (1 + i) * SECOND
            pose = conversions.matrix_to_pose(pose_at(float(i)))
            desk.intake.add_pose(header(stamp, "odom").stamp, "odom", pose, "base_link")
            desk.info(stamp)
            assert len(desk.image(stamp)) == 1
        return desk.lines

    (line,) = watch()
    assert "tells where 'base_link' is, images come from 'camera'" in line and "extrinsics to tf" in line
    assert watch(body_to_camera=[0.1, 0.0, 0.5, -0.5, 0.5, -0.5, 0.5]) == []


def test_images_without_a_usable_camera_info_are_refused(desk: Desk) -> None:
    desk.pose(SECOND, np.eye(4))
    assert desk.image(SECOND) == [] and desk.lines == []  # it may still come
    desk.now = 1.1
    assert desk.intake.poll(desk.now) == []
    assert "no usable camera_info" in desk.lines[-1]
    desk.info(2 * SECOND)
    desk.info(3 * SECOND, CameraInfo(width=96, height=64))
    assert "not calibrated" in desk.lines[-1]
    desk.pose(3 * SECOND, pose_at(1.0))
    assert desk.image(3 * SECOND) == []
    assert desk.intake.counters.images_rejected == 2
    assert desk.intake.camera == CAMERA  # requests still mean the last good one
    # The same bad message again is not a new camera, and the next good one is.
    desk.info(4 * SECOND, CameraInfo(width=96, height=64))
    desk.pose(4 * SECOND, pose_at(2.0))
    assert desk.image(4 * SECOND) == []
    assert len(desk.frame(5 * SECOND, pose_at(3.0))) == 1


def test_an_image_goes_with_the_camera_info_of_its_stamp(desk: Desk) -> None:
    desk.info(SECOND)
    half = CAMERA.stretched(48, 32)
    desk.info(2 * SECOND, conversions.camera_info(half, header(0, "camera")))
    desk.pose(SECOND, np.eye(4))
    (candidate,) = desk.image(SECOND)
    assert candidate.camera == CAMERA
    desk.pose(3 * SECOND, pose_at(9.0))
    assert desk.image(3 * SECOND) == []  # so far every image had one of its own: this one may have, too
    (candidate,) = desk.intake.poll(0.3)
    assert candidate.camera == half
    desk.pose(4 * SECOND, pose_at(18.0))
    assert len(desk.image(4 * SECOND)) == 1  # they have not: nobody waits any more


@pytest.mark.parametrize(
    "order", ["info image pose", "image pose info", "pose image info", "image info pose"]
)
def test_the_order_in_which_topics_arrive_is_of_no_importance(desk: Desk, order: str) -> None:
    """Intrinsics that change in mid-stream: whatever comes first, each image gets its own."""
    half = CAMERA.stretched(48, 32)
    found = []
    for i, camera in enumerate([CAMERA, half, CAMERA]):
        stamp = (1 + i) * SECOND
        for what in order.split():
            if what == "info":
                desk.info(stamp, conversions.camera_info(camera, header(0, "camera")))
            elif what == "pose":
                desk.pose(stamp, pose_at(9.0 * i))
            else:
                found += desk.image(stamp)
        found += desk.intake.poll(desk.now)
    assert [c.camera for c in found] == [CAMERA, half, CAMERA] and desk.lines == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"position": {"x": float("nan")}}, "NaN"),
        ({"orientation": {"w": 0.5}}, "norm 0.5"),
        ({"orientation": {"w": 0.0}}, "norm 0 "),
    ],
)
def test_bad_poses_are_refused_by_cause(desk: Desk, change: dict, text: str) -> None:
    pose = Pose()
    for part, values in change.items():
        for name, value in values.items():
            setattr(getattr(pose, part), name, value)
    desk.intake.add_pose(header(SECOND, "map").stamp, "map", pose)
    assert len(desk.lines) == 1 and text in desk.lines[0]
    assert len(desk.intake.poses) == 0 and desk.intake.counters.poses_received == 1


def test_poses_in_another_frame_are_refused(desk: Desk) -> None:
    desk.pose(SECOND, np.eye(4), frame="odom")
    assert desk.intake.world_frame == "odom"
    desk.pose(2 * SECOND, np.eye(4), frame="/odom")
    assert desk.lines == []
    desk.pose(2 * SECOND + 1, np.eye(4), frame="")  # whoever leaves it empty means the one there is
    assert desk.lines == []
    desk.pose(3 * SECOND, np.eye(4), frame="map")
    assert "'map' but the world frame is 'odom'" in desk.lines[-1]
    assert len(desk.intake.poses) == 3


def test_an_old_pose_is_refused_and_says_how_old(desk: Desk) -> None:
    desk.pose(9 * SECOND, np.eye(4))
    desk.pose(5 * SECOND, np.eye(4))
    assert desk.intake.poll(0.0) == [] and desk.lines == []  # the clock may have been set back
    desk.pose(9 * SECOND + 1, np.eye(4))
    assert "4.0 s older than the newest" in desk.lines[-1] and "on_time_jump" in desk.lines[-1]
    desk.pose(5 * SECOND, np.eye(4))
    for now in (1.0, 3.1):
        desk.intake.poll(now)
    assert len(desk.lines) == 2 and len(desk.intake.poses) == 2


def test_an_image_whose_pose_never_comes_is_given_up(desk: Desk) -> None:
    desk.info(SECOND)
    desk.pose(SECOND, np.eye(4))
    assert desk.image(2 * SECOND) == []
    assert desk.intake.poll(0.9) == [] and desk.lines == []
    assert desk.intake.poll(1.1) == []
    assert "no pose at or after" in desk.lines[-1]
    assert desk.intake.counters.images_rejected == 1


def test_paused_images_are_counted_only(desk: Desk) -> None:
    desk.info(SECOND)
    desk.image(SECOND)  # waits for its pose when the pause begins
    desk.intake.pause(True)
    desk.pose(SECOND, np.eye(4))
    assert desk.image(SECOND) == []
    desk.intake.pause(False)
    assert desk.intake.poll(0.0) == []
    assert len(desk.frame(2 * SECOND, np.eye(4))) == 1
    assert desk.intake.counters.images_received == 3


def test_thresholds_change_while_images_arrive(desk: Desk) -> None:
    assert len(desk.frame(SECOND, pose_at(0.0))) == 1
    assert desk.frame(2 * SECOND, pose_at(0.1)) == []
    desk.intake.apply(Settings(keyframe_distance=0.05))
    assert len(desk.frame(3 * SECOND, pose_at(0.1))) == 1
