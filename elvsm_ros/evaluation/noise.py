"""How much renders lose when the keyframes' poses are wrong by a little."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

import elvsm_core as ec
from elvsm_core import Keyframe
from elvsm_ros.evaluation.baselines import psnr
from elvsm_ros.evaluation.journal import NO_PICTURE, Journal, Record
from elvsm_ros.evaluation.results import HeldOutFrame

LEVELS = ((0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (5.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.0, 2.0))
"""Centimetres and degrees by which every keyframe is displaced and turned, in a direction of its own."""
FRAMES = 60
"""Held-out frames that are rendered at each level, at most."""


def disturbed(camera: ec.Camera, metres: float, degrees: float, rng: np.random.Generator) -> ec.Camera:
    """Return a camera displaced by `metres` in a random direction, turned by `degrees` about a random axis."""
    direction, axis = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    T = camera.T_world_cam.copy()
    T[:3, 3] += metres * direction
    T[:3, :3] = T[:3, :3] @ Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    return camera.at(T)


def sensitivity(
    make_scene: Callable[[], ec.Scene],
    keyframes: Sequence[Keyframe],
    views: Sequence[HeldOutFrame],
    max_views: int | None,
    journal: Journal,
    step: Callable[[], None] = lambda: None,
    levels: Sequence[tuple[float, float]] = LEVELS,
) -> list[dict[str, float]]:
    """Return the mean PSNR (dB) of offline renders by level: {"centimetres", "degrees", "psnr"}.

    The directions are the same at every level and in every run. journal: keeps what is known. step: called after
    each level.
    """
    chosen = [
        views[k] for k in np.unique(np.linspace(0, len(views) - 1, min(FRAMES, len(views))).astype(int))
    ]
    rows = []
    for centimetres, degrees in levels:
        name = f"noise-{centimetres:g}-{degrees:g}"
        record = journal.get(name)
        if record is None:
            rng = np.random.default_rng(0)
            scene = make_scene()
            for keyframe in keyframes:
                camera = disturbed(keyframe.camera, centimetres / 100, degrees, rng)
                scene.insert(keyframe.image, camera, keyframe.stamp)
            values = [psnr(scene.render([v.camera], max_views).images[0], v.truth) for v in chosen]
            record = Record(NO_PICTURE, {"psnr": float(np.mean(values))})
            journal.put(name, record)
        rows.append({"centimetres": centimetres, "degrees": degrees, **record.values})
        step()
    return rows
