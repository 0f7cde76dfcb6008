"""The recorded walk through an office: the bundled model beats both baselines, the poses are in order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import elvsm_core as ec
from elvsm_ros.evaluation.convention import ConventionCheck
from elvsm_ros.evaluation.evaluate_bag import main
from elvsm_ros.recordings.bag_reader import Bag, PosedFrames, find_streams


@pytest.mark.slow
def test_online_renders_beat_the_nearest_keyframe_and_its_rotation(office_bag: Path, tmp_path: Path) -> None:
    options = ["--frames", "14", "--seconds", "8", "--lpips", "no", "--no-video", "--device", "cpu"]
    assert main(["--bag", str(office_bag), "--out", str(tmp_path), *options]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    online, offline = (results["summary"][column] for column in ("online", "offline"))
    assert len(results["frames"]) > 5
    assert online["render"]["psnr"] > online["nearest"]["psnr"] + 4
    assert online["render"]["psnr"] > online["rotation"]["psnr"]
    assert offline["render"]["psnr"] > online["render"]["psnr"]
    assert results["warnings"] == []


@pytest.mark.parametrize("inverted", [False, True])
def test_inverted_poses_of_real_images_are_recognised(office_bag: Path, inverted: bool) -> None:
    check = ConventionCheck(np.eye(4))
    with Bag(office_bag) as bag:
        for frame in PosedFrames(bag, find_streams(bag), seconds=10):
            T = np.linalg.inv(frame.T_world_cam) if inverted else frame.T_world_cam
            c = frame.intrinsics
            check.add(frame.stamp, frame.rgb(), ec.Camera(c.fx, c.fy, c.cx, c.cy, c.width, c.height, T))
    verdict = check.verdict()
    assert verdict.pairs > 10
    assert ("“inverted”" in verdict.warning) == inverted
