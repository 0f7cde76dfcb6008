"""Poses from TF, through a stand-in for tf2_ros.

tf2_ros is in every ROS installation and on no package index, so these tests bring the part of its documented API
that is used: Buffer(cache_time=) with lookup_transform(target_frame, source_frame, time) and clear(),
TransformListener(buffer, node) with unregister(), and TransformException. Where the real one is installed, it is
left alone, and what a missing one leads to is tested for real where it is missing.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Pose, TransformStamped
from rig import CAMERA, NodeProcess, header, picture, pose_at

from elvsm_core.keyframes import admit
from elvsm_ros import conversions
from elvsm_ros.input.image_intake import Candidate, Intake
from elvsm_ros.input.pose_source import PoseError
from elvsm_ros.input.tf_source import TfMissingError, TfTree, listen
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import ParameterError, Settings
from elvsm_ros.rendering import requests

SECOND = 10**9
installed = importlib.util.find_spec("tf2_ros") is not None


class TransformException(Exception):
    """Base of tf2's exceptions."""


class Buffer:
    """Transforms at stamps, found by exact stamp; a time of zero asks for the newest."""

    def __init__(self, cache_time: Any = None, node: Any = None):
        self.transforms: dict[tuple[str, str], dict[int, TransformStamped]] = {}

    def lookup_transform(self, target_frame: str, source_frame: str, time: Any) -> TransformStamped:
        known = self.transforms.get((target_frame, source_frame))
        if not known:
            raise TransformException(f'"{source_frame}" passed to lookupTransform does not exist.')
        stamp = time.nanoseconds or max(known)
        if stamp not in known:
            raise TransformException("Lookup would require extrapolation into the future.")
        return known[stamp]

    def clear(self) -> None:
        self.transforms.clear()


class TransformListener:
    """Remember what it was made for."""

    def __init__(self, buffer: Buffer, node: Any):
        self.buffer, self.node, self.registered = buffer, node, True

    def unregister(self) -> None:
        self.registered = False


@pytest.fixture
def tf2_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("tf2_ros")
    module.Buffer, module.TransformListener = Buffer, TransformListener
    module.TransformException = TransformException
    monkeypatch.setitem(sys.modules, "tf2_ros", module)


def put(tree: TfTree, stamp: int, T: np.ndarray, frame_id: str = "camera", parent: str = "map") -> None:
    """Have TF know a frame."""
    pose, message = conversions.matrix_to_pose(T), TransformStamped(header=header(stamp, parent))
    message.child_frame_id = frame_id
    p, t = pose.position, message.transform.translation
    t.x, t.y, t.z = p.x, p.y, p.z
    message.transform.rotation = pose.orientation
    tree._buffer.transforms.setdefault((parent, frame_id), {})[stamp] = message


@pytest.fixture
def tree(tf2_ros: None) -> TfTree:
    return TfTree(node="the node")


class Desk:
    """An intake that is fed by TF, and the lines it logs."""

    def __init__(self, tree: TfTree, **settings: Any):
        self.lines: list[str] = []
        values = {"pose_source": "tf", "world_frame": "map", **settings}
        self.intake = Intake(
            Settings.from_values(values), admit, Reports(self.lines.append, period=0.0), tree
        )

    def show(
        self, stamp: int, now: float = 0.0, frame_id: str = "camera", camera: int = 0
    ) -> list[Candidate]:
        """Let an image and its camera_info arrive."""
        self.intake.add_camera_info(conversions.camera_info(CAMERA, header(stamp, frame_id)), camera)
        image = conversions.rgb_to_image(picture(0), header(stamp, frame_id))
        self.intake.add_image(image, now, camera)
        return self.intake.poll(now)

    def odometry(self, stamp: int, T: np.ndarray, body: str = "base_link") -> list[Candidate]:
        self.intake.add_pose(header(stamp, "map").stamp, "map", conversions.matrix_to_pose(T), body)
        return self.intake.poll(0.0)


def test_the_camera_is_where_tf_says_at_the_images_stamp(tree: TfTree) -> None:
    assert tree._listener.node == "the node"
    desk = Desk(tree)
    put(tree, SECOND, pose_at(1.0, 0.3))
    put(tree, 2 * SECOND, pose_at(2.0))
    (candidate,) = desk.show(SECOND, frame_id="/camera")
    np.testing.assert_allclose(candidate.T_world_cam, pose_at(1.0, 0.3), atol=1e-12)
    (candidate,) = desk.show(2 * SECOND, frame_id="other")  # the first image has decided
    np.testing.assert_allclose(candidate.T_world_cam, pose_at(2.0), atol=1e-12)
    tree.clear()
    assert desk.show(2 * SECOND + 1) == []
    tree.close()
    assert not tree._listener.registered


def test_a_camera_frame_that_is_no_optical_frame(tree: TfTree) -> None:
    T_link_optical = np.array([[0.0, 0, 1, 0.1], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    mounted = [0.1, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5]
    desk = Desk(tree, camera_frames=["camera_link"], body_to_camera=mounted)
    put(tree, SECOND, pose_at(1.0), "camera_link")
    (candidate,) = desk.show(SECOND)
    np.testing.assert_allclose(candidate.T_world_cam, pose_at(1.0) @ T_link_optical, atol=1e-12)


def test_a_transform_with_nan_is_refused(tree: TfTree) -> None:
    put(tree, SECOND, pose_at(0.0))
    tree._buffer.transforms["map", "camera"][SECOND].transform.translation.x = float("nan")
    desk = Desk(tree)
    assert desk.show(SECOND) == []
    assert "TF's 'camera' in 'map': pose has NaN" in desk.lines[0]


def test_images_wait_until_their_transform_arrives(tree: TfTree) -> None:
    desk = Desk(tree)
    assert desk.show(SECOND, 0.0) == []
    put(tree, SECOND, pose_at(1.0))
    (candidate,) = desk.intake.poll(0.5)
    np.testing.assert_allclose(candidate.T_world_cam, pose_at(1.0), atol=1e-12)
    assert desk.lines == []
    assert desk.show(2 * SECOND, 1.0) == [] and desk.intake.poll(2.1) == []
    assert desk.intake.counters.images_rejected == 1
    assert "waited 1 s (sync_timeout)" in desk.lines[0] and "'camera' to 'map'" in desk.lines[0]
    assert "extrapolation into the future" in desk.lines[0]


def test_odometry_of_a_body_and_tf_from_there_to_the_camera(tree: TfTree) -> None:
    """A pan-tilt head turns while the body drives: TF is asked at the image's stamp."""
    desk = Desk(tree, pose_source="odom", extrinsics="tf")
    assert desk.show(SECOND) == [] and desk.odometry(SECOND, pose_at(5.0, 0.5)) == []
    desk.intake.poll(1.1)
    assert (
        "no transform from 'camera' to 'base_link'" in desk.lines[0] and "static_transform" in desk.lines[0]
    )
    for i, yaw in enumerate((0.1, 0.2)):
        put(tree, (2 + i) * SECOND, pose_at(0.3, yaw), "camera", parent="base_link")
    for i, yaw in enumerate((0.1, 0.2)):
        assert desk.show((2 + i) * SECOND) == []
        (candidate,) = desk.odometry((2 + i) * SECOND, pose_at(5.0 + i, 0.5))
        expected = pose_at(5.0 + i, 0.5) @ pose_at(0.3, yaw)
        np.testing.assert_allclose(candidate.T_world_cam, expected, atol=1e-12)


def test_a_body_that_nobody_names(tree: TfTree) -> None:
    desk = Desk(tree, pose_source="pose", extrinsics="tf")
    put(tree, SECOND, pose_at(0.3), "camera", parent="hull")
    desk.show(SECOND)
    desk.odometry(SECOND, pose_at(5.0), body="")
    desk.intake.poll(1.1)
    assert "the poses do not tell their body: set body_frame" in desk.lines[0]
    named = Desk(tree, pose_source="pose", extrinsics="tf", body_frame="hull")
    named.show(SECOND)
    (candidate,) = named.odometry(SECOND, pose_at(5.0), body="")
    np.testing.assert_allclose(candidate.T_world_cam, pose_at(5.0) @ pose_at(0.3), atol=1e-12)


def test_several_cameras_each_in_its_frame(tree: TfTree) -> None:
    topics = {"image_topics": ["front", "rear"], "camera_info_topics": ["front_info", "rear_info"]}
    desk = Desk(tree, **topics)
    put(tree, SECOND, pose_at(1.0), "front_optical")
    put(tree, SECOND, pose_at(-1.0, 3.0), "rear_optical")
    found = desk.show(SECOND, frame_id="rear_optical", camera=1)
    found += desk.show(SECOND, frame_id="front_optical", camera=0)
    assert [float(c.T_world_cam[0, 3]) for c in found] == [-1.0, 1.0]


def test_requests_in_a_frame_that_tf_knows(tree: TfTree) -> None:
    put(tree, SECOND, pose_at(5.0, 0.5), "robot")
    intake = Desk(tree, pose_source="odom").intake
    context = requests.Context(Settings(), "map", CAMERA, (32, 32), 8, intake.from_frame)

    def parse(frame_id: str) -> np.ndarray:
        pose: Pose = conversions.matrix_to_pose(pose_at(1.0))
        info = conversions.camera_info(CAMERA, header(0, ""))
        return requests.parse(context, frame_id, [pose], info, 0, 0, 0, "").T_world_cam[0]

    np.testing.assert_allclose(parse("robot"), pose_at(5.0, 0.5) @ pose_at(1.0), atol=1e-12)
    np.testing.assert_allclose(parse("map"), pose_at(1.0), atol=1e-12)
    with pytest.raises(requests.RequestError, match=r"'nowhere'.*does not exist"):
        parse("nowhere")
    nothing_yet = Desk(tree, pose_source="odom", world_frame="").intake
    with pytest.raises(PoseError, match="no pose has arrived that tells the world frame"):
        nothing_yet.from_frame("robot")


def test_tf_is_listened_to_where_it_is_of_use(tf2_ros: None) -> None:
    assert listen("the node", Settings()) is not None
    assert listen("the node", Settings(tf_requests=False)) is None
    for values in ({"pose_source": "tf", "world_frame": "map"}, {"extrinsics": "tf"}):
        assert listen("the node", Settings.from_values({**values, "tf_requests": False})) is not None


def test_tf_needs_a_world_frame() -> None:
    with pytest.raises(ParameterError, match="needs world_frame"):
        Settings(pose_source="tf")


@pytest.mark.skipif(installed, reason="tf2_ros is installed here")
def test_without_tf2_ros_the_node_says_what_to_do(start_node: Callable[..., NodeProcess]) -> None:
    assert listen(None, Settings()) is None
    with pytest.raises(
        TfMissingError, match=r"extrinsics is 'tf'.*No module named 'tf2_ros'.*body_to_camera"
    ):
        listen(None, Settings(extrinsics="tf"))
    node = start_node(pose_source="tf", world_frame="map")
    line = node.wait_for("cannot configure")
    assert (
        "pose_source is 'tf', but this installation has no tf2_ros" in line and "or set pose_source" in line
    )
    assert node.wait() == 1
    assert "Traceback" not in node.output
