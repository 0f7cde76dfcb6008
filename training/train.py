"""Train an Efficient-LVSM on procedural scenes.

torchrun --nproc-per-node 4 -m training.train --config config/train/demo.yaml minutes=25 optim.lr=1e-3
python -m training.train --config config/train/demo.yaml        (one GPU, or the CPU)
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

import elvsm_core as ec
import elvsm_core.attention

from .evaluate import TEST_SEED, Frames, load_frames, neighbours, procedural_scenes, score
from .optim import Optimiser, learning_rate
from .pool import ScenePool
from .sampling import Sample, make_sample
from .settings import SettingsError, TrainSettings, load_settings
from .textures import make_texture_bank

OFFICE_TARGETS = range(4, 196, 4)  # of an evaluation walk; later frames are kept for final figures


class Clock:
    """The run's progress in [0, 1], the same on all ranks: rank 0's clock is passed on every few steps.

    A number in the file `minutes` of the run's folder replaces the setting while the training runs: a machine that is
    leased until some moment may turn out to have more time left, or less.
    """

    def __init__(self, minutes: float, steps: int, out: str, every: int = 10) -> None:
        self.minutes, self.steps, self.every = minutes, steps, every
        self.file = Path(out) / "minutes"
        self.start = time.monotonic()
        self.progress = 0.0
        self.group = dist.new_group(backend="gloo") if _world() > 1 else None

    def update(self, step: int) -> float:
        if step % self.every == 0:
            if _rank() == 0 and self.file.exists():
                with contextlib.suppress(ValueError, OSError):
                    self.minutes = max(0.01, float(self.file.read_text()))
            elapsed = (time.monotonic() - self.start) / (60 * self.minutes)
            value = torch.tensor(
                [max(elapsed, step / self.steps if self.steps else 0.0)], dtype=torch.float64
            )
            if self.group is not None:
                dist.broadcast(value, 0, group=self.group)
            self.progress = min(1.0, float(value))
        return self.progress


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _training_kernels(device_type: str, device_index: int | None, half: bool) -> tuple[SDPBackend, ...]:
    return (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def compile_blocks(model: ec.EfficientLVSM) -> None:
    """Compile the blocks in place, one compilation for all layers and all numbers of views."""
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = 64
    # One fixed choice: cuDNN's kernels plan every new shape anew, and training has many shapes.
    elvsm_core.attention.backends = _training_kernels  # type: ignore[assignment]
    for block in model.input_self_attn_blocks:
        block.compile(dynamic=True)
    for block in model.self_cross_blocks:
        block.compile(dynamic=True)
        block.cross_attn.keys_values = torch.compile(block.cross_attn.keys_values, dynamic=True)


def loss_of(image: Tensor, target: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """Return the training loss and the plain mean squared error of images [b, M, 3, H, W]."""
    mse = F.mse_loss(image, target)
    loss = mse
    if edge > 0:
        # Differences of neighbouring pixels, at two scales: flat colours alone don't make this small.
        error = (image - target).flatten(0, 1)
        for _ in range(2):
            loss = loss + edge * (error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean())
            error = F.avg_pool2d(error, 2)
    return loss, mse


class Averaged:
    """An exponential moving average of a model's weights, with a short memory at first."""

    def __init__(self, model: ec.EfficientLVSM, decay: float, every: int = 4) -> None:
        self.decay, self.every = decay, every
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.source: list[Tensor] = list(model.parameters())
        self.average: list[Tensor] = list(self.model.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        if self.decay > 0 and step % self.every:
            return
        decay = min(self.decay**self.every, (step + 1) / (step + 40)) if self.decay > 0 else 0.0
        torch._foreach_lerp_(self.average, self.source, 1 - decay)


class Monitor:
    """What rank 0 says and writes: progress lines, evaluations, exports."""

    def __init__(self, settings: TrainSettings, model: ec.EfficientLVSM, device: torch.device) -> None:
        self.settings, self.model, self.device = settings, model, device
        self.out = Path(settings.out)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "settings.json").write_text(json.dumps(dataclasses.asdict(settings), indent=1))
        self.log = logging.getLogger("training")
        data = settings.data
        tiles, texture_size = min(192, data.tiles), min(128, data.texture_size)
        self.scenes = procedural_scenes(
            settings.eval_scenes, data.size, device=device, tiles=tiles, texture_size=texture_size
        )
        self.frames: Frames | None = (
            load_frames(settings.frames, settings.data.size) if settings.frames else None
        )
        self.start = time.monotonic()

    def evaluate(self, step: int) -> dict[str, float]:
        """Score the averaged weights on the procedural test scenes and the walk, if there is one."""
        s = self.scenes
        result = {"procedural": float(score(self.model, s.images, s.c2w, s.fxfycxcy, 4).psnr.mean())}
        if self.frames is not None:
            for context in ((2, 4), (2,)):
                sample = neighbours(self.frames, OFFICE_TARGETS, context)
                scores = score(self.model, *sample, inputs=2 * len(context))
                result["walk " + ",".join(map(str, context))] = float(scores.psnr.mean())
                result["nearest " + ",".join(map(str, context))] = float(scores.nearest_psnr.mean())
        self.line(f"step {step} eval " + ", ".join(f"{k} {v:.2f} dB" for k, v in result.items()))
        return result

    def export(self, step: int, figures: dict[str, float]) -> None:
        metadata = {"steps": str(step), "figures": json.dumps(figures), "data": "procedural scenes"}
        ec.save_model(self.model, self.out / "model.safetensors", dtype=torch.bfloat16, metadata=metadata)

    def line(self, text: str) -> None:
        text = f"[{time.monotonic() - self.start:7.1f} s] {text}"
        self.log.info(text)
        with open(self.out / "log.txt", "a") as file:
            file.write(text + "\n")


def train(settings: TrainSettings) -> Path | None:
    """Run a training; returns the export's path on rank 0, None elsewhere."""
    rank, local = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    device = ec.checkpoint.resolve_device(settings.device)
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(settings.seed * 1000 + rank)
    shared = random.Random(settings.seed)  # choices that all ranks make alike
    start = time.monotonic()

    model = make_model(settings, device)
    raw = Averaged(model, settings.optim.ema)
    if settings.compile:
        compile_blocks(model)
    optimiser = Optimiser(model, settings.model.width, settings.optim)
    bank = make_texture_bank(
        settings.data.tiles, settings.data.texture_size, settings.seed * 77 + rank, device
    )
    seed = settings.seed * 10_000 + rank
    assert seed < TEST_SEED
    pool = ScenePool(settings.data, bank, torch.Generator().manual_seed(seed))
    drawn = _seconds(pool.refresh, device)
    dice = torch.Generator(device=device).manual_seed(seed)
    monitor = Monitor(settings, raw.model, device) if rank == 0 else None
    if monitor:
        count = sum(p.numel() for p in model.parameters())
        monitor.line(
            f"{count / 1e6:.1f} M parameters, {_world()} x {device}, set up in {time.monotonic() - start:.0f} s, "
            f"{1000 * drawn:.0f} ms to draw {settings.data.draw_batch} scenes of {settings.data.views} views"
        )
    _warm_up(model, optimiser, pool, dice, settings, device)
    if monitor:
        monitor.line(f"compiled after {time.monotonic() - start:.0f} s")

    clock = Clock(settings.minutes, settings.steps, settings.out)
    total = torch.zeros(4, device=device)  # loss, mse, norm, dropped steps since the last line
    last, last_step = time.monotonic(), 0
    next_eval = settings.eval_minutes * 60
    step, figures = 0, {}
    while True:
        progress = clock.update(step)
        if progress >= 1.0:
            break
        if step % settings.data.draw_every == 0:
            pool.refresh()
        inputs = shared.choices(settings.sampling.inputs, settings.sampling.input_shares)[0]
        size = settings.sampling.crop_size if shared.random() < settings.sampling.crop else settings.data.size
        sample = make_sample(*pool.sample(settings.batch, dice), inputs, settings.sampling, size, dice)
        loss, mse, norm, dropped = step_once(model, optimiser, sample, settings, device)
        optimiser.step(learning_rate(settings.optim, step, progress))
        raw.update(step)
        total += torch.stack([loss, mse, norm, dropped])
        step += 1
        if step % settings.log_every == 0:
            values = (total / settings.log_every).tolist()
            total.zero_()
            now = time.monotonic()
            pace = (now - last) / (step - last_step)
            last, last_step = now, step
            if monitor:
                memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
                psnr = -10 * torch.log10(torch.tensor(max(values[1], 1e-9))).item()
                monitor.line(
                    f"step {step} {100 * progress:.1f}% loss {values[0]:.5f} psnr {psnr:.2f} norm {values[2]:.3f} "
                    f"dropped {values[3] * settings.log_every:.0f} {1000 * pace:.1f} ms/step "
                    f"{settings.batch * _world() / pace:.0f} scenes/s "
                    f"{memory:.1f} GiB"
                )
        if monitor and time.monotonic() - clock.start > next_eval:
            figures = monitor.evaluate(step)
            monitor.export(step, figures)
            next_eval += settings.eval_minutes * 60
    path = None
    if monitor:
        figures = monitor.evaluate(step)
        monitor.export(step, figures)
        path = monitor.out / "model.safetensors"
        monitor.line(f"finished: {step} steps, {path}")
    if _world() > 1:
        dist.barrier()
    return path


def _seconds(function: Callable[[], None], device: torch.device) -> float:
    """Time a second call of a function."""
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.monotonic()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return time.monotonic() - start


def make_model(settings: TrainSettings, device: torch.device) -> ec.EfficientLVSM:
    """Build the model, from settings.init if given (its architecture must be that of settings.model)."""
    seed = torch.random.get_rng_state()
    torch.manual_seed(settings.seed)  # all ranks start from the same weights
    model = ec.EfficientLVSM(settings.model)
    torch.random.set_rng_state(seed)
    if settings.init:
        source = ec.load_model(settings.init, device="cpu", dtype="float32")
        model.load_published_state_dict(source.state_dict())
    return model.to(device).train()


def step_once(
    model: ec.EfficientLVSM,
    optimiser: Optimiser,
    sample: Sample,
    settings: TrainSettings,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute averaged and clipped gradients of one sample; returns loss, mse, gradient norm, dropped (0 or 1)."""
    optimiser.gradients.zero()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        image = model(
            sample.images, sample.c2w, sample.fxfycxcy, sample.target_c2w, sample.target_fxfycxcy, sample.size
        )
        loss, mse = loss_of(image, sample.target_images, settings.optim.edge)
    loss.backward()
    optimiser.gradients.average()
    norm, dropped = optimiser.gradients.clip(settings.optim.clip, settings.optim.skip)
    return loss.detach(), mse.detach(), norm, dropped


def _warm_up(
    model: ec.EfficientLVSM,
    optimiser: Optimiser,
    pool: ScenePool,
    dice: torch.Generator,
    settings: TrainSettings,
    device: torch.device,
) -> None:
    """Run every shape once before the clock starts; the weights stay as they are."""
    if not settings.compile:
        return
    sizes = {settings.data.size, *([settings.sampling.crop_size] if settings.sampling.crop > 0 else [])}
    for size in sizes:
        for inputs in settings.sampling.inputs:
            sample = make_sample(*pool.sample(settings.batch, dice), inputs, settings.sampling, size, dice)
            step_once(model, optimiser, sample, settings, device)
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="training.train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--config", default=None, help="YAML file of settings (training/settings.py describes them)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that differ from the file's"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = load_settings(args.config, args.overrides)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        train(settings)
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
