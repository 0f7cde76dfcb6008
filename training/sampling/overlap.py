"""How much two cameras see of the same: the overlap of their frusta, for photos that follow no path.

Depths are not known, or one typical distance for each frame is: points at half, once and twice that distance stand for
what a frame sees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..data.store import FrameError, PosedScene

GRID = 5
"""Points across the image, each way."""
DEPTHS = (0.5, 1.0, 2.0)
"""Of the typical distance."""
TURNED = np.cos(np.deg2rad(75))
"""Views that are turned farther than this from each other see different sides of things."""
SAMPLED = 8
"""Depth images that are looked at to find out how far away things are."""


def relative_intrinsics(scene: PosedScene) -> NDArray[np.float64]:
    """Return fx, fy, cx, cy [N, 4] in fractions of the image's width and height; without a size, as if centred."""
    if scene.relative:
        return scene.intrinsics
    if scene.sizes is not None:
        return scene.intrinsics / np.tile(scene.sizes.astype(np.float64), 2)
    return scene.intrinsics / (2 * np.tile(scene.intrinsics[:, 2:], 2))


def typical_distances(scene: PosedScene) -> NDArray[np.float64]:
    """Return how far away lies what each frame sees [N], in the unit of the poses.

    From the scene's own points, else from some of its depths, else from where the cameras look together; frames without
    an answer get the median of the others.
    """
    out = np.full(len(scene), np.nan)
    if scene.distance is not None:
        out = scene.distance().copy()
    if not np.isfinite(out).any() and scene.depth is not None:
        for frame in np.unique(np.linspace(0, len(scene) - 1, SAMPLED).round().astype(int)):
            try:
                depth = scene.depth(int(frame))
            except FrameError:
                continue
            if depth is not None and (depth > 0).any():
                out[frame] = np.median(depth[depth > 0])
    if not np.isfinite(out).any():
        out[:] = _common_distance(np.linalg.inv(scene.w2c))
    out[~np.isfinite(out)] = np.nanmedian(out)
    return out


def _common_distance(c2w: NDArray[np.float64]) -> float:
    """Return the distance to the point that most cameras look at; where there is none, five of their spacings."""
    centres, axes = c2w[:, :3, 3], c2w[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    point = np.linalg.lstsq(across.sum(0), (across @ centres[:, :, None]).sum(0)[:, 0], rcond=1e-6)[0]
    depth = ((point - centres) * axes).sum(1)
    spread = np.linalg.norm(centres - np.median(centres, 0), axis=1)
    if (depth > 0).mean() > 0.8 and np.median(depth) < 20 * np.median(spread):
        return float(np.median(depth[depth > 0]))
    apart = np.linalg.norm(centres[:, None] - centres[None, : min(len(centres), 200)], axis=-1)
    apart[apart == 0] = np.inf
    nearest = apart.min(1)
    nearest = nearest[np.isfinite(nearest)]
    return 5 * float(np.median(nearest)) if len(nearest) else 1.0


def overlaps(
    w2c: NDArray[np.float64], relative: NDArray[np.float64], distances: NDArray[np.float64], frame: int
) -> NDArray[np.float64]:
    """Return how much each frame sees of what one frame sees, and the reverse, the smaller share [N] in 0 to 1.

    w2c [N, 4, 4]; relative [N, 4] fractions of the image's size; distances [N] in the unit of the poses.
    """
    c2w = np.linalg.inv(w2c)
    theirs = _points(relative, distances)  # [N, P, 3] in each camera
    mine = theirs[frame] @ c2w[frame, :3, :3].T + c2w[frame, :3, 3]
    there = np.einsum("nij,pj->npi", w2c[:, :3, :3], mine) + w2c[:, None, :3, 3]
    seen = _inside(there, relative).mean(1)
    world = np.einsum("nij,npj->npi", c2w[:, :3, :3], theirs) + c2w[:, None, :3, 3]
    here = world @ w2c[frame, :3, :3].T + w2c[frame, :3, 3]
    sees = _inside(here, np.broadcast_to(relative[frame], relative.shape)).mean(1)
    turned = c2w[:, :3, 2] @ c2w[frame, :3, 2] < TURNED
    return np.where(turned, 0.0, np.minimum(seen, sees))


def _points(relative: NDArray[np.float64], distances: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = (np.arange(GRID) + 0.5) / GRID
    u, v, z = (a.ravel() for a in np.meshgrid(steps, steps, DEPTHS, indexing="ij"))
    fx, fy, cx, cy = relative.T[..., None]
    z = z * distances[:, None]
    return np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1)


def _inside(points: NDArray[np.float64], relative: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which points [N, P, 3], in the axes of N cameras, these see."""
    x, y, z = np.moveaxis(points, -1, 0)
    fx, fy, cx, cy = relative.T[..., None]
    front = z > 1e-9
    z = np.where(front, z, 1.0)
    u, v = x / z * fx + cx, y / z * fy + cy
    return front & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
