"""The cloud of keyframes: what its points are, over both providers."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from rig import header, pose_at
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from elvsm.msg import Keyframes
from elvsm_ros import conversions
from elvsm_ros.keyframes import inserted, keyframe_topics
from elvsm_ros.keyframes.keyframe_topics import KeyframeTopics

POSES = {3: conversions.matrix_to_pose(pose_at(1.5, y=-2.0)), 7: conversions.matrix_to_pose(pose_at(-0.25))}
COLOURS = {3: (255, 0, 16), 7: (1, 2, 3)}


def check(message: PointCloud2) -> None:
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 2, 20, 40)
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
        ("x", 0, PointField.FLOAT32, 1), ("y", 4, PointField.FLOAT32, 1), ("z", 8, PointField.FLOAT32, 1),
        ("rgb", 12, PointField.FLOAT32, 1), ("id", 16, PointField.UINT32, 1),
    ]  # fmt: skip
    floats = np.frombuffer(message.data, "<f4").reshape(2, 5)
    numbers = np.frombuffer(message.data, "<u4").reshape(2, 5)
    np.testing.assert_array_equal(floats[:, :3], [[1.5, -2.0, 0.0], [-0.25, 0.0, 0.0]])
    assert numbers[:, 3].tolist() == [0xFF0010, 0x010203] and numbers[:, 4].tolist() == [3, 7]
    assert message.header.frame_id == "map" and message.is_dense and not message.is_bigendian


def test_points_are_camera_centres_with_colour_and_id() -> None:
    check(conversions.cloud(keyframe_topics.points(POSES, COLOURS), header(5, "map")))
    empty = conversions.cloud(keyframe_topics.points({}, {}), header(5, "map"))
    assert empty.width == 0 and not empty.data


def test_the_package_of_a_ros_installation_gets_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """sensor_msgs_py.point_cloud2.create_cloud takes structured arrays of the fields' own layout."""

    def create_cloud(header: Header, fields: list[PointField], points: np.ndarray) -> PointCloud2:
        assert points.dtype.names == tuple(field.name for field in fields) and points.flags.c_contiguous
        return PointCloud2(
            header=header, height=1, width=len(points), fields=fields, is_dense=True, point_step=points.itemsize,
            row_step=points.nbytes, data=points.tobytes(),
        )  # fmt: skip

    for name in ("tf_transformations", "cv_bridge", "sensor_msgs_py"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["cv_bridge"].CvBridge = object  # type: ignore[attr-defined]
    sys.modules["sensor_msgs_py"].point_cloud2 = SimpleNamespace(create_cloud=create_cloud)  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "elvsm_ros.providers.ros", raising=False)
    from elvsm_ros.providers.ros import RosProvider

    monkeypatch.setattr(conversions, "provider", RosProvider)
    check(conversions.cloud(keyframe_topics.points(POSES, COLOURS), header(5, "map")))
    sys.modules.pop("elvsm_ros.providers.ros", None)


def test_the_mean_colour_of_an_image() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4], image[:, 4:] = (10, 20, 30), (20, 40, 61)
    assert inserted.mean_colour(image) == (15, 30, 46)


class Publisher:
    def __init__(self) -> None:
        self.sent: list = []

    def publish(self, message: object) -> None:
        self.sent.append(message)


def test_many_changes_are_published_together_and_not_more_often_than_others_can_bear() -> None:
    many = {i: pose_at(0.1 * i) for i in range(3000)}
    feed = SimpleNamespace(
        keyframes={i: conversions.matrix_to_pose(T) for i, T in many.items()},
        stamps=dict.fromkeys(many, 10**9), colours=dict.fromkeys(many, (1, 2, 3)),
    )  # fmt: skip
    publishers = {
        kind: Publisher() for kind in (conversions.PointCloud2, keyframe_topics.PoseArray, Keyframes)
    }
    topics = KeyframeTopics(feed, publishers, lambda: header(0, "map"))  # type: ignore[arg-type]
    topics.flush(0.0)
    assert not publishers[Keyframes].sent
    for _ in range(5):
        topics.change()
    topics.flush(1.0)
    topics.change()
    topics.flush(1.0001)
    assert [len(p.sent) for p in publishers.values()] == [1, 1, 1], (
        "3000 poses take more than 10 microseconds"
    )
    topics.flush(60.0)
    topics.flush(120.0)
    assert [len(p.sent) for p in publishers.values()] == [2, 2, 2]
    assert len(publishers[Keyframes].sent[-1].ids) == publishers[PointCloud2].sent[-1].width == 3000
