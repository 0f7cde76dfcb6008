"""Render a recorded walk in frames that are chosen in one way or another: the figures in docs/decisions.md.

ELVSM_TEST_DATA=FOLDER python benchmarks/frame_policy.py --reach 0.375 --turn 30
ELVSM_TEST_DATA=FOLDER python benchmarks/frame_policy.py --disturb

FOLDER holds office_walk/. Frames become keyframes as in the node. The first form renders the others as they come, from
what was seen before, in the frames that the scene chooses. The second renders some of them from the keyframes of the
whole walk, in a frame fitted to those used and then shrunk, moved or turned, and in one from the grid of frames.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from selection import FIRST, office

import elvsm_core as ec
from elvsm_core.frame import MODEL_RANGE
from elvsm_core.frame_policy import FrameGrid
from elvsm_core.rendering import Plan

DISTANCE, ANGLE = 0.2, float(np.deg2rad(15))
REACH = 0.75 * MODEL_RANGE
"""Where the farthest view lies in the frame that is disturbed."""

Poses = NDArray[np.float64]
Pick = Callable[[Poses, Poses], ec.SceneFrame]
"""Gives the frame for views used and targets."""


def psnr(scene: ec.Scene, camera: ec.Camera, truth: torch.Tensor, plan: Plan) -> float:
    image = torch.from_numpy(scene.render_async([camera], plan=plan).result().images).permute(0, 3, 1, 2)
    return float(ec.metrics.psnr(image / 255, truth.permute(2, 0, 1)[None] / 255))


def disturbed(
    scale: float = 1.0, turn: tuple[int, float] = (0, 0.0), move: tuple[int, float] = (0, 0.0)
) -> Pick:
    """Return a choice of frames: fitted, then its scale multiplied, turned about an axis of its anchor (degrees)
    and moved along one (model units).
    """

    def pick(used: Poses, targets: Poses) -> ec.SceneFrame:
        frame = ec.SceneFrame.fit(used, REACH, max_scale=8.0)
        local = np.eye(4)
        c, s = np.cos(np.deg2rad(turn[1])), np.sin(np.deg2rad(turn[1]))
        i, j = (turn[0] + 1) % 3, (turn[0] + 2) % 3
        local[i, i], local[i, j], local[j, i], local[j, j] = c, -s, s, c
        local[move[0], 3] = move[1] / (frame.scale * scale)
        return ec.SceneFrame(frame.T_world_anchor @ local, frame.scale * scale)

    return pick


ROWS: dict[str, Pick] = {
    "as fitted": disturbed(),
    "half the scale": disturbed(0.5),
    "a quarter of the scale": disturbed(0.25),
    "an eighth of the scale": disturbed(0.125),
    **{
        f"half, moved by 0.25 along {name}": disturbed(0.5, move=(axis, 0.25))
        for axis, name in enumerate("xyz")
    },
    **{f"yaw {angle}": disturbed(turn=(1, angle)) for angle in (10, 20, 45, 90)},
    "pitch 10": disturbed(turn=(0, 10)),
    "roll 10": disturbed(turn=(2, 10)),
    "of the grid": ec.FramePolicy().frame_for,
}


class Walk:
    """The recorded walk, and how its frames come to a scene."""

    def __init__(self, frames: int):
        self.model = ec.load_model("demo", device="cpu")
        walk = list(office(slice(frames), self.model.config.image_size))
        self.pixels = [torch.from_numpy(pixels) for pixels, _ in walk]
        self.cameras = [camera for _, camera in walk]

    def fill(self, scene: ec.Scene, held_out: Callable[[int], None]) -> None:
        """Make keyframes; call back for every frame that is none, once there are enough keyframes."""
        for index, (pixels, camera) in enumerate(zip(self.pixels, self.cameras, strict=True)):
            if ec.keyframes.admit(camera.T_world_cam, scene.poses, DISTANCE, ANGLE):
                scene.insert(pixels, camera)
            elif len(scene) >= FIRST:
                held_out(index)


def online(walk: Walk, policy: ec.FramePolicy, max_views: int) -> None:
    """Render as a robot would, and print quality and how often frames are changed and left."""
    scene = ec.Scene(walk.model, policy=policy)
    scores: list[float] = []
    frames: list[ec.SceneFrame | None] = []
    left = 0

    def render(index: int) -> None:
        nonlocal left
        if not frames or frames[-1] is not scene.frame:
            frames.append(scene.frame)
        plan = scene.plan([walk.cameras[index]], max_views)
        left += plan.frame is not None
        scores.append(psnr(scene, walk.cameras[index], walk.pixels[index], plan))

    walk.fill(scene, render)
    print(
        f"{np.mean(scores):.2f} dB, {len(scores)} renders, {left} of them in the frame of another place; "
        f"{len(scene)} keyframes, {len(frames)} frames of the scene"
    )


def sensitivity(walk: Walk, max_views: int, every: int, rows: list[str]) -> None:
    """Render in disturbed frames, and print the quality of each kind."""
    scene, held_out = ec.Scene(walk.model), []
    walk.fill(scene, held_out.append)
    scores: dict[str, list[float]] = {name: [] for name in rows}
    for index in held_out[::every]:
        camera = walk.cameras[index]
        views = scene.plan([camera], max_views).views
        used = np.stack([scene.keyframe(view).camera.T_world_cam for view in views])
        for name in rows:
            plan = Plan(views, ROWS[name](used, camera.T_world_cam[None]))
            scores[name].append(psnr(scene, camera, walk.pixels[index], plan))
    first = np.mean(scores[rows[0]])
    for name, values in scores.items():
        print(f"{name:32} {np.mean(values):6.2f} dB  {np.mean(values) - first:+.2f}  {len(values)} renders")


def main() -> None:
    """Run the command line."""
    default = ec.FramePolicy()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--window", type=int, default=default.window)
    parser.add_argument(
        "--reach", type=float, default=default.reach / MODEL_RANGE, help="share of the trained range"
    )
    parser.add_argument(
        "--limit", type=float, default=1.0, help="in trained ranges; -1: a frame for every request"
    )
    parser.add_argument("--turn", type=float, default=np.rad2deg(default.turn), help="degrees")
    parser.add_argument("--max-views", type=int, default=4)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--disturb", action="store_true")
    parser.add_argument("--every", type=int, default=3, help="of the frames, with --disturb (3)")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument(
        "--spread", type=float, nargs="+", default=[], help="with --disturb: other spreads of the grid, too"
    )
    args = parser.parse_args()
    for spread in args.spread:
        name = f"of a grid with spread {spread:g}"
        ROWS[name] = dataclasses.replace(default, grid=FrameGrid(spread=spread)).frame_for
        args.rows.append(name)
    walk = Walk(args.frames)
    if args.disturb:
        sensitivity(walk, args.max_views, args.every, args.rows)
        return
    policy = dataclasses.replace(
        default, window=args.window, reach=args.reach * MODEL_RANGE, limit=args.limit * MODEL_RANGE,
        turn=float(np.deg2rad(args.turn)),
    )  # fmt: skip
    online(walk, policy, args.max_views)


if __name__ == "__main__":
    main()
