"""What a training says and writes on rank 0: lines, curves, evaluations, pictures, exports."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError

import elvsm_core as ec
from elvsm_core.benchmark.command import flops
from elvsm_report.progress import TrainingBar

from ..checkpoints import ResumeError
from ..evaluate import Frames, load_frames, neighbours, procedural_scenes, score
from ..evaluation.pictures import held_out, sheet, write_sheet
from ..sampling.recipe import Sample
from ..sampling.sources import SampleSource
from ..settings import TrainSettings
from .loggers import open_board

OFFICE_TARGETS = range(4, 196, 4)  # of an evaluation walk; later frames are kept for final figures
CONTEXTS = ((2, 4), (2,), (2, 4, 6, 8))  # distances of the input frames before and after a target

EVALUATION_INPUTS = 4

PEAKS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16 rates by the vendor's data sheets, FLOP/s, of devices whose name holds the key."""


def training_flops(config: ec.ModelConfig, sample: Sample) -> float:
    """Return the floating-point operations of a step on a sample: forward, and twice that backward.

    The model's own; losses and frozen networks are not counted.
    """
    b, views = sample.images.shape[:2]
    return 3.0 * b * sum(flops(config, sample.size, views, sample.target_images.shape[1], views))


def peak_flops(device: torch.device) -> float | None:
    """Return what the device's data sheet says, None for one that is not listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for key, rate in PEAKS.items() if key in name), None)


class Monitor:
    """Progress lines, curves, evaluations of the averaged weights, pictures, exports."""

    def __init__(
        self, settings: TrainSettings, model: ec.EfficientLVSM, device: torch.device, source: SampleSource
    ) -> None:
        self.settings, self.model, self.device = settings, model, device
        self.out = Path(settings.out)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "settings.json").write_text(json.dumps(dataclasses.asdict(settings), indent=1))
        self.log = logging.getLogger("training")
        self.board = open_board(settings.logger, self.out, dataclasses.asdict(settings))
        self.bar = TrainingBar()
        self.source = source
        self.samples: list[Sample] | None = None
        data = settings.data
        self.scenes = None
        if settings.eval_scenes:
            tiles, texture_size = min(192, data.tiles), min(128, data.texture_size)
            self.scenes = procedural_scenes(
                settings.eval_scenes, data.size, device=device, tiles=tiles, texture_size=texture_size
            )
        self.frames: Frames | None = (
            load_frames(settings.frames, settings.data.size) if settings.frames else None
        )
        self.peak = peak_flops(device)
        self.start = time.monotonic()

    def evaluate(self, step: int) -> dict[str, float]:
        """Score the averaged weights on the procedural test scenes and the walk, where there are such; show samples."""
        self.show(step)
        s = self.scenes
        result = {}
        if s is not None:
            result["procedural"] = float(
                score(self.model, s.images, s.c2w, s.fxfycxcy, EVALUATION_INPUTS).psnr.mean()
            )
        if self.frames is not None:
            for context in CONTEXTS:
                if len(self.frames.images) <= 2 * max(context):
                    continue
                sample = neighbours(self.frames, OFFICE_TARGETS, context)
                scores = score(self.model, *sample, inputs=2 * len(context))
                result["walk " + ",".join(map(str, context))] = float(scores.psnr.mean())
                result["nearest " + ",".join(map(str, context))] = float(scores.nearest_psnr.mean())
        if result:
            self.line(f"step {step} eval " + ", ".join(f"{k} {v:.2f} dB" for k, v in result.items()))
            self.scalars(
                step, {f"eval/{k.replace(' ', '_').replace(',', '_')}": v for k, v in result.items()}
            )
        return result

    def show(self, step: int) -> None:
        """Render samples that stay the same for the whole run into out/samples and onto the board."""
        count = self.settings.pictures
        if not count:
            return
        if self.samples is None:
            if self.scenes is not None:
                self.samples = held_out(self.scenes, count, EVALUATION_INPUTS, self.device)
            else:
                self.samples = self.source.shown(count)
        if not self.samples:
            return
        rgb = sheet(self.model, self.samples)
        path = self.out / "samples" / f"step-{step:09d}.jpg"
        try:
            write_sheet(path, rgb)
        except OSError as error:
            raise ResumeError(
                f"cannot write the picture {path} ({error}): make room, then start the same command again; it goes on "
                f"from the last checkpoint"
            ) from error
        if self.board is not None:
            self.board.picture(step, "samples", rgb)

    def close(self) -> None:
        """Take the progress bar away and end the board's files."""
        self.bar.stop()
        if self.board is not None:
            self.board.close()

    def export(self, step: int, figures: Mapping[str, float], name: str = "model.safetensors") -> Path:
        """Write the averaged weights to a file in `out`. Raises CheckpointError where there is no room for them."""
        data = "procedural scenes" if self.settings.data.source == "procedural" else "RealEstate10K"
        metadata = {"steps": str(step), "figures": json.dumps(figures), "data": data}
        path = self.out / name
        try:
            ec.save_model(self.model, path, dtype=torch.bfloat16, metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise ResumeError(
                f"cannot write the weights {path} ({error}): make room, then start the same command again; it goes on "
                f"from the last checkpoint"
            ) from error
        return path

    def progress(
        self, step: int, share: float, values: Mapping[str, float], seconds: float, work: float, scenes: float
    ) -> None:
        """Report means since the last line; seconds, work (floating-point operations of this device) and scenes (of
        all devices): per step."""
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        rate = work / seconds
        mfu = f" MFU {100 * rate / self.peak:.1f}%" if self.peak else ""
        extra = "".join(
            f" {k} {values[k]:.5f}"
            for k in ("perceptual", "lpips", "repa", "depth", "confidence")
            if values.get(k, 0.0) != 0.0
        )
        self.bar.update(share, f"step {step}, {values['psnr']:.2f} dB, {scenes / seconds:.0f} scenes/s")
        self.line(
            f"step {step} {100 * share:.1f}% loss {values['loss']:.5f} psnr {values['psnr']:.2f}{extra} "
            f"norm {values['norm']:.3f} dropped {values['dropped']:.0f} {1000 * seconds:.1f} ms/step "
            f"{scenes / seconds:.1f} scenes/s {rate / 1e12:.3g} TFLOP/s{mfu} {memory:.1f} GiB"
        )
        scalars = {f"train/{name}": value for name, value in values.items()}
        scalars |= {"speed/scenes_per_second": scenes / seconds, "speed/tflops": rate / 1e12}
        if self.peak:
            scalars["speed/mfu"] = rate / self.peak
        self.scalars(step, scalars)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name on the board."""
        if self.board is not None:
            self.board.scalars(step, values)

    def line(self, text: str) -> None:
        """Write a line to the log and to the terminal, with the seconds since the start."""
        text = f"[{time.monotonic() - self.start:7.1f} s] {text}"
        if not self.bar.line(text):
            self.log.info(text)
        with open(self.out / "log.txt", "a") as file:
            file.write(text + "\n")
