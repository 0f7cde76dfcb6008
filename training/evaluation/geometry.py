"""Measure a model's depth and confidence heads on drawn test scenes, whose geometry is known exactly.

python -m training.evaluation.geometry --checkpoint FILE --scenes 100
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import elvsm_core as ec

from ..evaluate import procedural_scenes
from ..procedural.scenes import SceneBatch
from ..sampling.visibility import seen_by_inputs

BINS = 15  # of the calibration error
WITHIN = 0.05


@dataclass(frozen=True)
class GeometryScores:
    """Depth where an input sees the pixel, confidence and squared error everywhere.

    relative, median: mean and median of the relative error of depth. within: share of pixels with less than WITHIN.
    roc: area under the ROC of confidence for "seen"; calibration: expected calibration error. seen: share of pixels.
    psnr_seen, psnr: dB, of the pixels that are seen and of all.
    """

    relative: float
    median: float
    within: float
    roc: float
    calibration: float
    seen: float
    psnr_seen: float
    psnr: float

    def __str__(self) -> str:
        return (
            f"depth where seen: relative error {self.relative:.3f}, median {self.median:.3f}, within {WITHIN:.0%} "
            f"{self.within:.1%}; confidence: area under the ROC {self.roc:.3f}, calibration error "
            f"{self.calibration:.4f}; "
            f"{self.psnr_seen:.2f} dB where seen ({self.seen:.1%}), {self.psnr:.2f} dB in all"
        )


def area_under_roc(score: Tensor, truth: Tensor) -> float:
    """Return how likely a true one's score [n] is above a false one's, ties counting half; NaN if all are alike."""
    _, place, count = score.double().unique(return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count - 1) / 2)[place]
    yes = float(truth.sum())
    no = len(truth) - yes
    return (float(rank[truth].sum()) - yes * (yes + 1) / 2) / (yes * no) if yes and no else float("nan")


def calibration_error(probability: Tensor, truth: Tensor) -> float:
    """Return the mean difference of probability and frequency over BINS equal bins, weighted by what is in them."""
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    count = torch.zeros(BINS, dtype=torch.float64).scatter_add_(
        0, bins, torch.ones(len(bins), dtype=torch.float64)
    )
    gap = torch.zeros(BINS, dtype=torch.float64).scatter_add_(0, bins, probability.double() - truth.double())
    return float(gap.abs().sum() / count.sum())


@torch.no_grad()
def score_geometry(
    model: ec.EfficientLVSM, scenes: SceneBatch, inputs: int, chunk: int = 8
) -> GeometryScores:
    """Score the views behind the first `inputs` ones of each scene; poses get the published normalisation.

    Raises ValueError for a model without geometry heads.
    """
    device = model.device
    size = (scenes.images.shape[-2], scenes.images.shape[-1])
    relative, confidence, truth, errors = [], [], [], []
    for first in range(0, len(scenes.images), chunk):
        part = slice(first, first + chunk)
        world = scenes.c2w[part].double()
        local = ec.normalize_poses(world)
        reach = [(x[:, :, :3, 3] - x[:, :1, :3, 3]).norm(dim=-1).amax(1) for x in (local, world)]
        c2w, true, k = local.float().to(device), world.float().to(device), scenes.fxfycxcy[part].to(device)
        images, depth = scenes.images[part].to(device).float() / 255, scenes.depth[part].to(device)
        encoded = model.encode_scenes(images[:, :inputs], c2w[:, :inputs], k[:, :inputs])
        made = model.decode_geometry(encoded, c2w[:, inputs:], k[:, inputs:], size)
        known = (depth[:, :inputs], true[:, :inputs], k[:, :inputs])
        seen = seen_by_inputs(*(x[:, inputs:].contiguous() for x in (depth, true, k)), *known)
        model_depth = depth[:, inputs:] * (reach[0] / reach[1]).float().to(device)[:, None, None, None]
        relative.append(((made.depth - model_depth).abs() / model_depth)[seen].cpu())
        confidence.append(made.confidence.flatten().cpu())
        truth.append(seen.flatten().cpu())
        errors.append((made.images - images[:, inputs:]).square().mean(2).flatten().cpu())
    off, p, y, e = (torch.cat(x) for x in (relative, confidence, truth, errors))

    def decibels(x: Tensor) -> float:
        return float(-10 * torch.log10(x.double().mean().clamp_min(1e-12)))

    return GeometryScores(
        float(off.mean()), float(off.sort().values[len(off) // 2]), float((off < WITHIN).float().mean()),
        area_under_roc(p, y), calibration_error(p, y), float(y.float().mean()), decibels(e[y]), decibels(e),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="training.evaluation.geometry", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="weights with geometry heads")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=4)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    try:
        model = ec.load_model(args.checkpoint, device=args.device)
        scenes = procedural_scenes(args.scenes, model.config.image_size, args.inputs, device=model.device)
        print(
            f"{args.scenes} drawn scenes, {args.inputs} inputs: {score_geometry(model, scenes, args.inputs)}"
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
