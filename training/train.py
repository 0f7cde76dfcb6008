"""Train an Efficient-LVSM on procedural scenes or on RealEstate10K.

torchrun --nproc-per-node 4 -m training.train --config config/train/demo.yaml minutes=25 optim.lr=1e-3
torchrun --nproc-per-node 8 -m training.train --config config/train/re10k_256.yaml data.re10k.path=re10k/train
python -m training.train --config config/train/demo.yaml        (one GPU, or the CPU)

A run that was stopped goes on where it was when the same command is started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend

import elvsm_core as ec
import elvsm_core.attention
from elvsm_core.checkpoint import GEOMETRY

from . import checkpoints
from .data.store import DatasetError
from .distributed import world
from .evaluate import DataError
from .loop import Averaged, Trainer, run
from .losses.aligner import Aligner
from .losses.objective import Objective
from .losses.repa import RepaError, Stream
from .losses.vgg import WeightFileError
from .monitoring.monitor import Monitor
from .procedural.photos import AssetError
from .sampling.selection import open_source, total_steps
from .settings import SettingsError, TrainSettings, load_settings

log = logging.getLogger("training")

KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def _flash(device_type: str, device_index: int | None, half: bool) -> tuple[SDPBackend, ...]:
    return KERNELS


def _cudnn(device_type: str, device_index: int | None, half: bool) -> tuple[SDPBackend, ...]:
    return (SDPBackend.CUDNN_ATTENTION, *KERNELS) if half else KERNELS


def compile_blocks(
    model: ec.EfficientLVSM, tapped: set[tuple[Stream, int]] | None = None, attention: str = "flash"
) -> None:
    """Compile the blocks in place, one compilation for all layers and all numbers of views.

    attention: "flash", or "cudnn" for few shapes, because cuDNN's kernels plan every new shape anew. tapped: blocks
    (stream, number from 1) that stay as they are, because something listens to them.
    """
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = 64
    # One fixed choice, so that nothing is decided while training.
    elvsm_core.attention.backends = _cudnn if attention == "cudnn" else _flash  # type: ignore[assignment]
    model._plucker = torch.compile(model._plucker, dynamic=True)  # type: ignore[method-assign]
    for number, block in enumerate(model.input_self_attn_blocks, start=1):
        if ("input", number) not in (tapped or set()):
            block.compile(dynamic=True)
    for number, block in enumerate(model.self_cross_blocks, start=1):
        if ("target", number) not in (tapped or set()):
            block.compile(dynamic=True)
        block.cross_attn.keys_values = torch.compile(block.cross_attn.keys_values, dynamic=True)


def make_model(settings: TrainSettings, device: torch.device) -> ec.EfficientLVSM:
    """Build the model, from settings.init if given (its architecture must be that of settings.model)."""
    seed = torch.random.get_rng_state()
    torch.manual_seed(settings.seed)  # all ranks start from the same weights
    model = ec.EfficientLVSM(settings.model)
    torch.random.set_rng_state(seed)
    if settings.init:
        source = ec.load_model(settings.init, device="cpu", dtype="float32")
        weights = source.state_dict()
        if settings.model.geometry_heads and not source.config.geometry_heads:
            log.info("%s has no geometry heads: they start from nothing", settings.init)
            weights |= {name: x for name, x in model.state_dict().items() if name.startswith(GEOMETRY)}
        model.load_published_state_dict(weights)
    return model.to(device).train()


def _check_alike(step: int) -> None:
    """Raise CheckpointError unless all processes go on from the same step."""
    steps: list[int] = [step]
    if world() > 1:
        steps *= world()
        dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        raise checkpoints.ResumeError(
            f"the processes found checkpoints of different steps ({sorted(set(steps))}): `out` must be a folder that "
            f"all nodes share"
        )


def prepare(trainer: Trainer, compiles: bool, rank: int) -> None:
    """Make the source ready and compile.

    Every other process does it in the other order, so that what one has compiled is in the cache when the next needs
    it, where processes see their GPU under the same number (one in CUDA_VISIBLE_DEVICES each).
    """
    parts = [trainer.source.prepare, *([trainer.warm_up] if compiles else [])]
    for part in reversed(parts) if rank % 2 == 0 else parts:
        part()


def train(settings: TrainSettings) -> Path | None:
    """Run a training, or go on with it; returns the export's path on rank 0, None elsewhere.

    Raises a ValueError that says what to do for data, weights or checkpoints that cannot be used.
    """
    rank, local = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    device = ec.checkpoint.resolve_device(settings.device)
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        # Not for products: what is still in float32 under autocast are poses, which TF32 would turn by 0.03 degrees.
        torch.backends.cudnn.allow_tf32 = True
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(settings.seed * 1000 + rank)
    start = time.monotonic()
    out = Path(settings.out)
    payload = None
    if settings.resume == "auto":
        payload = checkpoints.load_newest(out, checkpoints.signature(settings, world()))
        _check_alike(payload["step"] if payload is not None else 0)

    objective = Objective(
        settings.loss.config(settings.repa.weight, settings.optim.edge),
        settings.loss.perceptual_file,
        settings.loss.lpips_file,
        settings.loss.lpips_targets,
    ).to(device)
    # A run that goes on does not need the weights that it once started from.
    model = make_model(settings if payload is None else dataclasses.replace(settings, init=None), device)
    averaged = Averaged(model, settings.optim.ema)
    aligner = None
    if settings.repa.network != "none":
        aligner = Aligner(settings.repa, model, settings.seed, device)
    if settings.compile:
        compile_blocks(model, aligner.tapped if aligner else None, settings.attention)
    source = open_source(settings, rank, world(), device)
    trainer = Trainer(settings, model, averaged, objective, aligner, source, device)
    monitor = Monitor(settings, averaged.model, device, source) if rank == 0 else None
    if monitor and settings.resume == "none":
        checkpoints.put_aside(out)
    if monitor:
        count = sum(p.numel() for p in model.parameters())
        monitor.line(
            f"{count / 1e6:.1f} M parameters, {world()} x {device}, {source.description}; set up in "
            f"{time.monotonic() - start:.0f} s"
        )
    prepare(trainer, settings.compile, rank)
    if settings.compile and monitor:
        monitor.line(f"compiled after {time.monotonic() - start:.0f} s")
    if payload is not None:
        trainer.restore(payload)
        if monitor:
            monitor.line(f"goes on after step {trainer.step}, {trainer.seconds / 60:.1f} minutes")
    try:
        if monitor:
            monitor.bar.start()
        return run(trainer, monitor, total_steps(settings, source, world()))
    finally:
        if monitor:
            monitor.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", default=None, help="YAML file of settings (training/settings/ describes them)"
    )
    parser.add_argument("--perceptual", choices=("vgg19", "none"), help="short for loss.perceptual=...")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that differ from the file's"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    overrides = [*args.overrides, *([f"loss.perceptual={args.perceptual}"] if args.perceptual else [])]
    expected = (
        SettingsError, DataError, AssetError, DatasetError, WeightFileError, RepaError, ec.metrics.MetricError,
        ec.checkpoint.CheckpointError, checkpoints.ResumeError,
    )  # fmt: skip
    try:
        train(load_settings(args.config, overrides))
    except expected as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk
        print(f"error: {error}; the same command goes on from the last checkpoint", file=sys.stderr)
        return 1
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
