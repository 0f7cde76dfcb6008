"""Poses in another convention are recognised, and right ones are left in peace."""

from __future__ import annotations

import numpy as np
import pytest
from far_away import camera, picture, pose

from elvsm_ros.conversions import parts_to_matrix
from elvsm_ros.evaluation.convention import T_BODY_OPTICAL, T_GRAPHICS_OPTICAL, ConventionCheck, Verdict

WRONG = {
    "inverted": np.linalg.inv,
    "body axes": lambda T: T @ np.linalg.inv(T_BODY_OPTICAL),
    "graphics axes": lambda T: T @ np.linalg.inv(T_GRAPHICS_OPTICAL),
    "inverted, body axes": lambda T: np.linalg.inv(T @ np.linalg.inv(T_BODY_OPTICAL)),
}


def judge(recorded, T_body_cam: np.ndarray | None = None, images: int = 16) -> Verdict:
    applied = np.eye(4) if T_body_cam is None else T_body_cam
    check = ConventionCheck(applied)
    for k in range(images):
        T = pose(k / 8)
        check.add(round(k / 8 * 1e9), picture(camera(T)), camera(recorded(T) @ applied))
    return check.verdict()


def test_right_poses_are_left_in_peace() -> None:
    verdict = judge(lambda T: T)
    assert verdict.pairs >= 5
    assert verdict.warning == ""
    assert max(verdict.psnr, key=lambda name: verdict.psnr[name]) == "as given"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_poses_are_recognised(name: str) -> None:
    verdict = judge(WRONG[name])
    assert f"“{name}”" in verdict.warning
    assert ("invert what" in verdict.warning) == name.startswith("inverted")


@pytest.mark.parametrize("name", ["body axes", "graphics axes"])
def test_the_remedy_works(name: str) -> None:
    words = judge(WRONG[name]).warning
    values = np.array([float(v) for v in words.partition("--body-to-camera ")[2].split(" (")[0].split()])
    assert judge(WRONG[name], parts_to_matrix(values[:3], values[3:])).warning == ""


def test_a_body_to_camera_that_is_not_needed_is_recognised() -> None:
    verdict = judge(lambda T: T, T_BODY_OPTICAL)
    assert "“optical axes already”" in verdict.warning
    assert "--body-to-camera 0 0 0 0 0 0 1 " in verdict.warning


def test_without_turning_nothing_is_said() -> None:
    check = ConventionCheck(np.eye(4))
    for k in range(10):
        T = np.linalg.inv(pose(0.0))
        T[0, 3] += 0.1 * k
        check.add(k * 10**8, picture(camera(pose(0.0))), camera(T))
    assert check.verdict() == Verdict(0, {}, "")
