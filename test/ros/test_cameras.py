"""Several cameras that feed one scene: each with its topics, its calibration and its place on the body."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovariance
from nav_msgs.msg import Odometry
from rig import CAMERA, NodeProcess, Peer, header, picture, pixels, pose_at, wait_until
from sensor_msgs.msg import CameraInfo, Image

from elvsm_core.keyframes import admit
from elvsm_ros import conversions
from elvsm_ros.input.image_intake import Candidate, Intake
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import ParameterError, Settings

SECOND = 10**9
FRONT = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
REAR = [0.0, 0.0, -0.4, 0.0, 1.0, 0.0, 0.0]  # half a turn about the vertical axis
T_REAR = pose_at(0.0, np.pi)
T_REAR[2, 3] = -0.4
TWO: dict[str, Any] = {
    "image_topics": ["front/image", "rear/image"],
    "camera_info_topics": ["front/camera_info", "rear/camera_info"],
    "body_to_camera": FRONT + REAR,
}
WIDE = CAMERA.stretched(48, 32)


class Desk:
    """An intake for two cameras, and the lines it logs."""

    def __init__(self, **settings: Any):
        self.lines: list[str] = []
        self.intake = Intake(
            Settings.from_values({**TWO, **settings}), admit, Reports(self.lines.append, period=0.0)
        )
        self.found: list[Candidate] = []

    def image(self, camera: int, stamp: int, now: float = 0.0) -> None:
        which = (CAMERA, WIDE)[camera]
        self.intake.add_camera_info(conversions.camera_info(which, header(stamp, "x")), camera)
        rgb = picture(camera, which.width, which.height)
        self.intake.add_image(conversions.rgb_to_image(rgb, header(stamp, "x")), now, camera)
        self.poll(now)

    def pose(self, stamp: int, T: np.ndarray) -> None:
        self.intake.add_pose(header(stamp, "map").stamp, "map", conversions.matrix_to_pose(T))
        self.poll(0.0)

    def poll(self, now: float) -> None:
        self.found += self.intake.poll(now)


def test_each_camera_has_its_calibration_and_its_place_on_the_body() -> None:
    desk = Desk()
    desk.pose(SECOND, pose_at(3.0))
    desk.image(0, SECOND)
    desk.image(1, SECOND)
    assert [candidate.camera for candidate in desk.found] == [CAMERA, WIDE]
    np.testing.assert_allclose(desk.found[0].T_world_cam, pose_at(3.0), atol=1e-12)
    np.testing.assert_allclose(desk.found[1].T_world_cam, pose_at(3.0) @ T_REAR, atol=1e-12)
    assert desk.intake.camera == CAMERA  # what requests without intrinsics mean is the first one


def test_one_place_may_stand_for_all_cameras() -> None:
    desk = Desk(body_to_camera=REAR)
    desk.pose(SECOND, pose_at(3.0))
    desk.image(1, SECOND)
    desk.image(0, SECOND)
    assert [c.T_world_cam[2, 3] for c in desk.found] == pytest.approx(
        [-0.4]
    )  # both in one place: one keyframe


@pytest.mark.parametrize("first", [0, 1])
def test_images_are_judged_in_the_order_of_their_stamps(first: int) -> None:
    """Both look at the same place one after the other: the older image gets it, whichever comes first."""
    desk = Desk(body_to_camera=FRONT, pose_gap=2.0)
    for stamp in (SECOND, SECOND + 400_000_000):
        desk.pose(stamp, pose_at(9.0 * (stamp > SECOND)))
        desk.image(0, stamp)
        desk.image(1, stamp)
    desk.found.clear()
    desk.pose(2 * SECOND, pose_at(18.0))
    stamps = {0: 2 * SECOND, 1: 2 * SECOND - 20_000_000}
    for camera in (first, 1 - first):
        desk.image(camera, stamps[camera])
    assert [candidate.stamp for candidate in desk.found] == [stamps[1]]


def test_a_camera_that_has_fallen_silent_is_not_waited_for_long() -> None:
    desk = Desk()
    desk.pose(SECOND, pose_at(0.0))
    desk.image(0, SECOND)
    desk.image(1, SECOND)
    desk.found.clear()
    desk.pose(2 * SECOND, pose_at(9.0))
    desk.image(0, 2 * SECOND, now=0.1)
    assert desk.found == []  # the other one may have seen something before that
    desk.poll(0.3)
    assert len(desk.found) == 1 and desk.lines == []


def test_a_clock_that_is_set_back_is_so_for_all_cameras() -> None:
    desk = Desk()
    restarts = []
    desk.intake.on_restart = lambda: restarts.append(desk.found.clear())
    for run in range(2):
        for i in range(10):
            stamp = SECOND + i * SECOND // 5
            desk.pose(stamp, pose_at(float(i), y=7.0 * run))
            desk.image(0, stamp)
            desk.image(1, stamp)
    assert len(restarts) == 1
    seen = [(c.stamp, float(c.T_world_cam[1, 3])) for c in desk.found]
    assert seen == [(SECOND + i * SECOND // 5, 7.0) for i in range(10) for _ in range(2)]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"image_topics": ["a", "b"]}, "one name for each of the 2 image_topics"),
        ({"image_topics": ["a", "a"], "camera_info_topics": ["b", "c"]}, "differ from each other"),
        ({"image_topics": [""]}, "differ from each other"),
        ({"image_topics": []}, "strings, at least one"),
        ({"image_topics": [3]}, "strings"),
        ({**TWO, "body_to_camera": FRONT * 3}, "7 numbers, or 14 for 2 cameras, got 21"),
        ({**TWO, "body_to_camera": FRONT + [0.0] * 7}, "unit quaternion"),
        ({**TWO, "camera_frames": ["only_one"]}, "one name for each of the 2"),
    ],
)
def test_lists_that_do_not_go_together_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        Settings.from_values(values)


# Over DDS


class Pair:
    """Publishers of the two cameras."""

    def __init__(self, peer: Peer):
        make = peer.node.create_publisher
        self.images = [make(Image, f"/{name}/image", 10) for name in ("front", "rear")]
        self.infos = [make(CameraInfo, f"/{name}/camera_info", 10) for name in ("front", "rear")]

    def connected(self) -> bool:
        return all(p.get_subscription_count() for p in (*self.images, *self.infos))

    def send(self, camera: int, stamp: int, seed: int) -> None:
        which = (CAMERA, WIDE)[camera]
        self.infos[camera].publish(conversions.camera_info(which, header(stamp, "x")))
        rgb = picture(seed, which.width, which.height)
        self.images[camera].publish(conversions.rgb_to_image(rgb, header(stamp, "x")))


def ros(value: Any) -> str:
    """Write a list as a command line takes it."""
    return "[" + ", ".join(str(v) for v in value) + "]"


@pytest.fixture
def pair(start_node: Callable[..., NodeProcess], peer: Peer) -> Iterator[tuple[NodeProcess, Pair]]:
    parameters = {name: ros(value) for name, value in TWO.items()}
    node = start_node(**parameters, pose_source="odom", status_period=0.1, silence_warning=2.0)
    pair = Pair(peer)
    node.wait_for("active: watching /front/image, /front/camera_info, /rear/image, /rear/camera_info, /odom")
    wait_until(pair.connected, "the node to listen to both cameras")
    wait_until(lambda: peer.odom.get_subscription_count() and peer.statuses, "the node to listen to odometry")
    yield node, pair


def test_two_cameras_over_dds(pair: tuple[NodeProcess, Pair], peer: Peer) -> None:
    node, cameras = pair
    T_body = pose_at(3.0)
    stamp = peer.next_stamp()
    odometry = PoseWithCovariance(pose=conversions.matrix_to_pose(T_body))
    for camera in range(2):
        cameras.send(camera, stamp, camera)
    peer.odom.publish(Odometry(header=header(stamp, "map"), child_frame_id="base", pose=odometry))
    wait_until(lambda: peer.keyframes and len(peer.keyframes[-1].poses) == 2, "a keyframe of each camera")
    found = [conversions.pose_to_matrix(pose) for pose in peer.keyframes[-1].poses]
    np.testing.assert_allclose(found, [T_body, T_body @ T_REAR], atol=1e-9)
    # One scene: a view to the back comes from the rear camera's picture, and one to the front from the other's.
    ahead, back = (peer.render([T], max_views=1) for T in found)
    assert ahead.success and back.success, ahead.message + back.message
    assert np.abs(pixels(ahead.images[0]).astype(int) - pixels(back.images[0])).max() > 5
    # Which of them has fallen silent is told.
    lines = len(node.lines)

    def named() -> bool:
        stamp = peer.next_stamp()
        cameras.send(0, stamp, 0)
        peer.odom.publish(Odometry(header=header(stamp, "map"), child_frame_id="base", pose=odometry))
        return any(
            "waiting for images of camera 2, camera_info of camera 2" in line for line in node.lines[lines:]
        )

    wait_until(named, f"a warning about the second camera: {node.output}")
