"""Render a recorded walk online with one choice of the scene's frame: the figures in docs/decisions.md.

ELVSM_TEST_DATA=FOLDER python benchmarks/frame_policy.py --window 4 --reach 0.75 --limit 1 --max-views 4

FOLDER holds office_walk/. Frames become keyframes as in the node; from the second keyframe on, every other
one is rendered from what was seen before.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import numpy as np
import torch

import elvsm_core as ec
from elvsm_core.frame import MODEL_RANGE
from training.evaluate import load_frames

DISTANCE, ANGLE = 0.15, np.deg2rad(10)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--window", type=int, default=ec.FramePolicy.window)
    parser.add_argument("--reach", type=float, default=0.75, help="share of the trained range")
    parser.add_argument(
        "--limit", type=float, default=1.0, help="in trained ranges; -1: a frame for every request"
    )
    parser.add_argument("--max-views", type=int, default=4)
    parser.add_argument("--frames", type=int, default=120)
    args = parser.parse_args()
    policy = dataclasses.replace(
        ec.FramePolicy(), window=args.window, reach=args.reach * MODEL_RANGE, limit=args.limit * MODEL_RANGE
    )
    model = ec.load_model("demo", device="cpu")
    walk = load_frames(str(Path(os.environ["ELVSM_TEST_DATA"]) / "office_walk"), model.config.image_size)
    scene = ec.Scene(model, policy=policy)
    renders, copies, fits, frame = [], [], 0, None
    first = slice(args.frames)
    for image, T, k in zip(walk.images[first], walk.c2w[first], walk.fxfycxcy[first], strict=True):
        pixels = image.permute(1, 2, 0).contiguous()
        camera = ec.Camera(*k.tolist(), pixels.shape[1], pixels.shape[0], T.double().numpy())
        if ec.keyframes.admit(camera.T_world_cam, scene.poses, DISTANCE, ANGLE):
            scene.insert(pixels, camera)
            fits += scene.frame is not frame
            frame = scene.frame
            continue
        if len(scene) < 2:
            continue
        nearest = scene.views[ec.keyframes.nearest(camera.T_world_cam, scene.poses, DISTANCE, ANGLE)[0]]
        rendered = torch.from_numpy(scene.render([camera], args.max_views).images[0])
        truth = pixels.permute(2, 0, 1)[None] / 255
        for guess, scores in ((rendered, renders), (scene.keyframe(nearest).image, copies)):
            scores.append(float(ec.metrics.psnr(guess.permute(2, 0, 1)[None] / 255, truth)))
    print(f"{len(scene)} keyframes, frame fitted {fits} times, {len(renders)} renders")
    print(f"render {np.mean(renders):.2f} dB, nearest keyframe {np.mean(copies):.2f} dB")


if __name__ == "__main__":
    main()
