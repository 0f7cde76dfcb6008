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
from elvsm_ros import conversions, requests
from elvsm_ros.intake import Candidate, Intake
from elvsm_ros.parameters import ParameterError, Settings
from elvsm_ros.pose_source import PoseError
from elvsm_ros.reports import Reports
from elvsm_ros.tf_source import TfMissingError, TfSource

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


def put(source: TfSource, stamp: int, T: np.ndarray, frame_id: str = "camera") -> None:
    """Have TF know a frame in the map."""
    pose, message = conversions.matrix_to_pose(T), TransformStamped(header=header(stamp, "map"))
    message.child_frame_id = frame_id
    p, t = pose.position, message.transform.translation
    t.x, t.y, t.z = p.x, p.y, p.z
    message.transform.rotation = pose.orientation
    source._buffer.transforms.setdefault(("map", frame_id), {})[stamp] = message


@pytest.fixture
def source(tf2_ros: None) -> TfSource:
    return TfSource(node="the node", world_frame="map")


def test_the_camera_is_where_tf_says_at_the_images_stamp(source: TfSource) -> None:
    assert source._listener.node == "the node"
    source.see_image("/camera")
    source.see_image("other")  # the first image decides
    put(source, SECOND, pose_at(1.0, 0.3))
    put(source, 2 * SECOND, pose_at(2.0))
    found = source.lookup(SECOND)
    assert found is not None
    np.testing.assert_allclose(found, pose_at(1.0, 0.3), atol=1e-12)
    assert source.lookup(3 * SECOND) is None
    assert "extrapolation into the future" in source.missing and "'camera' to 'map'" in source.missing
    source.clear()
    assert source.lookup(SECOND) is None
    source.close()
    assert not source._listener.registered


def test_a_camera_frame_that_is_no_optical_frame(tf2_ros: None) -> None:
    T_link_optical = np.array([[0.0, 0, 1, 0.1], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    source = TfSource(None, "map", "camera_link", T_link_optical)
    source.see_image("camera")
    put(source, SECOND, pose_at(1.0), "camera_link")
    found = source.lookup(SECOND)
    assert found is not None
    np.testing.assert_allclose(found, pose_at(1.0) @ T_link_optical, atol=1e-12)


def test_a_transform_with_nan_is_refused(source: TfSource) -> None:
    source.see_image("camera")
    put(source, SECOND, pose_at(0.0))
    source._buffer.transforms["map", "camera"][SECOND].transform.translation.x = float("nan")
    with pytest.raises(PoseError, match="NaN"):
        source.lookup(SECOND)


def test_images_wait_until_their_transform_arrives(source: TfSource) -> None:
    lines: list[str] = []
    intake = Intake(
        Settings(pose_source="tf", world_frame="map"), admit, Reports(lines.append, period=0.0), source
    )

    def show(stamp: int, now: float) -> list[Candidate]:
        intake.add_camera_info(conversions.camera_info(CAMERA, header(stamp, "camera")))
        intake.add_image(conversions.rgb_to_image(picture(0), header(stamp, "camera")), now)
        return intake.poll(now)

    assert show(SECOND, 0.0) == []
    put(source, SECOND, pose_at(1.0))
    (candidate,) = intake.poll(0.5)
    np.testing.assert_allclose(candidate.T_world_cam, pose_at(1.0), atol=1e-12)
    assert lines == []
    assert show(2 * SECOND, 1.0) == [] and intake.poll(2.1) == []
    assert intake.counters.images_rejected == 1
    assert "waited 1 s (sync_timeout)" in lines[0] and "extrapolation into the future" in lines[0]


def test_requests_in_a_frame_that_tf_knows(source: TfSource) -> None:
    put(source, SECOND, pose_at(5.0, 0.5), "robot")
    settings = Settings(pose_source="tf", world_frame="map")
    context = requests.Context(settings, "map", CAMERA, (32, 32), 8, source.from_frame)

    def parse(frame_id: str) -> np.ndarray:
        pose: Pose = conversions.matrix_to_pose(pose_at(1.0))
        info = conversions.camera_info(CAMERA, header(0, ""))
        return requests.parse(context, frame_id, [pose], info, 0, 0, 0, "").T_world_cam[0]

    np.testing.assert_allclose(parse("robot"), pose_at(5.0, 0.5) @ pose_at(1.0), atol=1e-12)
    np.testing.assert_allclose(parse("map"), pose_at(1.0), atol=1e-12)
    with pytest.raises(requests.RequestError, match=r"'nowhere'.*does not exist"):
        parse("nowhere")


def test_tf_needs_a_world_frame() -> None:
    with pytest.raises(ParameterError, match="needs world_frame"):
        Settings(pose_source="tf")


@pytest.mark.skipif(installed, reason="tf2_ros is installed here")
def test_without_tf2_ros_the_node_says_what_to_do(start_node: Callable[..., NodeProcess]) -> None:
    with pytest.raises(TfMissingError, match="No module named 'tf2_ros'"):
        TfSource(None, "map")
    node = start_node(pose_source="tf", world_frame="map")
    line = node.wait_for("cannot configure")
    assert (
        "pose_source is 'tf', but this installation has no tf2_ros" in line and "or set pose_source" in line
    )
    assert node.wait() == 1
    assert "Traceback" not in node.output
