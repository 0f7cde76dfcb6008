"""The node in a process of its own, over DDS: what goes in, what comes out."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from PIL import Image as PillowImage
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rig import CAMERA, NodeProcess, Peer, camera_at, header, picture, pixels, pose_at, wait_until
from std_srvs.srv import SetBool, Trigger

import elvsm_core as ec
from elvsm.srv import RenderViews
from elvsm_ros import conversions


@pytest.fixture
def node(shared: tuple[NodeProcess, Peer]) -> NodeProcess:
    return shared[0]


@pytest.fixture
def peer(shared: tuple[NodeProcess, Peer]) -> Peer:
    """Return the peer of a node that has forgotten what the tests before did."""
    answer = shared[1].call(Trigger, "/elvsm/reset", Trigger.Request())
    assert answer.success, answer.message
    shared[1].wait_for_status(lambda s: s.keyframes == 0, "no keyframe")
    return shared[1]


def offline(model: Path, poses: list[np.ndarray]) -> ec.Scene:
    """Return a scene with the keyframes that `walk` sends."""
    scene = ec.Scene(ec.load_model(model, device="cpu"))
    for i, T in enumerate(poses):
        scene.insert(picture(i), camera_at(T))
    return scene


def walk(peer: Peer, count: int = 6) -> list[np.ndarray]:
    """Make `count` keyframes, and return their poses."""
    poses = [pose_at(0.25 * i, yaw=0.1 * i) for i in range(count)]
    for i, T in enumerate(poses):
        peer.insert(picture(i), T)
    return poses


TARGETS = [pose_at(0.1, 0.05), pose_at(0.6, 0.3), pose_at(1.2, 0.4, y=0.1)]


def assert_same_picture(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert expected.std() > 10, "a flat picture shows nothing"


def test_renders_are_those_of_a_scene_with_the_same_keyframes(peer: Peer, small_model: Path) -> None:
    poses = walk(peer)
    scene = offline(small_model, poses)
    for max_views in (0, 3):
        answer = peer.render(TARGETS, max_views=max_views)
        assert answer.success, answer.message
        expected = scene.render(
            [camera_at(T, CAMERA.fitted(32, 32)) for T in TARGETS], max_views=max_views or 4
        )
        assert len(answer.images) == 3 and answer.views_used == len(expected.views) == (max_views or 4)
        for image, picture_expected in zip(answer.images, expected.images, strict=True):
            assert_same_picture(pixels(image), picture_expected)
        np.testing.assert_allclose(answer.support, expected.support)
        assert answer.latency_ms > 0
    differences = np.abs(expected.images[0].astype(int) - expected.images[1])
    assert differences.mean() > 3, "the renders do not depend on the pose, and the test shows nothing"


def test_the_size_asked_for_is_reached_from_the_models_own(peer: Peer, small_model: Path) -> None:
    poses = walk(peer, 3)
    scene = offline(small_model, poses)
    answer = peer.render(TARGETS[:1], width=192, height=128)
    expected = scene.render([camera_at(TARGETS[0], CAMERA.stretched(48, 32))])
    (image,) = answer.images
    assert (image.width, image.height) == (192, 128)
    assert_same_picture(pixels(image), conversions.resize(expected.images[0], 192, 128))


def test_encodings_of_the_answer(peer: Peer) -> None:
    walk(peer, 2)
    stamp = header(123_000_000_456, "map")
    raw = peer.render(TARGETS[:2], header=stamp)
    png = peer.render(TARGETS[:2], encoding="png", header=stamp)
    jpeg = peer.render(TARGETS[:2], encoding="jpeg")
    assert not raw.compressed_images and not png.images and not jpeg.images
    for i in range(2):
        assert raw.images[i].header.stamp == png.compressed_images[i].header.stamp == stamp.stamp
        assert raw.images[i].header.frame_id == "elvsm_rendered"
        assert png.compressed_images[i].format == "png" and jpeg.compressed_images[i].format == "jpeg"
        expected = pixels(raw.images[i])
        np.testing.assert_array_equal(conversions.image_to_rgb(png.compressed_images[i]), expected)
        buffer = io.BytesIO()
        PillowImage.fromarray(expected).save(buffer, "jpeg", quality=90)
        assert bytes(jpeg.compressed_images[i].data) == buffer.getvalue()
    assert jpeg.compressed_images[0].header.stamp.sec > 1_000_000_000  # zero means now


def test_keyframes_are_published_where_the_camera_was(peer: Peer) -> None:
    peer.insert(picture(0), pose_at(0.0))
    # Poses before and after the image, none at its stamp.
    before, stamp, after = (peer.next_stamp() for _ in range(3))
    peer.send_info(stamp)
    peer.send_image(stamp, picture(1))
    peer.send_pose(before, pose_at(1.0, 0.2))
    peer.send_pose(after, pose_at(2.0, 0.4))
    wait_until(lambda: peer.keyframes and len(peer.keyframes[-1].poses) == 2, "two published keyframes")
    message = peer.keyframes[-1]
    assert message.header.frame_id == "map"
    np.testing.assert_allclose(conversions.pose_to_matrix(message.poses[1]), pose_at(1.5, 0.3), atol=1e-9)


def test_near_images_are_no_keyframes(peer: Peer) -> None:
    peer.insert(picture(0), pose_at(0.0))
    received = peer.status.images_received
    for i in range(5):
        peer.send_frame(picture(i), pose_at(0.02 * i))
    peer.wait_for_status(lambda s: s.images_received >= received + 5, "five more images")
    peer.insert(picture(9), pose_at(0.5))
    assert peer.status.keyframes == 2


def test_answers_while_images_arrive(peer: Peer) -> None:
    walk(peer, 2)
    done = threading.Event()

    def publish() -> None:
        i = 10
        while not done.wait(0.03):
            peer.send_frame(picture(i), pose_at(0.25 * i))
            i += 1

    before = peer.status.keyframes_inserted
    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        for _ in range(15):
            answer = peer.render(TARGETS)
            assert answer.success, answer.message
        peer.wait_for_status(lambda s: s.keyframes_inserted > before + 5, "new keyframes while it renders")
    finally:
        done.set()
        publisher.join()


def test_many_requests_at_once(peer: Peer) -> None:
    walk(peer, 3)
    request = RenderViews.Request(poses=[conversions.matrix_to_pose(T) for T in TARGETS])
    futures = [peer.start_call(RenderViews, "/elvsm/render_views", request) for _ in range(40)]
    wait_until(lambda: all(future.done() for future in futures), "all answers")
    answers = [future.result() for future in futures]
    assert all(answer.success for answer in answers)
    for answer in answers:
        np.testing.assert_array_equal(pixels(answer.images[1]), pixels(answers[0].images[1]))


def test_the_newest_render_pose_is_rendered(peer: Peer, small_model: Path) -> None:
    poses = walk(peer, 3)
    scene = offline(small_model, poses)
    peer.rendered.clear()
    peer.rendered_infos.clear()
    for i, T in enumerate(TARGETS):
        pose = PoseStamped(header=header((i + 1) * 10**9, "map"), pose=conversions.matrix_to_pose(T))
        peer.render_pose.publish(pose)
    wait_until(lambda: peer.rendered and peer.rendered[-1].header.stamp.sec == 3, "the last render")
    wait_until(lambda: len(peer.rendered_infos) >= len(peer.rendered), "its camera_info")
    native = CAMERA.fitted(32, 32)
    assert_same_picture(pixels(peer.rendered[-1]), scene.render([camera_at(TARGETS[-1], native)]).images[0])
    assert peer.rendered_infos[-1].header == peer.rendered[-1].header
    assert conversions.intrinsics(peer.rendered_infos[-1]) == native


def test_pause(peer: Peer) -> None:
    walk(peer, 2)
    assert peer.call(SetBool, "/elvsm/pause", SetBool.Request(data=True)).success
    received = peer.wait_for_status(lambda s: s.paused, "paused").images_received
    for i in range(3):
        peer.send_frame(picture(i), pose_at(5.0 + i))
    status = peer.wait_for_status(lambda s: s.images_received >= received + 3, "three more images")
    assert status.keyframes == 2
    assert peer.render(TARGETS).success
    assert peer.call(SetBool, "/elvsm/pause", SetBool.Request(data=False)).success
    peer.insert(picture(8), pose_at(9.0))
    assert peer.status.keyframes == 3


def test_reset_forgets_keyframes_and_starts_anew(peer: Peer, small_model: Path) -> None:
    walk(peer, 4)
    answer = peer.call(Trigger, "/elvsm/reset", Trigger.Request())
    assert answer.success and answer.message == "4 keyframes forgotten"
    wait_until(lambda: not peer.keyframes[-1].poses, "an empty list of keyframes")
    answer = peer.render(TARGETS)
    assert not answer.success and "no keyframe" in answer.message
    # What was seen from here before does not keep these images out.
    poses = walk(peer, 3)
    expected = offline(small_model, poses).render([camera_at(TARGETS[0], CAMERA.fitted(32, 32))]).images[0]
    assert_same_picture(pixels(peer.render(TARGETS[:1]).images[0]), expected)


def test_status_counts(peer: Peer) -> None:
    before = peer.status
    walk(peer, 3)
    peer.render(TARGETS)
    peer.render([])
    after = peer.wait_for_status(lambda s: s.render_failures > before.render_failures, "one more failure")
    assert after.keyframes == 3 and after.keyframes_inserted == before.keyframes_inserted + 3
    assert after.images_received == before.images_received + 3
    assert after.poses_received == before.poses_received + 3
    assert after.renders == before.renders + 3 and after.render_failures == before.render_failures + 1
    assert after.capacity == 64 and after.device == "cpu" and after.header.frame_id == "map"
    assert 0 < after.insert_ms_p50 <= after.insert_ms_p95 and 0 < after.render_ms_p50 <= after.render_ms_p95
    assert "no pose" in after.last_error


def parameter(name: str, value: float | int) -> Parameter:
    # 2 and 3 are rcl_interfaces' integer and double.
    kind, field = (2, "integer_value") if isinstance(value, int) else (3, "double_value")
    return Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))


def test_parameters_change_at_run_time_or_say_why_not(peer: Peer) -> None:
    def change(name: str, value: float | int) -> tuple[bool, str]:
        request = SetParameters.Request(parameters=[parameter(name, value)])
        (result,) = peer.call(SetParameters, "/elvsm/set_parameters", request).results
        return result.successful, result.reason

    walk(peer, 4)
    assert peer.render(TARGETS).views_used == 4
    assert change("max_views", 2) == (True, "")
    assert peer.render(TARGETS).views_used == 2
    assert change("max_views", 4) == (True, "")
    ok, reason = change("keyframe_distance", -1.0)
    assert not ok and "keyframe_distance" in reason
    ok, reason = change("capacity", 8)
    assert not ok and "clean the node up" in reason


def test_a_file_of_parameters(start_node: Callable[..., NodeProcess], repository: Path) -> None:
    node = start_node("--params-file", str(repository / "config" / "elvsm.yaml"), "-r", "__node:=second")
    node.wait_for("active")
