"""The published evaluation's report: pictures of some scenes, rendered once more, and videos between their inputs."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import elvsm_core as ec
from elvsm_report.gallery import Card, Gallery, Target
from elvsm_report.page import RGB

from ..sampling.samples import EvaluationSamples
from .protocol import SceneResult, Summary, render, stack
from .trajectory import TrajectoryError, interpolate, spiral

log = logging.getLogger(__name__)

TITLE = "Efficient-LVSM on RealEstate10K"
FILM_FRAMES, FILM_RATE = 48, 24
"""Rendered frames of a video, which plays them forwards and then backwards, and frames per second."""
CHUNK = 8


def choose(results: Sequence[SceneResult], count: int) -> list[str]:
    """Return the scenes that are shown: a third of them the worst by PSNR, the others evenly from worst to best."""
    ranked = [result.scene for result in sorted(results, key=lambda result: result.mean("psnr"))]
    if len(ranked) <= count:
        return ranked
    worst = count // 3
    rest = np.linspace(worst, len(ranked) - 1, count - worst).round().astype(int)
    return ranked[:worst] + [ranked[i] for i in rest]


def spread(shown: Sequence[str], count: int) -> set[str]:
    """Return `count` of the scenes that are shown, evenly, both ends among them."""
    places = np.linspace(0, len(shown) - 1, min(count, len(shown))).round().astype(int)
    return {shown[i] for i in places}


def _rgb(image: Tensor) -> RGB:
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


@torch.no_grad()
def film(model: ec.EfficientLVSM, batch: Mapping[str, Tensor], amp: bool = True) -> list[RGB]:
    """Render frames along the path of one scene's inputs, or on a spiral in front of a single one.

    batch: of one scene, from `protocol.stack`. Returns uint8 RGB frames that end where they began. Raises
    TrajectoryError where there is no such path.
    """
    c2w, intrinsics = (batch[f"input_{name}"][0].double().cpu().numpy() for name in ("c2w", "fxfycxcy"))
    if len(c2w) > 1:
        poses, cameras = interpolate(c2w, intrinsics, max(2, FILM_FRAMES // (len(c2w) - 1)))
    else:
        poses = spiral(c2w[0], FILM_FRAMES)
        cameras = np.repeat(intrinsics, len(poses), axis=0)
    frames: list[RGB] = []
    for first in range(0, len(poses), CHUNK):
        part = slice(first, first + CHUNK)
        views = dict(batch)
        for name, values in (("c2w", poses[part]), ("fxfycxcy", cameras[part])):
            views[f"target_{name}"] = torch.from_numpy(values).float().to(model.device)[None]
        frames += [_rgb(image) for image in render(model, views, amp)[0]]
    return frames + frames[-2:0:-1]


def encode_film(frames: Sequence[RGB]) -> bytes:
    """Return the frames as an MP4 file's bytes; sides are made even, as the format needs them."""
    from elvsm_report.video import write_video

    height, width = (side - side % 2 for side in frames[0].shape[:2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_video(path, (frame[:height, :width] for frame in frames), FILM_RATE)
        return path.read_bytes()


def _numbered(sample: Mapping[str, Any], part: str) -> list[str]:
    return [f"frame {int(number)}" for number in sample[f"{part}_frame"]]


def card(
    model: ec.EfficientLVSM, sample: Mapping[str, Any], result: SceneResult, filmed: bool, amp: bool
) -> Card:
    """Return a scene's card: its inputs, and its targets beside their renders, with the metrics of `result`."""
    batch = stack([sample], model.device)
    renders = render(model, batch, amp)[0]
    targets = [
        Target(
            name, _rgb(truth), _rgb(made), {metric: values[i] for metric, values in result.metrics.items()}
        )
        for i, (name, truth, made) in enumerate(
            zip(_numbered(sample, "target"), batch["target_image"][0], renders, strict=True)
        )
    ]
    inputs = [_rgb(image) for image in batch["input_image"][0]]
    means = {metric: result.mean(metric) for metric in result.metrics}
    video = None
    if filmed:
        try:
            video = encode_film(film(model, batch, amp))
        except (
            TrajectoryError,
            RuntimeError,
            OSError,
        ) as error:  # no such path, or an ffmpeg that does not run
            log.warning("no video of scene %s: %s", result.scene, error)
    names = _numbered(sample, "input")
    return Card(result.scene, means, list(zip(names, inputs, strict=True)), targets, video)


def cards(
    model: ec.EfficientLVSM,
    samples: EvaluationSamples,
    results: Mapping[str, SceneResult],
    shown: Sequence[str],
    films: int,
    amp: bool = True,
) -> Iterator[Card]:
    """Yield the cards of the scenes `shown`, `films` of them with a video.

    Scenes that cannot be read any more are left out.
    """
    filmed = spread(shown, films)
    places = {key: place for place, key in enumerate(samples.keys)}
    for key in shown:
        sample = samples[places[key]]
        if "error" not in sample:
            yield card(model, sample, results[key], key in filmed, amp)


def make_gallery(
    model: ec.EfficientLVSM,
    samples: EvaluationSamples,
    summary: Summary,
    count: int,
    films: int,
    facts: Sequence[tuple[str, str]],
    amp: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Gallery:
    """Return the report of an evaluation, with pictures of `count` scenes and videos of `films` of these.

    progress is called with (done, of all).
    """
    facts = list(facts)
    if films and importlib.util.find_spec("imageio_ffmpeg") is None:
        films = 0
        facts.append(("videos", "left out, they need the package imageio-ffmpeg: pip install 'elvsm[eval]'"))
    results = {result.scene: result for result in summary.scenes}
    shown = choose(summary.scenes, count)
    made: list[Card] = []
    for item in cards(model, samples, results, shown, films, amp):
        made.append(item)
        if progress is not None:
            progress(len(made), len(shown))
    scenes = [
        (result.scene, {name: result.mean(name) for name in summary.means}) for result in summary.scenes
    ]
    return Gallery(TITLE, summary.means, scenes, made, summary.failed, facts)
