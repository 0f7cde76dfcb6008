"""Loop closures: what is refused, what the scene shows afterwards, and the way over DDS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Pose, Quaternion
from rclpy.qos import DurabilityPolicy, QoSProfile
from rig import CAMERA, NodeProcess, Peer, camera_at, header, picture, pixels, pose_at, wait_until

import elvsm_core as ec
from elvsm.msg import Keyframes, PoseUpdates
from elvsm_core.keyframes import admit
from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError
from elvsm_ros.device_scene import DeviceScene
from elvsm_ros.input.admission import Admission, Rule
from elvsm_ros.input.image_intake import Candidate
from elvsm_ros.keyframes import corrections
from elvsm_ros.parameters.table import Settings

T_NEW_OLD = pose_at(3.0, 0.4, 1.0)


def update(ids: list[int], poses: list[np.ndarray], frame: str = "map") -> PoseUpdates:
    return PoseUpdates(header=header(0, frame), ids=ids, poses=[conversions.matrix_to_pose(T) for T in poses])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            update([1], [pose_at(0.0)], frame="odom"),
            "frame 'odom', but the world frame of the keyframes is 'map'",
        ),
        (update([1, 2], [pose_at(0.0)]), "2 ids and 1 poses"),
        (update([], []), "0 ids and 0 poses"),
        (update([], [pose_at(0.0)] * 2), "0 ids and 2 poses"),
        (update([4, 4], [pose_at(0.0)] * 2), "two poses of keyframe 4"),
        (
            PoseUpdates(ids=[4], poses=[Pose(orientation=Quaternion(w=0.5))]),
            "the pose of keyframe 4: pose has a quaternion of norm 0.5",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(message: PoseUpdates, text: str) -> None:
    with pytest.raises(ConversionError, match=text):
        corrections.parse(message, "map")


def engine_with(model: Path, poses: list[np.ndarray]) -> DeviceScene:
    engine = DeviceScene(Settings.from_values({"model": str(model), "device": "cpu"}))
    for i, T in enumerate(poses):
        message = conversions.rgb_to_image(picture(i), header(i, "camera"))
        engine.insert(Candidate(message, i, T, CAMERA, i))
    return engine


def renders(scene: ec.Scene, T: np.ndarray) -> np.ndarray:
    return scene.render_tensor([camera_at(T)]).numpy()


@pytest.mark.parametrize("rigid", [True, False])
def test_renders_are_those_of_a_scene_with_the_corrected_poses(small_model: Path, rigid: bool) -> None:
    old = [pose_at(0.4 * i) for i in range(5)]
    engine = engine_with(small_model, old)
    views = engine.scene.views
    if rigid:
        new = [T_NEW_OLD @ T for T in old]
        message = update([], [T_NEW_OLD])
    else:
        new = [pose_at(0.4 * i, 0.05 * i, 0.02 * i) for i in range(5)]
        message = update([*views[1:], 12345], [*new[1:], pose_at(9.0)])
    before = renders(engine.scene, new[2] @ pose_at(0.1))
    corrected = engine.correct(corrections.parse(message, "map"))
    assert corrected.unknown == ([] if rigid else [12345])
    assert sorted(corrected.poses) == (views if rigid else views[1:])
    after = renders(engine.scene, new[2] @ pose_at(0.1))
    fresh = ec.Scene(engine.model, frame=engine.scene.frame)
    for i, T in enumerate(new):
        fresh.insert(picture(i), camera_at(T))
    np.testing.assert_allclose(after, renders(fresh, new[2] @ pose_at(0.1)), rtol=0, atol=1e-5)
    assert np.abs(after - before).max() > 1e-2
    np.testing.assert_allclose(engine.scene.poses, np.stack(new), rtol=0, atol=1e-9)


def test_a_moved_place_is_where_it_was_moved_to() -> None:
    admission, rule = Admission(admit), Rule(0.2, 1.0, 0.0)
    key = admission.offer(pose_at(0.0), 0, rule)
    assert key is not None
    admission.move(key, pose_at(5.0))
    admission.move(99, pose_at(7.0))  # gone meanwhile
    assert admission.offer(pose_at(5.1), 1, rule) is None
    assert admission.offer(pose_at(0.0), 2, rule) is not None
    assert admission.offer(pose_at(7.0), 3, rule) is not None


def test_loop_closures_over_dds(start_node: Callable[..., NodeProcess], peer: Peer) -> None:
    node = start_node(status_period=0.1, log_period=0.0)
    lists: list[Keyframes] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.node.create_subscription(Keyframes, "/elvsm/keyframe_list", lists.append, latched)
    updates = peer.node.create_publisher(PoseUpdates, "/elvsm/pose_updates", 10)
    node.wait_for("active")
    wait_until(peer.connected, "the node and its peer to find each other")
    wait_until(updates.get_subscription_count, "the node to listen to pose updates")
    stamps = []
    for i in range(4):
        peer.insert(picture(i), pose_at(0.5 * i))
        stamps.append(peer._stamp)
    wait_until(lambda: lists and len(lists[-1].ids) == 4, "a list of four keyframes")
    ids = list(lists[-1].ids)
    assert ids == sorted(set(ids)) and lists[-1].header.frame_id == "map"
    assert [conversions.stamp_ns(stamp) for stamp in lists[-1].stamps] == stamps
    assert [pose.position.x for pose in lists[-1].poses] == [0.0, 0.5, 1.0, 1.5]
    before = pixels(peer.render([pose_at(0.6)]).images[0]).astype(int)

    # The whole map: the same pictures from the same places in it.
    updates.publish(update([], [T_NEW_OLD]))
    expected = [T_NEW_OLD @ pose_at(0.5 * i) for i in range(4)]

    def moved() -> bool:
        found = [conversions.pose_to_matrix(pose) for pose in lists[-1].poses]
        return len(found) == 4 and np.allclose(found, expected, atol=1e-9)

    wait_until(moved, "all keyframes moved")
    assert list(lists[-1].ids) == ids
    answer = peer.render([T_NEW_OLD @ pose_at(0.6)])
    assert answer.success, answer.message + node.output
    after = pixels(answer.images[0]).astype(int)
    assert np.abs(after - before).max() <= 1

    # One keyframe: it is elsewhere, and what is shown there is another picture.
    expected[1] = pose_at(20.0)
    updates.publish(update([ids[1], 777], [expected[1], pose_at(0.0)]))
    wait_until(moved, "one keyframe moved")
    node.wait_for("no keyframes 777")
    changed = pixels(peer.render([T_NEW_OLD @ pose_at(0.6)]).images[0]).astype(int)
    assert np.abs(changed - after).max() > 5
    # Its place is taken, and the old one is free.
    peer.send_frame(picture(8), pose_at(20.05))
    peer.fresh_status()
    assert peer.status.keyframes == 4
    peer.insert(picture(9), T_NEW_OLD @ pose_at(0.5))

    # What is wrong is named, and changes nothing.
    count = len(lists)
    updates.publish(update([ids[0], ids[2]], [pose_at(0.0)]))
    node.wait_for("pose_updates: pose updates hold 2 ids and 1 poses")
    peer.fresh_status()
    assert len(lists) == count and node.alive() and "Traceback" not in node.output
