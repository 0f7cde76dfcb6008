"""Requests: bad ones, very many, clients that die, and a scene that changes while they are served."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import Bench
from geometry_msgs.msg import Pose, PoseStamped
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rig import CAMERA, NodeProcess, Peer, header, picture, pixels, pose_at, shared_memory, wait_until
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from elvsm.srv import RenderViews
from elvsm_ros import conversions

pytestmark = pytest.mark.ros

NAN = float("nan")
TARGET = pose_at(0.1, y=-1.5)

REQUESTS: dict[str, tuple[dict, str]] = {
    "no pose": ({"poses": []}, "no pose"),
    "10000 poses": ({"poses": [TARGET] * 10_000}, "10000 poses"),
    "8192x8192": ({"width": 8192, "height": 8192}, "8192x8192"),
    "unknown encoding": ({"encoding": "gif"}, "'gif'"),
    "other frame": ({"header": header(0, "odom")}, "'odom'"),
    "half a size": ({"width": 64}, "half given"),
    "NaN intrinsics": ({"camera_info": CameraInfo(k=[NAN] * 9, width=9, height=9)}, "NaN"),
    "negative focal length": (
        {"camera_info": CameraInfo(k=[-9.0, 0, 4, 0, 9, 4, 0, 0, 1], width=9, height=9)}, "focal",
    ),
    "intrinsics without a size": (
        {"camera_info": CameraInfo(k=[9.0, 0, 4, 0, 9, 4, 0, 0, 1])}, "width and height",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REQUESTS)
def test_bad_requests_are_refused_with_the_reason(bench: Bench, what: str) -> None:
    fields, text = REQUESTS[what]
    failures = bench.peer.status.render_failures
    answer = bench.peer.render(**{"poses": [TARGET], **fields})
    assert not answer.success and text in answer.message
    assert not answer.images and not answer.compressed_images and not answer.support
    bench.peer.wait_for_status(lambda s: s.render_failures > failures, "one more failure")
    bench.says(text)
    bench.unharmed(goes_on=False)


def test_a_bad_pose_in_a_request_is_refused(bench: Bench) -> None:
    for values, text in (({"w": 0.3}, "norm"), ({"x": NAN}, "NaN")):
        pose = Pose()
        for name, value in values.items():
            setattr(pose.orientation, name, value)
        request = RenderViews.Request(poses=[Pose(), pose])
        answer = bench.peer.call(RenderViews, "/elvsm/render_views", request)
        assert not answer.success and "pose 1" in answer.message and text in answer.message
    bench.unharmed(goes_on=False)


def test_bad_render_poses_are_named_and_not_answered(bench: Bench) -> None:
    bench.peer.rendered.clear()
    pose = Pose()
    pose.orientation.w = 0.2
    bench.peer.render_pose.publish(PoseStamped(header=header(0, "map"), pose=pose))
    assert bench.says("norm 0.2").startswith("render: pose 0: ")
    assert not bench.peer.rendered
    bench.unharmed(goes_on=False)


def test_before_the_first_keyframe(bench: Bench) -> None:
    assert bench.peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
    answer = bench.peer.render([TARGET])
    assert not answer.success and "no keyframe yet" in answer.message
    bench.mirror.clear()
    bench.good()
    bench.unharmed(goes_on=False)


def test_before_anything_arrived(start_node: Callable[..., NodeProcess], peer: Peer) -> None:
    node = start_node("-r", "__node:=fresh")
    node.wait_for("active")
    request = RenderViews.Request(poses=[Pose()])
    answer = peer.call(RenderViews, "/fresh/render_views", request)
    assert not answer.success and "no camera_info has arrived" in answer.message
    request.camera_info = conversions.camera_info(CAMERA, header(0, ""))
    answer = peer.call(RenderViews, "/fresh/render_views", request)
    assert not answer.success and "no keyframe yet" in answer.message


def ask(bench: Bench, poses: list[np.ndarray]) -> Any:
    """Return the future of an answer."""
    request = RenderViews.Request(poses=[conversions.matrix_to_pose(T) for T in poses])
    return bench.peer.start_call(RenderViews, "/elvsm/render_views", request)


def test_a_hundred_requests_at_once_while_images_arrive(bench: Bench) -> None:
    targets = [[TARGET @ pose_at(0.01 * i), TARGET @ pose_at(0.0, 0.01 * i)] for i in range(100)]
    with bench.watched():
        futures = [ask(bench, poses) for poses in targets]
        wait_until(lambda: all(future.done() for future in futures), "all answers", 120)
    for poses, future in zip(targets, futures, strict=True):
        answer = future.result()
        assert answer.success, answer.message
        for image, truth in zip(answer.images, bench.shown(poses), strict=True):
            assert np.abs(pixels(image).astype(int) - truth).max() <= 1
    bench.quiet()
    bench.unharmed()


DYING = """
import rclpy, sys
from geometry_msgs.msg import Pose
from elvsm.srv import RenderViews
rclpy.init()
node = rclpy.create_node("dying", enable_rosout=False)
client = node.create_client(RenderViews, "/elvsm/render_views")
assert client.wait_for_service(30)
poses = [Pose() for _ in range(64)]
for i, pose in enumerate(poses):
    pose.position.x = 0.01 * i
# The first is answered soon; the others take turns and are not nearly done then.
sizes = [1] + 8 * [64]
futures = [client.call_async(RenderViews.Request(poses=poses[:n], width=256, height=256)) for n in sizes]
rclpy.spin_until_future_complete(node, futures[0])
print("asked", flush=True)
rclpy.spin_until_future_complete(node, futures[-1])
print("answered", flush=True)
"""


def test_a_client_that_dies_with_requests_under_way(bench: Bench) -> None:
    renders = bench.peer.status.renders
    with subprocess.Popen([sys.executable, "-c", DYING], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "asked\n"
        of_client = shared_memory(client.pid)
        client.kill()
        assert client.stdout.readline() == ""
    # What it asked for is rendered for nobody; others are answered all the while.
    assert bench.peer.render([TARGET]).success
    bench.peer.wait_for_status(
        lambda s: s.renders >= renders + 2 * 64 and not s.queue_length, "what was asked for"
    )
    bench.quiet()
    bench.unharmed()
    for left in of_client:
        # What was the client's alone, which could not clean up, has a lock that nobody holds any more.
        with contextlib.suppress(OSError), open(f"{left}_el") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
            Path(lock.name).unlink()


def test_reset_while_requests_are_under_way(bench: Bench) -> None:
    futures = [ask(bench, [TARGET @ pose_at(0.01 * i) for i in range(64)]) for _ in range(6)]
    reset = bench.peer.start_call(Trigger, "/elvsm/reset", Trigger.Request())
    futures += [ask(bench, [TARGET]) for _ in range(6)]
    wait_until(lambda: reset.done() and all(future.done() for future in futures), "all answers")
    assert reset.result().success
    answers = [future.result() for future in futures]
    for answer in answers:
        assert answer.success or "no keyframe yet" in answer.message, answer.message
    assert answers[0].success and len(answers[0].images) == 64
    assert not answers[-1].success
    bench.mirror.clear()
    bench.good()
    bench.unharmed()


def test_parameters_that_change_under_load(bench: Bench) -> None:
    """Each answer is one of the settings' before or after; refusals come with a reason and change nothing."""
    for _ in range(3):
        bench.good()
    expected = {
        count: bench.mirror.render([_camera(TARGET)], max_views=count).images[0].astype(int)
        for count in (1, 2, 4)
    }
    answers: list[Any] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            answers.append(bench.peer.render([TARGET]))

    def change(name: str, value: Any) -> str:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = bench.peer.call(SetParameters, "/elvsm/set_parameters", request).results
        assert result.successful == (not result.reason)
        return result.reason

    asking = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        with bench.watched():
            for count in (1, 2, 4):
                assert change("max_views", count) == ""
                assert change("keyframe_distance", 0.2 + 0.01 * count) == ""
                assert "keyframe_angle" in change("keyframe_angle", -3.0)
                assert "clean the node up" in change("capacity", 3)
                wait_until(
                    lambda n=count: any(a.views_used == n for a in answers[-4:]), "answers with the new value"
                )
    finally:
        done.set()
        for thread in asking:
            thread.join()
        change("keyframe_distance", 0.2)
    assert all(answer.success for answer in answers)
    used = {answer.views_used for answer in answers}
    assert used == {1, 2, 4}
    for answer in answers:
        truth = expected[answer.views_used]
        assert np.abs(pixels(answer.images[0]).astype(int) - truth).max() <= 1
    bench.unharmed()


def _camera(T: np.ndarray) -> Any:
    from rig import camera_at

    return camera_at(T, CAMERA.fitted(32, 32))


def test_a_scene_that_is_anchored_anew_under_load(bench: Bench) -> None:
    """The camera walks and turns out of what suits the scene's frame, again and again, while clients ask.

    No request fails, and every image is one that the scene shows with the first k keyframes, for some k that never
    goes back: never a mixture of two frames.
    """
    targets = [TARGET, pose_at(0.3, 0.2, y=-1.4)]
    states = [bench.shown(targets)]
    frames, anchors = [], [bench.mirror.frame]
    for i in range(12):  # in wider and wider circles around what is asked for
        reach, turn = 0.33 + 0.06 * i, 1.2 + 1.3 * i
        T = pose_at(0.2 + reach * np.cos(turn), 0.8 * i, y=-1.5 + reach * np.sin(turn))
        frames.append((picture(40 + i), T))
        bench.accept(*frames[-1])
        anchors.append(bench.mirror.frame)
        states.append(bench.shown(targets))
    assert sum(a is not b for a, b in itertools.pairwise(anchors)) > 5, "too few new frames to show anything"
    different = sum(np.abs(a - b).max() > 5 for a, b in itertools.pairwise(states))
    assert different >= 4, "states that look alike show nothing"
    answers: list[list[Any]] = [[], [], []]
    done = threading.Event()

    def keep_asking(client: int) -> None:
        while not done.is_set():
            answers[client].append(bench.peer.render(targets))

    asking = [threading.Thread(target=keep_asking, args=(client,)) for client in range(3)]
    for thread in asking:
        thread.start()
    try:
        for rgb, T in frames:
            before = bench.peer.status.keyframes_inserted
            bench.send(rgb, T)
            bench.peer.wait_for_status(lambda s, n=before: s.keyframes_inserted > n, "one more keyframe")
    finally:
        done.set()
        for thread in asking:
            thread.join()
    for of_client in answers:
        assert len(of_client) > 4
        newest = 0
        for answer in of_client:
            assert answer.success, answer.message
            found = [
                state_of(pixels(image), [s[i] for s in states], newest)
                for i, image in enumerate(answer.images)
            ]
            # Both poses of a request are a group: they show one state.
            assert found[0] & found[1], f"no single state shows both images: {found}"
            newest = min(found[0] & found[1])
    assert any(
        min(state_of(pixels(a.images[0]), [s[0] for s in states], 0)) not in (0, 12) for a in answers[0]
    )
    bench.quiet()
    bench.unharmed(goes_on=False)


def state_of(image: np.ndarray, states: list[np.ndarray], oldest: int) -> set[int]:
    """Return the numbers of the states that an image shows, from `oldest` on; at least one."""
    found = {k for k in range(oldest, len(states)) if np.abs(image.astype(int) - states[k]).max() <= 1}
    assert found, "an image that the scene never showed"
    return found
