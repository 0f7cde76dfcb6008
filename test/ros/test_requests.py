"""Requests for views: what they mean, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
from geometry_msgs.msg import Pose
from rig import CAMERA, header, pose_at
from sensor_msgs.msg import CameraInfo

from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.parameters.table import Settings
from elvsm_ros.rendering.requests import Context, Query, parse, render_size

CONTEXT = Context(Settings(), "map", CAMERA, (32, 32), 8)


def ask(context: Context = CONTEXT, **fields: Any) -> Query:
    values: dict[str, Any] = {
        "frame_id": "", "poses": [Pose()], "info": CameraInfo(), "width": 0, "height": 0, "max_views": 0,
        "encoding": "",
    }  # fmt: skip
    return parse(context, **{**values, **fields})


def info(camera: Intrinsics) -> CameraInfo:
    return conversions.camera_info(camera, header(0, "camera"))


def test_an_empty_request_means_the_watched_camera_at_the_models_size() -> None:
    query = ask()
    assert query.camera == CAMERA.fitted(32, 32)
    assert query.camera.fx == query.camera.fy == 35.0  # cropped to the square, not squeezed
    assert query.encoding == "rgb8" and query.max_views == 4


def test_a_size_scales_the_intrinsics() -> None:
    assert ask(width=192, height=128).camera == Intrinsics(140, 140, 96, 64, 192, 128)
    given = Intrinsics(100, 101, 50, 40, 100, 80)
    assert ask(info=info(given)).camera == given
    assert ask(info=info(given), width=50, height=40).camera == Intrinsics(50, 50.5, 25, 20, 50, 40)


def test_max_views() -> None:
    assert ask(max_views=3).max_views == 3
    everything = Context(Settings(max_views=0), "map", CAMERA, (32, 32), 8)
    assert ask(everything).max_views is None


def test_the_world_frame_by_any_name() -> None:
    for name in ("", "map", "/map"):
        assert len(ask(frame_id=name).T_world_cam) == 1


def test_poses_keep_their_order() -> None:
    poses = [conversions.matrix_to_pose(pose_at(x)) for x in (0.0, 2.0, 1.0)]
    assert [T[0, 3] for T in ask(poses=poses).T_world_cam] == [0.0, 2.0, 1.0]


def broken_pose() -> Pose:
    pose = Pose()
    pose.orientation.w = float("nan")
    return pose


def unnormalised_pose() -> Pose:
    pose = Pose()
    pose.orientation.x = 1.0
    return pose


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"frame_id": "odom"}, "frame 'odom'.*world frame 'map'"),
        ({"poses": []}, "no pose"),
        ({"poses": [Pose()] * 10_000}, "10000 poses are more than max_render_views"),
        ({"poses": [Pose(), broken_pose()]}, "pose 1: .*NaN"),
        ({"poses": [unnormalised_pose()]}, "pose 0: .*norm"),
        ({"width": 8192, "height": 8192}, "8192x8192, .*more pixels than max_render_pixels"),
        ({"poses": [Pose()] * 64, "width": 512, "height": 512}, "64 images of 512x512"),
        ({"width": 4, "height": 2_000_000}, "4x2000000, rendered at 32x128"),
        ({"width": 64}, "half given"),
        ({"height": 64}, "half given"),
        ({"encoding": "webp"}, "encoding 'webp' is not one of rgb8, jpeg, png"),
        ({"info": CameraInfo(k=[1.0, 0, 1, 0, -1, 1, 0, 0, 1], width=9, height=9)}, "focal lengths"),
        ({"info": CameraInfo(k=[float("nan")] * 9, width=9, height=9)}, "NaN"),
        ({"info": CameraInfo(k=[1.0, 0, 1, 0, 1, 1, 0, 0, 1])}, "set width and height"),
        ({"info": info(Intrinsics(9000, 9000, 4096, 4096, 8192, 8192))}, "more pixels"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(fields: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ask(**fields)


def test_before_anything_was_seen() -> None:
    context = Context(Settings(), "", None, (32, 32), 8)
    with pytest.raises(ValueError, match="no camera_info has arrived"):
        ask(context)
    with pytest.raises(ValueError, match="no pose has arrived that tells the world frame"):
        ask(context, frame_id="map")


@pytest.mark.parametrize(
    ("size", "native", "expected"),
    [
        ((128, 128), (128, 128), (128, 128)),
        ((256, 256), (128, 128), (128, 128)),
        ((64, 64), (128, 128), (128, 128)),
        ((480, 640), (128, 128), (128, 168)),  # 170.7 to the next multiple of 8
        ((640, 480), (128, 128), (168, 128)),
        ((100, 5000), (128, 256), (128, 512)),  # no longer: pixels are not square then
        ((128, 1), (32, 160), (160, 32)),
    ],
)
def test_renders_with_the_models_own_short_side(
    size: tuple[int, int], native: tuple[int, int], expected: tuple[int, int]
) -> None:
    camera = Intrinsics(100, 100, size[1] / 2, size[0] / 2, size[1], size[0])
    assert render_size(camera, native, 8, "native") == expected
    assert render_size(camera, native, 8, "requested") == size
