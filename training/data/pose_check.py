"""Do poses and intrinsics mean what they should? Matches between pictures fit another reading of them better, if not.

What is the same place in two pictures lies on one epipolar line, and in front of both cameras (Hartley, Zisserman:
Multiple View Geometry, chapters 9 and 12). Which pictures' points match is found without any pose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .store import FrameError, PosedScene

SIDE = 512
"""Pixels of the longer side of the pictures that are compared."""
FEWEST_MATCHES = 25
FEWEST_PAIRS = 3
RATIO = 0.75
"""Of the distances to the best and the second best descriptor, Lowe's test."""
BAD = 2.0
"""Pixels of a picture of SIDE that points lie from their epipolar lines when something is wrong."""
BETTER = 3.0
"""Times nearer than as given that points must lie in another reading."""
GRAPHICS = np.diag([1.0, -1.0, -1.0, 1.0])
BODY = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)

Matrix = NDArray[np.float64]

REMEDIES = {
    "inverted": "world-to-camera and camera-to-world are exchanged: invert them",
    "graphics axes": "the cameras' axes are those of graphics (y up, z backward): turn y and z of each pose around",
    "inverted, graphics axes": "they are inverted, and the cameras' axes are those of graphics (y up, z backward)",
    "body axes": "they are those of a body (x forward, z up) and not of its camera: apply the camera's mounting",
    "intrinsics × 2": "the intrinsics are for a picture of half the size",
    "intrinsics × 1/2": "the intrinsics are for a picture of twice the size",
    "intrinsics × 1/4": "the intrinsics are for a picture of four times the size",
}
"""What to say of each reading but the given one."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """How well readings fit: pairs of pictures compared; pixels: median distance from epipolar lines; by reading."""

    pairs: int
    pixels: dict[str, float]

    @property
    def warning(self) -> str:
        """What is wrong and what to do, "" where nothing is, or nothing can be told."""
        if self.pairs < FEWEST_PAIRS:
            return ""
        given = self.pixels["as given"]
        best = min(self.pixels, key=lambda name: self.pixels[name])
        if given < BAD:
            return ""
        now = "as given most would lie behind a camera"
        if np.isfinite(given):
            now = f"as given {given:.1f}"
        if self.pixels[best] < BAD and self.pixels[best] * BETTER < given:
            return (
                f"poses or intrinsics seem wrong: read as “{best}” matches between {self.pairs} pairs of pictures lie "
                f"{self.pixels[best]:.1f} pixels (of {SIDE}) from where they should, {now}. {REMEDIES[best]}"
            )
        return (
            f"poses do not fit the pictures: matches between {self.pairs} pairs should lie within {BAD:.0f} pixels (of "
            f"{SIDE}) of their lines, {now}, and no other reading fits. Are images and poses of the same frames, and "
            f"of one clock?"
        )


def readings(w2c: Matrix, K: Matrix) -> Iterator[tuple[str, Matrix, Matrix]]:
    """Yield what a camera may mean: name, w2c [4, 4], K [3, 3]."""
    c2w = np.linalg.inv(w2c)
    yield "as given", w2c, K
    yield "inverted", c2w, K
    yield "graphics axes", np.linalg.inv(c2w @ GRAPHICS), K
    yield "inverted, graphics axes", np.linalg.inv(w2c @ GRAPHICS), K
    yield "body axes", np.linalg.inv(c2w @ BODY), K
    for name, factor in (("2", 2.0), ("1/2", 0.5), ("1/4", 0.25)):
        yield f"intrinsics × {name}", w2c, np.diag([factor, factor, 1.0]) @ K


def check_poses(scene: PosedScene, frames: list[int], most: int = 12) -> Fit:
    """Match pictures of a scene, neighbours among `frames`, and compare readings of their poses."""
    scores: dict[str, list[float]] = {}
    pairs, previous = 0, None
    for frame in frames:
        try:
            current = (frame, *_features(scene, frame))
        except FrameError:
            continue
        if previous is not None and pairs < most:
            points = _matches(previous, current)
            if points is not None and _moved(scene, previous[0], frame):
                pairs += 1
                for name, error in _errors(scene, previous, current, points):
                    scores.setdefault(name, []).append(error)
        previous = current
    return Fit(pairs, {name: float(np.median(errors)) for name, errors in scores.items()})


def _features(scene: PosedScene, frame: int) -> tuple[Matrix, Matrix | None, Matrix]:
    """Return places [n, 2] and descriptors of a picture's features, and its K [3, 3]; places counted as we do."""
    import cv2

    image, fxfycxcy, _ = scene.frame(frame)
    scale = min(1.0, SIDE / max(image.size))
    size = max(8, round(image.width * scale)), max(8, round(image.height * scale))
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS))
    found, descriptors = cv2.SIFT_create(1500).detectAndCompute(grey, None)
    places = np.array([f.pt for f in found], dtype=np.float64).reshape(-1, 2) + 0.5
    fx, fy, cx, cy = fxfycxcy * np.tile(np.divide(size, image.size), 2)
    return places, descriptors, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _matches(a: tuple, b: tuple) -> tuple[Matrix, Matrix] | None:
    """Return the places [n, 2] of the same things in two pictures, None for too few."""
    import cv2

    if a[2] is None or b[2] is None or min(len(a[1]), len(b[1])) < FEWEST_MATCHES:
        return None
    found = cv2.BFMatcher().knnMatch(a[2], b[2], k=2)
    good = [pair[0] for pair in found if len(pair) == 2 and pair[0].distance < RATIO * pair[1].distance]
    if len(good) < FEWEST_MATCHES:
        return None
    x, y = a[1][[m.queryIdx for m in good]], b[1][[m.trainIdx for m in good]]
    F, inside = cv2.findFundamentalMat(x, y, cv2.FM_RANSAC, 1.5, 0.999)
    if F is None or inside is None or inside.sum() < FEWEST_MATCHES:
        return None
    kept = inside[:, 0].astype(bool)
    return x[kept], y[kept]


def _moved(scene: PosedScene, a: int, b: int) -> bool:
    """Tell whether a camera moved so that lines can be told: a turn on the spot has none."""
    centres = np.linalg.inv(scene.w2c[[a, b]])[:, :3, 3]
    return bool(np.linalg.norm(centres[1] - centres[0]) > 1e-6 * max(1.0, np.abs(centres).max()))


def _errors(
    scene: PosedScene, a: tuple, b: tuple, points: tuple[Matrix, Matrix]
) -> Iterator[tuple[str, float]]:
    """Yield the median distance of matches from epipolar lines, pixels, for each reading.

    Where most points would lie behind a camera it is infinite.
    """
    import cv2

    x, y = (np.concatenate([p, np.ones((len(p), 1))], 1) for p in points)
    for (name, first, Ka), (_, second, Kb) in zip(
        readings(scene.w2c[a[0]], a[3]), readings(scene.w2c[b[0]], b[3]), strict=True
    ):
        T = second @ np.linalg.inv(first)
        t = T[:3, 3] / (np.linalg.norm(T[:3, 3]) or 1.0)
        cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
        F = np.linalg.inv(Kb).T @ cross @ T[:3, :3] @ np.linalg.inv(Ka)
        Fx, Fy = x @ F.T, y @ F
        distance = np.abs((y * Fx).sum(1)) / np.sqrt(
            Fx[:, 0] ** 2 + Fx[:, 1] ** 2 + Fy[:, 0] ** 2 + Fy[:, 1] ** 2
        )
        P = Ka @ np.eye(3, 4), Kb @ np.concatenate([T[:3, :3], t[:, None]], 1)
        places = cv2.triangulatePoints(*P, points[0].T, points[1].T)
        places = places[:3] / np.where(np.abs(places[3]) > 1e-12, places[3], 1e-12)
        front = (places[2] > 0) & ((T[:3, :3] @ places + t[:, None])[2] > 0)
        yield name, float(np.median(distance)) if front.mean() > 0.5 else np.inf
