"""What a model in training makes of a few samples that stay the same: inputs, truth and render side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import elvsm_core as ec
from elvsm_core.files.atomic import write_bytes

from ..data.conversion import encode
from ..procedural.scenes import SceneBatch
from ..sampling.recipe import Sample

SHOWN_INPUTS, SHOWN_TARGETS = 4, 3
GAP = 4


def held_out(scenes: SceneBatch, count: int, inputs: int, device: torch.device) -> list[Sample]:
    """Return the first `count` of the procedural test scenes as samples of one scene each, inputs first."""
    made = []
    for i in range(min(count, len(scenes.images))):
        images = scenes.images[i : i + 1].to(device).float() / 255
        c2w = ec.normalize_poses(scenes.c2w[i : i + 1].double()).float().to(device)
        k = scenes.fxfycxcy[i : i + 1].float().to(device)
        parts = [x[:, chosen] for chosen in (slice(inputs), slice(inputs, None)) for x in (images, c2w, k)]
        made.append(Sample(*parts))
    return made


@torch.no_grad()
def sheet(model: ec.EfficientLVSM, samples: Sequence[Sample]) -> NDArray[np.uint8]:
    """Render samples of one scene each: a row for each, its inputs, then truth and render in pairs.

    Returns uint8 [H, W, 3].
    """
    half = model.device.type == "cuda" and model.dtype == torch.float32
    rows = []
    for s in samples:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            made = model(
                s.images, s.c2w, s.fxfycxcy, s.target_c2w[:, :SHOWN_TARGETS], s.target_fxfycxcy[:, :SHOWN_TARGETS],
                s.size,
            )  # fmt: skip
        pairs = [x for m in range(made.shape[1]) for x in (s.target_images[0, m, :3], made[0, m])]
        rows.append(_row([*s.images[0, :SHOWN_INPUTS, :3], *pairs]))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return np.concatenate(padded)[:-GAP]


def _row(images: Sequence[Tensor]) -> NDArray[np.uint8]:
    pictures = [(x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy() for x in images]
    height = max(picture.shape[0] for picture in pictures)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, GAP), (0, 0))) for p in pictures]
    return np.concatenate(padded, 1)[:, :-GAP]


def write_sheet(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a sheet as JPEG, whole or not at all. Raises OSError where there is no room."""
    write_bytes(path, encode(Image.fromarray(rgb)))
