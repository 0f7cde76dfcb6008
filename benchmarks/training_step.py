"""Time the parts of a training step on procedural scenes: drawing, sampling, each shape of batch; then whole steps.

python benchmarks/training_step.py --config config/train/demo_256.yaml data.assets=FOLDER init=null data.pool=64

Settings are those of training.train. The weights are thrown away.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch

import elvsm_core as ec
from elvsm_training.loop import TERMS, Averaged, Trainer
from elvsm_training.losses.objective import Objective
from elvsm_training.sampling.shaped import shaped_sample
from elvsm_training.sampling.sources import ProceduralSource
from elvsm_training.settings import load_settings
from elvsm_training.train import compile_blocks, make_model, prepare


def milliseconds(device: torch.device, function: Callable[[], object], repeat: int = 5) -> float:
    """Return the mean time of a call, after one that does not count."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    function()
    wait()
    start = time.perf_counter()
    for _ in range(repeat):
        function()
    wait()
    return 1000 * (time.perf_counter() - start) / repeat


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config")
    parser.add_argument(
        "--steps", type=int, default=200, help="whole steps in a row, with their share of drawing"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    settings = load_settings(args.config, args.overrides)
    device = ec.checkpoint.resolve_device(settings.device)
    begin = time.perf_counter()
    loss = settings.loss
    objective = Objective(
        loss.config(0.0, settings.optim.edge), loss.perceptual_file, loss.lpips_file, loss.lpips_targets
    ).to(device)
    model = make_model(settings, device)
    averaged = Averaged(model, settings.optim.ema)
    if settings.compile:
        compile_blocks(model, attention=settings.attention)
    source = ProceduralSource(settings, 0, device)
    trainer = Trainer(settings, model, averaged, objective, None, source, device)
    prepare(trainer, settings.compile, 1)
    print(f"set up in {time.perf_counter() - begin:.0f} s", flush=True)
    trainer.advance(0.0, 0)
    draw = milliseconds(device, source.pool.refresh, 4)
    plan = milliseconds(device, lambda: next(source.pool.stream), 4)
    print(f"drawing {settings.data.draw_batch} scenes of {settings.data.views} views: {draw:.0f} ms, of which "
          f"{plan:.0f} ms waiting for plans")  # fmt: skip
    for shape in settings.sampling.shapes:
        scenes = source.pool.sample(shape.batch, source.dice)

        def sample(shape=shape, scenes=scenes):  # type: ignore[no-untyped-def]
            return shaped_sample(scenes, shape, settings.sampling, source.dice)

        made = sample()
        trainer.work = 0.0
        prepared = milliseconds(device, sample)
        step = milliseconds(device, lambda made=made: trainer.accumulate(made))  # type: ignore[misc]
        flops = trainer.work / 6
        print(
            f"{shape.inputs:2d} inputs, {shape.targets} targets {shape.crop} of {shape.size}, {shape.batch} scenes: "
            f"sampling {prepared:.1f} ms, forward and backward {step:.1f} ms, "
            f"{1000 * shape.batch / step:.0f} scenes/s, {flops / step / 1e9:.0f} TFLOP/s",
            flush=True,
        )
    update = milliseconds(device, lambda: trainer.optimiser.step(1e-6))
    print(f"optimiser {update:.1f} ms, averaging {milliseconds(device, lambda: averaged.update(0)):.1f} ms")
    trainer.scenes, terms = 0, torch.zeros((), device=device)
    start = time.perf_counter()
    for _ in range(args.steps):
        terms = trainer.advance(0.1, 0)
    last = terms.tolist()
    seconds = time.perf_counter() - start
    print(
        f"{args.steps} steps: {1000 * seconds / args.steps:.1f} ms a step, {trainer.scenes / seconds:.0f} scenes/s"
    )
    print("last terms: " + ", ".join(f"{name} {value:.4g}" for name, value in zip(TERMS, last, strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
