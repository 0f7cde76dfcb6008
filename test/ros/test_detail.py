"""Renders with detail through a real node: service, action, topics; the core's own answers are what they must equal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from rig import CAMERA, Peer, camera_at, header, picture, pixels, pose_at, running, set_parameters, wait_until
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger

import elvsm_core as ec
from elvsm.srv import RenderViews
from elvsm_ros import RequestRejected, SceneClient, conversions
from elvsm_ros.parameters.table import Settings
from elvsm_ros.rendering import requests
from elvsm_ros.rendering.requests import Context, RequestError

ON, OFF = RenderViews.Request.DETAIL_ON, RenderViews.Request.DETAIL_OFF
WALL = picture(7, 400, CAMERA.height)
"""What the cameras see: a wall a metre and more away."""
STEPS = range(4)
TARGET = pose_at(0.25)
FULL = {"width": CAMERA.width, "height": CAMERA.height}


def seen(step: int) -> np.ndarray:
    """Return the wall from 0.2 m times step: at 1 m, 14 pixels a step."""
    return np.ascontiguousarray(WALL[:, 14 * step : 14 * step + CAMERA.width])


@pytest.fixture(scope="module")
def peer(small_model: Path) -> Iterator[Peer]:
    with running(model=str(small_model)) as (_, peer):
        for step in STEPS:
            peer.insert(seen(step), pose_at(0.2 * step))
        yield peer


@pytest.fixture(scope="module")
def own(small_model: Path) -> ec.Rendering:
    """Return what a scene of the same images answers."""
    scene = ec.Scene(ec.load_model(small_model, device="cpu"), capacity=8)
    for step in STEPS:
        scene.insert(seen(step), camera_at(pose_at(0.2 * step)))
    return scene.render([camera_at(TARGET)], max_views=4, detail=True)


def depth_of(message: Image) -> np.ndarray:
    assert (message.encoding, message.step) == ("32FC1", 4 * message.width)
    return np.frombuffer(message.data, np.float32).reshape(message.height, message.width)


def test_a_request_with_depth_gets_what_the_scene_gives(peer: Peer, own: ec.Rendering) -> None:
    answer = peer.render([TARGET], depth=True, **FULL)
    assert answer.success, answer.message
    np.testing.assert_array_equal(pixels(answer.images[0]), own.images[0])
    np.testing.assert_array_equal(depth_of(answer.depth_images[0]), own.depth[0])
    (confidence,) = answer.confidence_images
    assert (confidence.encoding, confidence.step) == ("mono8", CAMERA.width)
    grey = np.frombuffer(confidence.data, np.uint8).reshape(CAMERA.height, CAMERA.width)
    np.testing.assert_allclose(grey / 255, own.confidence[0], atol=0.5 / 255 + 1e-6)
    for layer in (answer.depth_images[0], confidence):
        assert layer.header == answer.images[0].header


def test_detail_is_on_and_off_by_request_and_by_parameter(peer: Peer, own: ec.Rendering) -> None:
    def shown(**fields: object) -> np.ndarray:
        answer = peer.render([TARGET], **FULL, **fields)
        assert answer.success, answer.message
        assert not answer.depth_images and not answer.confidence_images
        return pixels(answer.images[0])

    plain = shown()
    np.testing.assert_array_equal(shown(detail=OFF), plain)
    np.testing.assert_array_equal(shown(detail=ON), own.images[0])
    assert (plain != own.images[0]).any()
    assert set_parameters(peer, {"detail": "on"}) == []
    try:
        np.testing.assert_array_equal(shown(), own.images[0])
        np.testing.assert_array_equal(shown(detail=OFF), plain)
    finally:
        assert set_parameters(peer, {"detail": "off"}) == []


def test_many_poses_keep_their_order_and_sizes_their_aspect(peer: Peer) -> None:
    poses = [pose_at(0.05 * i) for i in range(11)]
    answer = peer.render(poses, depth=True, width=40, height=20)
    assert answer.success, answer.message
    assert len(answer.images) == len(answer.depth_images) == len(answer.confidence_images) == len(poses)
    for place in (0, 9):
        group = poses[8 * (place // 8) :][:8]
        alone = peer.render(group, depth=True, width=40, height=20)
        assert alone.depth_images[place % 8].data == answer.depth_images[place].data
        assert alone.images[place % 8].data == answer.images[place].data
    assert all((image.width, image.height) == (40, 20) for image in answer.depth_images)


def test_a_compressed_picture_comes_with_plain_depth(peer: Peer, own: ec.Rendering) -> None:
    answer = peer.render([TARGET], depth=True, encoding="png", **FULL)
    assert answer.success, answer.message
    np.testing.assert_array_equal(conversions.image_to_rgb(answer.compressed_images[0]), own.images[0])
    np.testing.assert_array_equal(depth_of(answer.depth_images[0]), own.depth[0])


def test_depth_and_confidence_are_published_while_somebody_listens(peer: Peer, own: ec.Rendering) -> None:
    assert set_parameters(peer, {"rendered_size": [CAMERA.height, CAMERA.width]}) == []
    message = PoseStamped(header=header(0, "map"), pose=conversions.matrix_to_pose(TARGET))
    found: dict[str, list[Image]] = {"depth": [], "confidence": []}

    def next_picture() -> np.ndarray:
        count = len(peer.rendered)
        peer.render_pose.publish(message)
        wait_until(lambda: len(peer.rendered) > count, "a rendered image")
        return pixels(peer.rendered[-1])

    plain = next_picture()
    topics = [
        peer.node.create_subscription(Image, f"/elvsm/rendered/{name}", images.append, 10)
        for name, images in found.items()
    ]
    wait_until(
        lambda: all(peer.node.count_publishers(topic.topic_name) for topic in topics), "the node's topics"
    )
    try:
        wait_until(lambda: (next_picture(), all(found.values()))[1], "depth and confidence")
        np.testing.assert_array_equal(depth_of(found["depth"][-1]), own.depth[0])
        np.testing.assert_array_equal(next_picture(), own.images[0])
    finally:
        for topic in topics:
            peer.node.destroy_subscription(topic)
    wait_until(lambda: np.array_equal(next_picture(), plain), "the plain picture again")


def test_the_client_returns_arrays(peer: Peer, own: ec.Rendering) -> None:
    del peer
    with SceneClient("/elvsm") as client:
        answer = client.render_views([TARGET], camera_at(TARGET), depth=True)
        np.testing.assert_array_equal(answer.images[0], own.images[0])
        np.testing.assert_array_equal(answer.depths[0], own.depth[0])
        np.testing.assert_allclose(answer.confidences[0], own.confidence[0], atol=0.5 / 255 + 1e-6)
        assert answer.depths[0].dtype == answer.confidences[0].dtype == np.float32
        np.testing.assert_array_equal(client.render(TARGET, camera_at(TARGET), detail=True), own.images[0])
        plain = client.render(TARGET, camera_at(TARGET), detail=False)
        assert (plain != own.images[0]).any()
        (film,) = client.render_trajectory([TARGET], camera_at(TARGET), detail=True)
        np.testing.assert_array_equal(film, own.images[0])
        with pytest.raises(RequestRejected, match="depth was asked for without detail"):
            client.render_views([TARGET], detail=False, depth=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"detail": 3}, "detail 3 is none of"),
        ({"detail": OFF, "depth": True}, "leave detail at 0"),
        ({"detail": ON, "width": 4096, "height": 4096}, "max_render_pixels"),
    ],
)
def test_requests_that_mean_nothing_are_rejected(fields: dict[str, int], words: str) -> None:
    values = {
        "frame_id": "",
        "poses": [conversions.matrix_to_pose(TARGET)],
        "width": 0,
        "height": 0,
        **fields,
    }
    with pytest.raises(RequestError, match=words):
        requests.parse(
            Context(Settings(), "map", CAMERA, (32, 32), 8), info=CameraInfo(), max_views=0, encoding="",
            **values,
        )  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (640, 480)])
def test_odd_sizes_are_answered(peer: Peer, size: tuple[int, int]) -> None:
    answer = peer.render([TARGET], depth=True, width=size[0], height=size[1])
    assert answer.success, answer.message
    assert (answer.images[0].width, answer.images[0].height) == size
    depth = depth_of(answer.depth_images[0])
    assert np.isfinite(depth).all() and (depth > 0).all()


def test_an_empty_scene_says_so(peer: Peer) -> None:
    assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
    answer = peer.render([TARGET], depth=True)
    assert not answer.success and "there is no keyframe yet" in answer.message
