"""The training loop: gradients over one or more batches, the step, and the state that a restart needs."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import elvsm_core as ec
from elvsm_core.model import Decoded

from . import checkpoints
from .compilation import fused
from .distributed import Clock, rank, world
from .losses.aligner import Aligner
from .losses.objective import Objective
from .losses.pixels import geometry_errors
from .monitoring.monitor import Monitor, training_flops
from .optim import Optimiser, learning_rate
from .sampling.recipe import Sample
from .sampling.sources import SampleSource
from .settings import TrainSettings

LOSSES = ("loss", "mse", "perceptual", "lpips", "repa", "depth", "confidence")
TERMS = (*LOSSES, "norm", "dropped")


class Averaged:
    """An exponential moving average of a model's weights, with a short memory at first."""

    def __init__(self, model: ec.EfficientLVSM, decay: float, every: int = 4) -> None:
        self.decay, self.every = decay, every
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.source: list[Tensor] = list(model.parameters())
        self.average: list[Tensor] = list(self.model.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after gradient step `step` into the average."""
        if self.decay > 0 and step % self.every:
            return
        decay = min(self.decay**self.every, (step + 1) / (step + 40)) if self.decay > 0 else 0.0
        torch._foreach_lerp_(self.average, self.source, 1 - decay)


class Trainer:
    """A model in training, and all that its next step depends on."""

    def __init__(
        self,
        settings: TrainSettings,
        model: ec.EfficientLVSM,
        averaged: Averaged,
        objective: Objective,
        aligner: Aligner | None,
        source: SampleSource,
        device: torch.device,
    ) -> None:
        self.settings, self.model, self.averaged, self.device = settings, model, averaged, device
        self.objective, self.aligner, self.source = objective, aligner, source
        projectors = aligner.projectors if aligner is not None else None
        self.optimiser = Optimiser(model, settings.model.width, settings.optim, projectors)
        self.step = 0
        self.progress = 0.0  # share of the run that is over
        self.seconds = 0.0  # of the run, up to the checkpoint that it goes on from
        self.work = 0.0  # floating-point operations since they were last read
        self.scenes = 0  # of this process, since they were last read

    def accumulate(self, sample: Sample) -> Tensor:
        """Add a batch's gradients, its share of the step's; returns the terms of LOSSES."""
        s = self.settings
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            image, geometry = self._render(sample)
            alignment = self.aligner(sample) if self.aligner is not None else None
            weight = None
            if sample.seen is not None and (s.loss.unseen != 1.0 or geometry is not None):
                weight = torch.where(sample.seen, 1.0, s.loss.unseen)
            values = self.objective(
                image, sample.target_images, alignment, lpips=self.progress >= s.loss.lpips_from, weight=weight,
                precise=sample.precise, lpips_targets=sample.lpips,
            )  # fmt: skip
            loss = values.total
            depth = confidence = loss.new_zeros(())
            if geometry is not None and weight is not None and s.loss.depth + s.loss.confidence > 0:
                depth, confidence = fused(geometry_errors, image.is_cuda)(
                    geometry.log_depth, geometry.seen_logit, sample.target_depth, sample.seen, weight
                )
                loss = loss + s.loss.depth * depth + s.loss.confidence * confidence
        (loss / s.accumulate).backward()
        self.work += training_flops(s.model, sample)
        self.scenes += len(sample.images)
        terms = (loss, values.mse, values.perceptual, values.lpips, values.repa, depth, confidence)
        return torch.stack([term.detach().float() for term in terms]) / s.accumulate

    def _render(self, sample: Sample) -> tuple[Tensor, Decoded | None]:
        target = sample.target_c2w, sample.target_fxfycxcy, sample.size
        if not self.settings.model.geometry_heads:
            return self.model(sample.images, sample.c2w, sample.fxfycxcy, *target), None
        encoded = self.model.encode_scenes(sample.images, sample.c2w, sample.fxfycxcy)
        decoded = self.model.decode_geometry(encoded, *target)
        return decoded.images, decoded

    def gradients(self) -> Tensor:
        """Compute the averaged and clipped gradients of the next step; returns the terms of TERMS."""
        flat, o = self.optimiser.gradients, self.settings.optim
        flat.zero()
        terms = torch.zeros(len(LOSSES), device=self.device)
        for _ in range(self.settings.accumulate):
            terms += self.accumulate(self.source.next(self.step))
        flat.average()
        loss = terms[0].clone()
        if o.repair and world() > 1:
            dist.all_reduce(loss)  # a loss that is not finite on one rank is none on all
        norm, dropped = flat.clip(o.clip, o.skip, loss if o.repair else None, o.repair)
        return torch.cat([terms, norm[None], dropped[None]])

    def advance(self, progress: float, steps: int) -> Tensor:
        """Make one step; returns its terms."""
        self.progress = progress
        terms, optim = self.gradients(), self.settings.optim
        if not (optim.exact_skip and bool(terms[-1])):
            self.optimiser.step(learning_rate(optim, self.step, progress, steps))
        self.averaged.update(self.step)
        self.step += 1
        return terms

    def warm_up(self) -> None:
        """Run every shape once before the clock starts; the weights stay as they are."""
        for sample in self.source.shapes():
            self.accumulate(sample)
        self.work, self.scenes = 0.0, 0
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def save(self, clock: Clock, keep: int) -> None:
        """Write a checkpoint; all ranks call it at the same step. Raises CheckpointError."""
        own = {
            "source": self.source.state_dict(),
            "torch": torch.get_rng_state(),
        }
        ranks = clock.gather(own)
        if rank() != 0:
            return
        model = dict(self.model.state_dict())
        if self.aligner is not None:
            # The published names; loaders of the model alone leave them out.
            projectors = self.aligner.projectors.state_dict()
            model |= {f"repa_projector.{name}": tensor for name, tensor in projectors.items()}
        payload = {
            "model": model,
            "average": self.averaged.model.state_dict(),
            "optimizer": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": time.monotonic() - clock.start,
            "ranks": ranks,
            "settings": json.dumps(checkpoints.signature(self.settings, world())),
        }
        checkpoints.save(Path(self.settings.out), self.step, payload, keep)

    def restore(self, payload: Mapping[str, Any]) -> None:
        """Take over what `save` wrote."""
        prefix = "repa_projector."
        own = {name: x for name, x in payload["model"].items() if not name.startswith(prefix)}
        self.model.load_state_dict(own)
        self.averaged.model.load_state_dict(payload["average"])
        if self.aligner is not None:
            projectors = {
                n.removeprefix(prefix): x for n, x in payload["model"].items() if n.startswith(prefix)
            }
            self.aligner.projectors.load_state_dict(projectors)
        self.optimiser.load_state_dict(payload["optimizer"])
        self.step, self.seconds = payload["step"], payload["seconds"]
        mine = payload["ranks"][rank()]
        self.source.load_state_dict(mine["source"], self.step * self.settings.accumulate)
        torch.set_rng_state(mine["torch"])


def run(trainer: Trainer, monitor: Monitor | None, steps: int) -> Path | None:
    """Train until the time or the steps are over; returns the export's path on rank 0, None elsewhere."""
    s, device = trainer.settings, trainer.device
    clock = Clock(s.minutes, steps, s.out, trainer.seconds)
    total = torch.zeros(len(TERMS), device=device)
    last, last_step, saved = time.monotonic(), trainer.step, trainer.step
    next_eval = trainer.seconds + s.eval_minutes * 60
    next_checkpoint = trainer.seconds + s.checkpoint_minutes * 60
    exported = (Path(s.out) / "before_decay.safetensors").exists() and trainer.step > 0
    while (progress := clock.update(trainer.step)) < 1.0:
        total += trainer.advance(progress, steps)
        step = trainer.step
        if step % s.log_every == 0:
            count = step - last_step
            means = (total / count).tolist()
            total.zero_()
            now = time.monotonic()
            if monitor:
                values = dict(zip(TERMS, means, strict=True))
                values["psnr"] = -10 * torch.log10(torch.tensor(max(values["mse"], 1e-9))).item()
                values["dropped"] *= count
                values["rate"] = learning_rate(s.optim, step, progress, steps)
                scenes = trainer.scenes / count * world()
                monitor.progress(step, progress, values, (now - last) / count, trainer.work / count, scenes)
                if note := trainer.source.note():
                    monitor.line(note)
            trainer.work, trainer.scenes = 0.0, 0
            last, last_step = now, step
        falls = s.optim.schedule == "trapezoid" and progress >= 1 - s.optim.decay
        if monitor and s.keep_before_decay and falls and not exported:
            monitor.export(step, {}, "before_decay.safetensors")
            exported = True
        if monitor and time.monotonic() - clock.start > next_eval:
            monitor.export(step, monitor.evaluate(step))
            next_eval += s.eval_minutes * 60
        timed = s.checkpoint_minutes > 0 and clock.elapsed > next_checkpoint
        if timed or (s.checkpoint_steps > 0 and step % s.checkpoint_steps == 0):
            trainer.save(clock, s.keep)
            saved, next_checkpoint = step, clock.elapsed + s.checkpoint_minutes * 60
    if saved != trainer.step:
        trainer.save(clock, s.keep)
    path = None
    if monitor:
        path = monitor.export(trainer.step, monitor.evaluate(trainer.step))
        monitor.line(f"finished: {trainer.step} steps, {path}")
    if world() > 1:
        dist.barrier()
    return path
