"""The published evaluation as a command: from paths to files of results, in one process or under torchrun."""

from __future__ import annotations

import dataclasses
import datetime
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import elvsm_core as ec
from elvsm_core.files.atomic import write_bytes
from elvsm_report.gallery import gallery_page, incremental_page

from ..data.formats import open_store
from ..sampling.samples import EvaluationSamples, SampleConfig, read_index
from .incremental import evaluate_incrementally, write_rows
from .protocol import Protocol, Summary, evaluate, summarize, write_summary
from .report import make_gallery

REPORT, INCREMENTAL_REPORT = "report.html", "incremental.html"


@dataclasses.dataclass(frozen=True)
class PublishedEvaluation:
    """What is evaluated, and where the results go.

    data: RealEstate10K as `open_store` reads it; index: the evaluation index. inputs, targets: views of a scene.
    image_size (height, width), pixels; bf16_rays: round rays as the published evaluation does. batch: scenes at a
    time; workers: processes that decode images, for each process that renders. limit: only so many scenes, the first
    ones in the order of their names (0: all). report: scenes with pictures in report.html (0: no report); films: how
    many of these get a video. checkpoint: what the report calls the weights.
    """

    data: str
    index: str
    out: str
    inputs: int = 2
    targets: int = 3
    image_size: tuple[int, int] = (256, 256)
    bf16_rays: bool = False
    batch: int = 4
    workers: int = 2
    limit: int = 0
    report: int = 60
    films: int = 3
    checkpoint: str = ""
    protocol: Protocol = dataclasses.field(default_factory=Protocol)


def open_samples(settings: PublishedEvaluation, patch_size: int) -> EvaluationSamples:
    """Open the scenes that the index lists. Raises DatasetError where data or index cannot be used."""
    height, width = settings.image_size
    config = SampleConfig(
        inputs=settings.inputs,
        targets=settings.targets,
        image_size=height,
        image_width=None if width == height else width,
        patch_size=patch_size,
        target_has_input=False,
    )
    index = read_index(settings.index)  # first, because opening a large dataset takes a while
    samples = EvaluationSamples(open_store(settings.data), index, config)
    if settings.limit > 0:
        samples.keys = samples.keys[: settings.limit]
    return samples


def with_rays(model: ec.EfficientLVSM, bf16_rays: bool) -> ec.EfficientLVSM:
    """Return the model, with its rays rounded to bfloat16 or not."""
    if model.config.bf16_rays == bf16_rays:
        return model
    with torch.device("meta"):
        other = ec.EfficientLVSM(dataclasses.replace(model.config, bf16_rays=bf16_rays))
    other.load_state_dict(model.state_dict(), assign=True)
    return other.train(model.training).requires_grad_(False)


def processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes; starts their group under torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        # Nothing is exchanged but "done"; the slowest process may be hours behind.
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    return int(os.environ.get("RANK", "0")), world


def run(model: ec.EfficientLVSM, settings: PublishedEvaluation) -> Summary | None:
    """Evaluate, or go on with an evaluation that was interrupted; writes metrics.json, the tables and report.html.

    Returns the summary on rank 0, None elsewhere. Raises a ValueError that says what to do for data, an index,
    weights or a folder that cannot be used, and OSError where results cannot be written: all that was evaluated
    before stays.
    """
    rank, world = processes()
    samples = open_samples(settings, model.config.patch_size)
    out = Path(settings.out)
    model = with_rays(model, settings.bf16_rays)
    with _Bar(rank) as advance:
        evaluate(
            model, samples, out, settings.protocol, rank, world, settings.batch, settings.workers, advance
        )
    if world > 1:
        dist.barrier()
    if rank != 0:
        return None
    summary = summarize(out, samples)
    write_summary(summary, out)
    if settings.report > 0:
        with _Bar(rank, "report") as advance:
            gallery = make_gallery(
                model, samples, summary, settings.report, settings.films, facts(model, samples, settings),
                settings.protocol.amp, advance,
            )  # fmt: skip
        write_bytes(out / REPORT, gallery_page(gallery).encode())
    return summary


def facts(
    model: ec.EfficientLVSM, samples: EvaluationSamples, settings: PublishedEvaluation
) -> list[tuple[str, str]]:
    """Return what the report says about how its figures came about."""
    c, protocol, (height, width) = model.config, settings.protocol, settings.image_size
    switches = ("rays", c.bf16_rays), ("renders", protocol.bf16_images), ("LPIPS", protocol.bf16_lpips)
    rounded = [name for name, on in switches if on]
    autocast = protocol.amp and model.device.type == "cuda" and model.dtype == torch.float32
    rows = [
        ("weights", f"{settings.checkpoint} ({c.width} wide, {c.layers} layers, patches of {c.patch_size})"),
        ("data", f"{settings.data}, {len(samples.store)} scenes"),
        ("index", settings.index),
        ("views", f"{settings.inputs} inputs, {settings.targets} targets of {width}x{height} pixels"),
        ("computed on", f"{model.device}, {'bfloat16 autocast' if autocast else str(model.dtype)[6:]}"),
        ("rounded to bfloat16", ", ".join(rounded) or "nothing"),
    ]
    if protocol.resize is not None:
        rows.append(("measured at", f"{protocol.resize}x{protocol.resize} pixels"))
    rows += [(f"scenes left out: {why}", str(len(keys))) for why, keys in samples.dropped.items() if keys]
    return rows


def run_incrementally(model: ec.EfficientLVSM, settings: PublishedEvaluation) -> str:
    """Evaluate after each added view, in one process because it measures time; returns the table's text."""
    _, world = processes()
    if world > 1:
        raise ValueError(
            "incremental evaluation measures time and runs in one process: start it without torchrun"
        )
    samples = open_samples(settings, model.config.patch_size)
    model = with_rays(model, settings.bf16_rays)
    scenes = (samples[i] for i in range(len(samples)))
    rows, failed = evaluate_incrementally(model, scenes, settings.protocol)
    Path(settings.out).mkdir(parents=True, exist_ok=True)
    write_rows(rows, failed, Path(settings.out))
    if settings.report > 0:
        figures = [dataclasses.asdict(row) for row in rows]
        report = incremental_page(figures, failed, facts(model, samples, settings))
        write_bytes(Path(settings.out) / INCREMENTAL_REPORT, report.encode())
    lines = [f"{rows[0].scenes} scenes, {settings.targets} targets each, {len(failed)} failed"]
    return "\n".join([*lines, *map(str, rows)])


class _Bar:
    """A progress bar on rank 0's terminal, nothing elsewhere."""

    def __init__(self, rank: int, name: str = "scenes") -> None:
        self.name = name
        self.shown = rank == 0 and sys.stderr.isatty()

    def __enter__(self) -> Callable[[int, int], None] | None:
        if not self.shown:
            return None
        from rich.console import Console
        from rich.progress import Progress

        self.progress = Progress(console=Console(stderr=True))
        self.progress.start()
        task = self.progress.add_task(self.name, total=None)

        def advance(done: int, total: int) -> None:
            self.progress.update(task, completed=done, total=total)

        return advance

    def __exit__(self, *_: Any) -> None:
        if self.shown:
            self.progress.stop()
