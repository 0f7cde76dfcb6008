"""Recordings of every form give the same figures: compressed, ROS 1, TF for poses, a lens with distortion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from far_away import picture, pose
from rewriting import (
    T_BASE_CAMERA,
    T_MAP_ODOM,
    as_odometry,
    as_ros1,
    copied,
    tf_message,
    through_a_lens,
    with_tf,
)
from rosbags.rosbag2 import CompressionMode, StoragePlugin

import elvsm_core as ec
from elvsm_ros.evaluation.baselines import psnr
from elvsm_ros.evaluation.evaluate_bag import main
from elvsm_ros.evaluation.measure import BagEvaluation
from elvsm_ros.evaluation.options import parse
from elvsm_ros.evaluation.replay import Recording
from elvsm_ros.input.pose_source import PoseError
from elvsm_ros.parameters.table import Settings
from elvsm_ros.recordings.bag_reader import Bag, BagError, PosedFrames, find_streams
from elvsm_ros.recordings.bag_tf import open_tf, tf_ends
from elvsm_ros.recordings.tf_buffer import TfBuffer

SECOND = 1_000_000_000
QUICK = ("--lpips", "no", "--no-video", "--device", "cpu")


def evaluate(bag: Path, model: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main(["--bag", str(bag), "--model", str(model), "--out", str(out), *QUICK, *more]) == 0
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def plain(turning_bag: Path, blind_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluate(turning_bag, blind_model, tmp_path_factory.mktemp("plain"))


FORMS = {
    "sqlite": lambda source, target: copied(source, target, plugin=StoragePlugin.SQLITE3),
    "compressed file": lambda source, target: copied(
        source, target, CompressionMode.FILE, plugin=StoragePlugin.SQLITE3
    ),
    "compressed messages": lambda source, target: copied(source, target, CompressionMode.MESSAGE),
    "compressed chunks": lambda source, target: copied(source, target, CompressionMode.STORAGE),
    "ROS 1": lambda source, target: as_ros1(source, target.with_suffix(".bag")),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_changes_nothing(
    form: str, turning_bag: Path, blind_model: Path, plain: dict[str, Any], tmp_path: Path
) -> None:
    bag = FORMS[form](turning_bag, tmp_path / "bag")
    results = evaluate(bag, blind_model, tmp_path / "out")
    assert results["frames"] == plain["frames"]
    assert results["counts"] == plain["counts"]


# TF


@pytest.fixture(scope="module")
def tf_bag(turning_bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tf(turning_bag, tmp_path_factory.mktemp("tf") / "tf")


@pytest.mark.parametrize("ros1", [False, True])
def test_a_chain_of_transforms_gives_the_poses(
    ros1: bool, tf_bag: Path, blind_model: Path, plain: dict[str, Any], tmp_path: Path, capsys
) -> None:
    bag = as_ros1(tf_bag, tmp_path / "old.bag") if ros1 else tf_bag
    results = evaluate(bag, blind_model, tmp_path / "out")
    assert "poses from TF: camera_optical_frame in map" in capsys.readouterr().out
    assert results["counts"] | {"poses": 0} == plain["counts"] | {"poses": 0}
    assert results["warnings"] == plain["warnings"]
    for mine, theirs in zip(results["frames"], plain["frames"], strict=True):
        assert mine["distance"] == pytest.approx(theirs["distance"], abs=1e-6)
        assert mine["online_rotation_psnr"] == pytest.approx(theirs["online_rotation_psnr"], abs=0.3)


@pytest.mark.parametrize("frames", [("", ""), ("odom", ""), ("", "base_link")])
def test_poses_are_those_between_the_frames_asked_for(frames: tuple[str, str], tf_bag: Path) -> None:
    with Bag(tf_bag) as bag:
        streams = find_streams(bag)
        assert (streams.pose.name, [t.name for t in streams.static]) == ("/tf", ["/tf_static"])
        ends = tf_ends(bag, streams, *frames)
        assert ends is not None
        buffer = open_tf(bag, streams.static, ends)
        posed = list(PosedFrames(bag, streams, tf=lambda: buffer))
    assert len(posed) == 24
    world = np.linalg.inv(T_MAP_ODOM) if frames[0] == "odom" else np.eye(4)
    camera = np.linalg.inv(T_BASE_CAMERA) if frames[1] else np.eye(4)
    for k, frame in enumerate(posed):
        np.testing.assert_allclose(frame.T_world_cam, world @ pose(k / 8) @ camera, atol=1e-9)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (("earth", ""), ["up to 'map'", "not to 'earth'", "--world-frame", "odom, map"]),
        (("", "gripper"), ["no transform of 'gripper'", "--camera-frame", "base_link, camera_optical_frame"]),
    ],
)
def test_frames_that_are_not_there_are_named(tf_bag: Path, frames: tuple[str, str], words: list[str]) -> None:
    with Bag(tf_bag) as bag, pytest.raises(BagError) as caught:
        tf_ends(bag, find_streams(bag), *frames)
    for word in [str(tf_bag), "/tf", *words]:
        assert word in str(caught.value)


def test_static_transforms_alone_are_no_poses(turning_bag: Path, tmp_path: Path) -> None:
    with Bag(with_tf(turning_bag, tmp_path / "bag", until=-1)) as bag:
        assert find_streams(bag).pose.name == "/tf"  # map to odom is there
    with (
        pytest.raises(BagError, match="--pose-topic among"),
        Bag(with_tf(turning_bag, tmp_path / "two", static=False)) as bag,
    ):
        find_streams(bag)


def test_odometry_that_falls_silent_is_told(
    turning_bag: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    results = evaluate(with_tf(turning_bag, tmp_path / "bag", until=1.5), blind_model, tmp_path / "out")
    (warning,) = results["warnings"]
    assert "nothing at or after it from 'base_link' to 'odom'" in warning and "times)" in warning
    assert results["counts"]["images_without_pose_or_camera"] > 5


def test_a_buffer_interpolates_each_link_and_refuses_gaps() -> None:
    buffer = TfBuffer("map", "cam")
    step = np.eye(4)
    for seconds, x in ((1.0, 0.0), (2.0, 1.0), (7.0, 2.0)):
        step[0, 3] = x
        assert buffer.add(tf_message(("base", "cam", seconds, step)), static=False) == []
    lift = np.eye(4)
    lift[2, 3] = 5.0
    buffer.add(tf_message(("map", "base", 0.0, lift)), static=True)
    T = buffer.lookup(round(1.25 * SECOND))
    assert T is not None
    np.testing.assert_allclose(T[:3, 3], [0.25, 0, 5])
    assert buffer.lookup(8 * SECOND) is None and "'cam' to 'base'" in buffer.missing
    for seconds, words in ((5, "gap of more than 2 s"), (0.5, "older than the first")):
        with pytest.raises(PoseError, match=words):
            buffer.lookup(round(seconds * SECOND))
    buffer.clear()
    assert buffer.frames == {"map", "base"}
    assert buffer.lookup(SECOND) is None


def test_bad_transforms_are_told_and_left_out() -> None:
    buffer = TfBuffer("map", "cam")
    bad = np.eye(4)
    bad[0, 3] = np.nan
    (words,) = buffer.add(tf_message(("map", "cam", 1.0, bad)), static=False)
    assert "'cam' to 'map'" in words and "NaN" in words
    good = ("map", "cam", 2.0, np.eye(4))
    assert buffer.add(tf_message(good, good), static=False) == []  # TF repeats itself
    assert buffer.lookup(2 * SECOND) is not None


# A lens


@pytest.mark.parametrize("rectified", [True, False])
def test_held_out_frames_of_a_distorted_camera_are_rectified(
    rectified: bool, turning_bag: Path, blind_model: Path, tmp_path: Path
) -> None:
    """What they are compared with is what a pinhole camera would have seen; taken as it is, it is something else."""
    path = through_a_lens(turning_bag, tmp_path / "bag")
    options = parse(["--bag", str(path), "--out", str(tmp_path), "--lpips", "no", "--frames", "4"])
    values = {"model": str(blind_model), "device": "cpu", "images_rectified": not rectified}
    with Bag(path) as bag:
        views = (
            BagEvaluation(
                Recording(bag, find_streams(bag)), Settings.from_values(values), options, lambda *_: None
            )
            .run()
            .views
        )
    assert len(views) >= 3
    psnrs = [psnr(view.truth, picture(view.camera)) for view in views]
    assert min(psnrs) > 33 if rectified else max(psnrs) < 27, psnrs


def test_the_demos_frames_of_a_distorted_camera_are_rectified(turning_bag: Path, tmp_path: Path) -> None:
    with Bag(through_a_lens(turning_bag, tmp_path / "bag")) as bag:
        frames = list(PosedFrames(bag, find_streams(bag)))
    assert len(frames) == 24
    for frame in frames[::6]:
        c = frame.intrinsics
        pinhole = ec.Camera(c.fx, c.fy, c.cx, c.cy, c.width, c.height, frame.T_world_cam)
        assert psnr(frame.rgb(), picture(pinhole)) > 30


def test_odometry_of_a_body_is_told(turning_bag: Path, blind_model: Path, tmp_path: Path, capsys) -> None:
    bag = as_odometry(turning_bag, tmp_path / "bag")
    (warning,) = evaluate(bag, blind_model, tmp_path / "out")["warnings"]
    assert "'base_link'" in warning and "'camera_optical_frame'" in warning and "body_to_camera" in warning
    arguments = ["--bag", str(bag), "--model", str(blind_model), "--out", str(tmp_path / "other"), *QUICK]
    assert main([*arguments, "--param", "extrinsics=tf"]) == 2
    assert "--pose-topic" in " ".join(capsys.readouterr().err.split())
