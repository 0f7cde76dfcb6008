"""~/render_trajectory over DDS: pictures, cancelling, turns, refusals, and what becomes of goals on a cleanup."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from geometry_msgs.msg import Pose
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from rig import NodeProcess, Peer, change, header, picture, pixels, pose_at, wait_until
from std_srvs.srv import Trigger

from elvsm.action import RenderTrajectory
from elvsm_ros import conversions

POSES = [pose_at(0.05 * i, 0.01 * i) for i in range(20)]
LONG = [conversions.matrix_to_pose(pose_at(0.0005 * i)) for i in range(3000)]


class Client:
    """An action client that keeps what it gets."""

    def __init__(self, peer: Peer):
        self._peer = peer
        self._client = peer.on_executor(
            lambda: ActionClient(
                peer.node,
                RenderTrajectory,
                "/elvsm/render_trajectory",
                feedback_sub_qos_profile=QoSProfile(depth=200),
            )
        )
        assert self._client.wait_for_server(timeout_sec=30)

    def send(self, poses: list[Any], **fields: Any) -> Goal:
        messages = [p if isinstance(p, Pose) else conversions.matrix_to_pose(p) for p in poses]
        for _ in range(3):
            goal = Goal()
            goal.sent = self._peer.on_executor(partial(self._send, messages, fields, goal.feedback.append))
            with contextlib.suppress(AssertionError):
                wait_until(goal.sent.done, "an answer to the goal", timeout=15.0)
                break
            # DDS loses the answer to a client that it has not introduced to the server yet; any client asks again.
        else:
            raise AssertionError("three goals went without an answer")
        assert goal.sent.result().accepted
        goal.ended = self._peer.on_executor(goal.sent.result().get_result_async)
        return goal

    def _send(self, poses: list[Pose], fields: dict[str, Any], keep: Callable[[Any], None]) -> Any:
        return self._client.send_goal_async(
            RenderTrajectory.Goal(poses=poses, **fields),
            feedback_callback=lambda message: keep(message.feedback),
        )

    def close(self) -> None:
        self._peer.on_executor(self._client.destroy)


class Goal:
    def __init__(self) -> None:
        self.feedback: list[RenderTrajectory.Feedback] = []
        self.sent: Any = None
        self.ended: Any = None

    def result(self, timeout: float = 60.0) -> RenderTrajectory.Result:
        wait_until(self.ended.done, "the goal's end", timeout)
        return self.ended.result().result

    @property
    def status(self) -> int:
        return self.ended.result().status

    def images(self) -> list[Any]:
        """Return all pictures; feedback may come after the result, which has another way to go."""
        count = self.result().rendered
        wait_until(lambda: self.feedback and self.feedback[-1].rendered == count, "the last feedback")
        return [image for f in self.feedback for image in [*f.images, *f.compressed_images]]


@pytest.fixture
def client(shared: tuple[NodeProcess, Peer]) -> Iterator[Client]:
    client = Client(shared[1])
    yield client
    client.close()


@pytest.fixture
def peer(shared: tuple[NodeProcess, Peer]) -> Peer:
    peer = shared[1]
    if peer.fresh_status().keyframes != 3:
        assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
        for i in range(3):
            peer.insert(picture(i), pose_at(0.4 * i))
    return peer


def test_pictures_come_with_the_feedback_each_once(peer: Peer, client: Client) -> None:
    before = peer.fresh_status()
    goal = client.send(POSES, width=24, height=24, header=header(5, "map"))
    result = goal.result()
    assert goal.status == GoalStatus.STATUS_SUCCEEDED and result.success and not result.message
    assert result.rendered == 20 and result.latency_ms > 0
    images = goal.images()
    assert [f.rendered for f in goal.feedback] == [8, 16, 20] and {f.total for f in goal.feedback} == {20}
    expected = peer.render(POSES, width=24, height=24)
    np.testing.assert_array_equal([pixels(i) for i in images], [pixels(i) for i in expected.images])
    np.testing.assert_array_equal([s for f in goal.feedback for s in f.support], expected.support)
    assert len({i.tobytes() for i in map(pixels, images)}) > 10, "the pictures do not depend on the pose"
    assert {i.header.frame_id for i in images} == {"elvsm_rendered"} and images[3].header.stamp.nanosec == 5
    peer.wait_for_status(lambda s: s.renders == before.renders + 40, "all of them counted")


def test_encodings(peer: Peer, client: Client) -> None:
    raw = client.send(POSES[:3])
    for encoding in ("png", "jpeg"):
        goal = client.send(POSES[:3], encoding=encoding)
        assert goal.result().success
        images = goal.images()
        assert len(images) == 3 and {i.format for i in images} == {encoding}
        assert not any(f.images for f in goal.feedback)
        if encoding == "png":
            for image, expected in zip(images, raw.images(), strict=True):
                np.testing.assert_array_equal(conversions.image_to_rgb(image), pixels(expected))


def broken(index: int, **orientation: float) -> list[Any]:
    poses = LONG[:1000]
    poses[index] = Pose()
    for name, value in orientation.items():
        setattr(poses[index].orientation, name, value)
    return poses


REFUSED: dict[str, tuple[list[Any], dict, str]] = {
    "no pose": ([], {}, "the request holds no pose"),
    "NaN": (broken(900, x=float("nan")), {}, "pose 900: pose has NaN"),
    "no rotation": (broken(17, w=0.5), {}, "pose 17: pose has a quaternion of norm 0.5"),
    "other frame": (POSES, {"header": header(0, "odom")}, "'odom'"),
    "unknown encoding": (POSES, {"encoding": "gif"}, "'gif'"),
    "half a size": (POSES, {"width": 64}, "half given"),
    "too large": (POSES, {"width": 8192, "height": 8192}, "max_render_pixels"),
    "too many": (LONG[:1] * 10_001, {}, "max_trajectory_poses"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_followed_is_aborted_with_the_reason(
    shared: tuple[NodeProcess, Peer], peer: Peer, client: Client, what: str
) -> None:
    poses, fields, text = REFUSED[what]
    lines = len(shared[0].lines)
    goal = client.send(poses, **fields)
    result = goal.result()
    assert goal.status == GoalStatus.STATUS_ABORTED and not result.success and text in result.message
    assert result.rendered == 0 and not goal.feedback
    wait_until(lambda: any(text in line for line in shared[0].lines[lines:]), "a line about it")


def test_cancelling_ends_a_goal_after_the_piece_at_hand(peer: Peer, client: Client) -> None:
    goal = client.send(LONG)
    wait_until(lambda: len(goal.feedback) > 1, "some feedback")
    goal.sent.result().cancel_goal_async()
    result = goal.result()
    assert goal.status == GoalStatus.STATUS_CANCELED and not result.success
    assert 16 <= result.rendered < len(LONG) and "cancelled after" in result.message
    assert len(goal.images()) == result.rendered
    assert peer.render([POSES[0]]).success


def test_others_get_their_turn_and_goals_take_turns(peer: Peer, client: Client) -> None:
    first, second = client.send(LONG), client.send(LONG)
    wait_until(lambda: first.feedback and second.feedback, "feedback of both")
    for i in range(5):
        assert peer.render([POSES[i]]).success
        peer.insert(picture(i), pose_at(5.0 + i))
    assert not first.ended.done() and not second.ended.done()
    for goal in (first, second):
        goal.sent.result().cancel_goal_async()
    for goal in (first, second):
        goal.result()
        assert goal.status == GoalStatus.STATUS_CANCELED and len(goal.images()) == goal.result().rendered


def test_too_many_goals_are_told_to_come_again(peer: Peer, client: Client) -> None:
    goals = [client.send(LONG) for _ in range(18)]
    wait_until(lambda: sum(g.ended.done() for g in goals) >= 2, "two goals too many")
    refused = [goal for goal in goals if goal.ended.done()]
    assert all("ask again later" in goal.result().message for goal in refused) and len(refused) == 2
    goals[3].sent.result().cancel_goal_async()
    goals[3].result()
    # One that cannot be followed does not wait for its turn to hear of it.
    assert "pose 17" in client.send(broken(17, w=0.5)).result().message
    for goal in goals:
        if goal not in refused:
            goal.sent.result().cancel_goal_async()
    assert all(goal.result() for goal in goals)


def test_a_client_that_dies_does_not_keep_the_node_busy(shared: tuple[NodeProcess, Peer], peer: Peer) -> None:
    other = Peer()
    dying = Client(other)
    goal = dying.send(LONG[:1] * 10_000)
    wait_until(lambda: goal.feedback, "feedback")
    dying.close()
    other.close()
    shared[0].wait_for("nobody listens to the feedback any more")
    assert peer.render([POSES[0]]).success


def test_goals_end_with_the_scene(shared: tuple[NodeProcess, Peer], peer: Peer, client: Client) -> None:
    goal = client.send(LONG)
    wait_until(lambda: goal.feedback, "feedback")
    # Inactive, it goes on serving what it has seen.
    assert change(peer, Transition.TRANSITION_DEACTIVATE)
    count = len(goal.feedback)
    wait_until(lambda: len(goal.feedback) > count + 1, "more feedback")
    assert change(peer, Transition.TRANSITION_CLEANUP)
    result = goal.result()
    assert goal.status == GoalStatus.STATUS_ABORTED and "cleaned up" in result.message
    assert len(goal.images()) == result.rendered
    goal = client.send(POSES)
    assert "not configured" in goal.result().message and goal.status == GoalStatus.STATUS_ABORTED
    assert change(peer, Transition.TRANSITION_CONFIGURE) and change(peer, Transition.TRANSITION_ACTIVATE)
    wait_until(peer.connected, "subscriptions")
    peer.fresh_status()
    peer.send_info(peer.next_stamp())
    goal = client.send(POSES, width=32, height=32)
    assert any(text in goal.result().message for text in ("no keyframe yet", "no camera_info")), goal.result()
    peer.insert(picture(0), pose_at(0.0))
    goal = client.send(POSES)
    assert goal.result().success and len(goal.images()) == 20
