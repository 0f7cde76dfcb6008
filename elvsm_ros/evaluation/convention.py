"""Do the poses mean what they should? Another reading of them may fit the images better.

Where the camera turns, two images taken shortly after each other are related by the rotation between them, more
or less: the warp by the right rotation fits better than that by a wrong one, without any model.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import elvsm_core as ec
from elvsm_ros.conversions import RGB, matrix_to_pose
from elvsm_ros.evaluation.baselines import rotation_warp, to_tensor

Matrix = NDArray[np.float64]

SECOND = 1_000_000_000
SIDE = 64
"""Pixels of the longer side of the images that are compared: parallax matters less in small ones."""
WITHIN = 2 * SECOND
"""Nanoseconds between the images of a pair, at most."""
ANGLES = (4.0, 25.0)
"""Degrees between the images of a pair: enough to tell the readings apart, and still an overlap."""
ENOUGH, MOST = 5, 80
"""Pairs without which nothing is said, and beyond which no more are collected."""
MARGIN = 1.0
"""dB by which another reading has to fit better, on average."""

T_BODY_OPTICAL = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
"""The optical frame (x right, y down, z forward) in a body's axes (x forward, y left, z up): REP 103."""
T_GRAPHICS_OPTICAL = np.diag([1.0, -1.0, -1.0, 1.0])
"""The optical frame in the axes of graphics cameras (x right, y up, z backward)."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How well readings of the poses fit.

    pairs: pairs of images compared. psnr: mean dB of the warp by reading, "as given" among them. warning: what
    to do about it, "" when the poses are fine or nothing can be told.
    """

    pairs: int
    psnr: dict[str, float]
    warning: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Small:
    stamp: int
    image: Tensor
    camera: ec.Camera


class ConventionCheck:
    """Collect pairs of images where the camera turned, and compare readings of their poses.

    T_body_cam: what was applied to the recorded poses already (the node's body_to_camera), 4x4.
    """

    def __init__(self, T_body_cam: Matrix):
        self._T_body_cam = T_body_cam
        self._recent: collections.deque[_Small] = collections.deque()
        self._pairs: list[tuple[_Small, _Small]] = []

    def add(self, stamp: int, image: RGB, camera: ec.Camera) -> None:
        """Take an image with its camera, in the order of time. stamp: nanoseconds."""
        if len(self._pairs) >= MOST:
            self._recent.clear()
            return
        scale = SIDE / max(camera.size)
        size = (max(8, round(camera.height * scale)), max(8, round(camera.width * scale)))
        small, fitted = ec.resize_and_crop(image, camera, size)
        new = _Small(stamp, to_tensor([small.numpy()]), fitted)
        while self._recent and stamp - self._recent[0].stamp > WITHIN:
            self._recent.popleft()
        for old in self._recent:
            _, angle = ec.keyframes.differences(camera.T_world_cam, old.camera.T_world_cam[None])
            if ANGLES[0] <= np.degrees(angle[0]) <= ANGLES[1]:
                self._pairs.append((old, new))
                break
        self._recent.append(new)

    def readings(self, T_world_cam: Matrix) -> dict[str, Matrix]:
        """Return what a pose may mean instead: name -> T_world_cam."""
        T_body_cam = self._T_body_cam
        recorded = T_world_cam @ np.linalg.inv(T_body_cam)
        inverted = np.linalg.inv(recorded) @ T_body_cam
        return {
            "as given": T_world_cam,
            "inverted": inverted,
            "body axes": T_world_cam @ T_BODY_OPTICAL,
            "inverted, body axes": inverted @ T_BODY_OPTICAL,
            "optical axes already": T_world_cam @ np.linalg.inv(T_BODY_OPTICAL),
            "graphics axes": T_world_cam @ T_GRAPHICS_OPTICAL,
        }

    @torch.inference_mode()
    def verdict(self) -> Verdict:
        """Compare the readings on what was collected."""
        scores: dict[str, list[float]] = collections.defaultdict(list)
        for old, new in self._pairs:
            sources, targets = (self.readings(x.camera.T_world_cam) for x in (old, new))
            for name, T in targets.items():
                image = rotation_warp(old.image, old.camera.at(sources[name]), new.camera.at(T))
                scores[name].append(min(100.0, float(ec.metrics.psnr(image, new.image)[0])))
        psnr = {name: float(np.mean(values)) for name, values in scores.items()}
        if len(self._pairs) < ENOUGH:
            return Verdict(len(self._pairs), psnr, "")
        best = max(psnr, key=lambda name: psnr[name])
        wins = np.mean(np.array(scores[best]) > np.array(scores["as given"]))
        if psnr[best] < psnr["as given"] + MARGIN or wins < 0.6:
            return Verdict(len(self._pairs), psnr, "")
        return Verdict(len(self._pairs), psnr, self._words(best, psnr, len(self._pairs)))

    def _words(self, best: str, psnr: dict[str, float], pairs: int) -> str:
        start = (
            f"the poses seem to follow another convention: read as “{best}”, the rotations between {pairs} pairs "
            f"of images fit {psnr[best]:.1f} dB, as given {psnr['as given']:.1f} dB. "
        )
        if best.startswith("inverted"):
            return start + (
                "Poses must map camera to world (T_world_cam, the camera's place in the map): invert what the "
                "localisation publishes"
                + (
                    ", and it is the body's (x forward) besides: see body_to_camera."
                    if "body" in best
                    else "."
                )
            )
        change = {
            "body axes": T_BODY_OPTICAL,
            "optical axes already": np.linalg.inv(T_BODY_OPTICAL),
            "graphics axes": T_GRAPHICS_OPTICAL,
        }[best]
        pose = matrix_to_pose(self._T_body_cam @ change)
        values = (
            *(pose.position.x, pose.position.y, pose.position.z),
            *(pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w),
        )
        numbers = " ".join(f"{v + 0.0:g}" for v in np.round(values, 6))
        return start + f"Try --body-to-camera {numbers} (the node's parameter body_to_camera)."
