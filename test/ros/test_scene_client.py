"""SceneClient against a real node over DDS: renders, steering, corrections, and errors that name a remedy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.executors import SingleThreadedExecutor
from rig import CAMERA, NodeProcess, Peer, camera_at, change, picture, pixels, pose_at, running, wait_until

import elvsm_ros
from elvsm_ros import CallTimeout, NodeUnavailable, RequestRejected, SceneClient, SceneClientError
from elvsm_ros.conversions import matrix_to_pose

POSES = [pose_at(0.05 * i, 0.01 * i) for i in range(20)]


@pytest.fixture(scope="module")
def shared(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Peer]]:
    folder = tmp_path_factory.mktemp("scenes")
    with running(model=str(small_model), scene_directory=str(folder)) as pair:
        yield pair


@pytest.fixture(scope="module")
def client(shared: tuple[NodeProcess, Peer]) -> Iterator[SceneClient]:
    with SceneClient() as client:
        yield client


@pytest.fixture
def peer(shared: tuple[NodeProcess, Peer], client: SceneClient) -> Peer:
    """Return the peer, with three keyframes in the node."""
    peer = shared[1]
    if len(client.keyframes()) != 3:
        client.reset()
        for i in range(3):
            peer.insert(picture(i), pose_at(0.4 * i))
        client.wait_until_ready(keyframes=3)
    return peer


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60)


@pytest.mark.slow
def test_importing_the_package_is_light() -> None:
    done = run("import elvsm_ros, sys; print(sorted({'rclpy', 'torch', 'numpy'} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module, remedy", [("elvsm", "colcon build"), ("rclpy", "source /opt/ros")])
def test_what_is_missing_is_named_with_the_remedy(module: str, remedy: str) -> None:
    done = run(f"import sys; sys.modules[{module!r}] = None\nfrom elvsm_ros import SceneClient")
    assert (
        f"ImportError: SceneClient needs the Python module '{module}'" in done.stderr
        and remedy in done.stderr
    )
    with pytest.raises(AttributeError):
        elvsm_ros.SceneCleint  # noqa: B018


def test_renders_are_those_of_the_service(peer: Peer, client: SceneClient) -> None:
    expected = peer.render(POSES[:2])
    views = client.render_views(POSES[:2])
    np.testing.assert_array_equal(views.images, [pixels(image) for image in expected.images])
    assert views.support == list(expected.support) and views.views_used == expected.views_used
    assert 0 < views.latency_ms < views.round_trip_ms
    np.testing.assert_array_equal(client.render(POSES[1]), views.images[1])
    np.testing.assert_array_equal(client.render(matrix_to_pose(POSES[1]), encoding="png"), views.images[1])


def test_cameras_and_sizes(peer: Peer, client: SceneClient) -> None:
    wide = client.render(POSES[0], CAMERA)
    assert wide.shape == (64, 96, 3)
    np.testing.assert_array_equal(client.render(POSES[0], camera_at(POSES[3])), wide)
    assert client.render(POSES[0], CAMERA, size=(24, 40)).shape == (24, 40, 3)
    assert client.render_views([POSES[0]], max_views=1).views_used == 1


@pytest.mark.parametrize(
    "pose, reason",
    [
        (np.eye(3), r"4x4 matrix, got shape \(3, 3\)"),
        ("here", "not an array of numbers"),
        (2 * np.eye(4), "normalise the quaternion"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), "mirrored axis"),
        (np.full((4, 4), np.nan), "NaN"),
    ],
)
def test_invalid_poses_are_rejected(client: SceneClient, pose: object, reason: str) -> None:
    with pytest.raises(RequestRejected, match=reason):
        client.render(pose)


def test_what_the_node_rejects_says_why(peer: Peer, client: SceneClient) -> None:
    with pytest.raises(RequestRejected, match="only the world frame 'map' is known"):
        client.render(POSES[0], frame="odom")
    with pytest.raises(RequestRejected, match="max_render_views"):
        client.render_views([POSES[0]] * 1000)
    with pytest.raises(RequestRejected, match="kitchen"):
        client.save("../kitchen")


def test_several_threads_may_ask(peer: Peer, client: SceneClient) -> None:
    expected = client.render_views(POSES).images
    with ThreadPoolExecutor(6) as pool:
        np.testing.assert_array_equal(list(pool.map(client.render, POSES)), expected)


def test_a_trajectory_comes_image_by_image(peer: Peer, client: SceneClient) -> None:
    told: list[tuple[int, int]] = []
    images = client.render_trajectory(POSES, feedback=lambda *counts: told.append(counts))
    assert told == [(i, 20) for i in range(1, 21)]
    np.testing.assert_array_equal(images, client.render_views(POSES).images)


def test_a_trajectory_that_is_closed_is_cancelled(peer: Peer, client: SceneClient) -> None:
    before = peer.fresh_status().renders
    stream = client.stream_trajectory([pose_at(0.0005 * i) for i in range(3000)])
    assert next(stream).shape == (32, 32, 3)
    stream.close()
    wait_until(lambda: peer.fresh_status().renders == peer.fresh_status().renders, "the renders to end")
    assert peer.fresh_status().renders < before + 3000


def test_a_trajectory_that_fails_says_why(peer: Peer, client: SceneClient) -> None:
    with pytest.raises(RequestRejected, match="only the world frame 'map'"):
        client.render_trajectory(POSES, frame="odom")


def test_pause_and_resume(peer: Peer, client: SceneClient) -> None:
    client.pause()
    assert client.wait_until(lambda: client.last_status.paused, 5)
    with pytest.raises(NodeUnavailable, match="3 keyframes: it is paused"):
        client.wait_until_ready(0.2, keyframes=4)
    client.resume()
    assert client.wait_until(lambda: not client.last_status.paused, 5)
    assert client.status().keyframes == 3


def test_a_scene_is_saved_forgotten_and_loaded(peer: Peer, client: SceneClient) -> None:
    kept, image = client.keyframes(), client.render(POSES[3])
    assert kept.frame_id == "map" and len(kept.stamps) == 3
    assert Path(client.save("kitchen")).is_file()
    client.reset()
    assert len(client.keyframes()) == 0
    assert "3 keyframes" in client.load("kitchen")
    assert client.keyframes().stamps == kept.stamps
    np.testing.assert_allclose(client.keyframes().poses, kept.poses, atol=1e-9)
    np.testing.assert_array_equal(client.render(POSES[3]), image)


def test_corrections_are_listed_when_the_call_returns(peer: Peer, client: SceneClient) -> None:
    before = client.keyframes()
    moved = before.poses[1].copy()
    moved[:3, 3] += (0.0, 0.2, 0.1)
    client.update_poses({before.ids[1]: moved})
    after = client.keyframes().poses
    np.testing.assert_allclose(after, [before.poses[0], moved, before.poses[2]], atol=1e-6)
    T = pose_at(1.0, 0.3)
    client.move_map(T)
    np.testing.assert_allclose(client.keyframes().poses, T @ after, atol=1e-6)
    with pytest.raises(RequestRejected, match="no keyframe 999"):
        client.update_poses({999: moved})
    with pytest.raises(RequestRejected, match="'odom', but the world frame of the keyframes is 'map'"):
        client.move_map(T, frame="odom")
    client.reset()


def test_it_works_in_the_callbacks_of_a_node(peer: Peer, client: SceneClient) -> None:
    """A timer of a single-threaded executor waits for the render, which would deadlock on the node's own clients."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]))
    node = rclpy.create_node("robot", context=context, namespace="/", use_global_arguments=False)
    executor, images = SingleThreadedExecutor(context=context), []
    executor.add_node(node)
    inside = SceneClient("elvsm", node=node)
    timer = node.create_timer(0.05, lambda: images.append(inside.render(POSES[2])))
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        wait_until(lambda: len(images) > 2, "three renders")
        np.testing.assert_array_equal(images[2], client.render(POSES[2]))
    finally:
        timer.cancel()
        executor.shutdown(timeout_sec=5)
        thread.join(5)
        inside.close()
        node.destroy_node()
        rclpy.shutdown(context=context)
    with pytest.raises(SceneClientError, match="was closed"):
        inside.render(POSES[0])


def test_waiting_in_its_own_callback_is_an_error(peer: Peer, client: SceneClient) -> None:
    errors: list[str] = []

    def ask() -> None:
        try:
            client.render(POSES[0])
        except SceneClientError as error:
            errors.append(str(error))

    client.on_change(ask)
    wait_until(lambda: errors, "an error")
    assert "another thread" in errors[0]


def test_no_node(shared: tuple[NodeProcess, Peer]) -> None:
    with SceneClient("/elvis", timeout=3.0) as lost, pytest.raises(NodeUnavailable) as failed:
        lost.render(POSES[0])
    text = str(failed.value)
    assert f"ROS_DOMAIN_ID {os.environ['ROS_DOMAIN_ID']}" in text and "there is /elvsm: start it" in text


def test_a_node_in_every_state(start_node: Callable[..., NodeProcess]) -> None:
    name = "other"
    node, peer = start_node("-r", f"__node:={name}", autostart=False, status_period=0.1), Peer()
    try:
        with SceneClient(name, timeout=30.0) as client:
            client.wait_until(lambda: (name, "/") in client.node.get_node_names_and_namespaces(), 30)
            with pytest.raises(NodeUnavailable, match=f"ros2 lifecycle set /{name} configure"):
                client.wait_until_ready(1.0)
            change(peer, Transition.TRANSITION_CONFIGURE, name=name)
            client.wait_until_ready()
            with pytest.raises(NodeUnavailable, match="not active"):
                client.wait_until_ready(1.0, keyframes=1)
            change(peer, Transition.TRANSITION_ACTIVATE, name=name)
            with pytest.raises(NodeUnavailable, match="no image has arrived"):
                client.wait_until(lambda: client.node.count_subscribers(f"/{name}/render_pose"), 10)
                client.wait_until_ready(0.5, keyframes=1)
            os.kill(node.pid, signal.SIGSTOP)
            with pytest.raises(CallTimeout, match="did not answer within"):
                client.reset(1.0)
            os.kill(node.pid, signal.SIGCONT)
            client.reset()
            node.close()
            with pytest.raises(NodeUnavailable, match="no node /other"):
                client.wait_until(lambda: not client.connected, 30)
                client.render(POSES[0], timeout=5.0)
    finally:
        peer.close()
