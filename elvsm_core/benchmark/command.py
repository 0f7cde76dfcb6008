"""Measure insertion and rendering against a plain baseline and the device's own ceilings.

python -m elvsm_core.benchmark                            full-size model, random weights, 256x256
python -m elvsm_core.benchmark --model demo --views 1 4   the bundled model, on whatever device there is
python -m elvsm_core.benchmark --size 512 512 --size 256 448 --keyframes 100 1000 10000 --insertions 10000
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import logging
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

from ..checkpoint import resolve_device, resolve_dtype
from .measure import Benchmark, BenchmarkRow, model_of
from .measure import flops as flops


def table(rows: Sequence[BenchmarkRow]) -> str:
    """Return rows as text. Ratio: baseline to median; of floor: floor to median."""
    lines = [
        f"{'what':28} {'size':>9} {'views':>5} {'targets':>7} {'median ms':>10} {'p99 ms':>8} "
        f"{'baseline':>9} {'ratio':>6} {'of floor':>8}"
    ]
    for row in rows:
        plain = f"{row.baseline_ms:9.2f}" if row.baseline_ms else f"{'':9}"
        ratio = f"{row.baseline_ms / row.median_ms:5.2f}x" if row.baseline_ms else f"{'':6}"
        share = f"{100 * row.floor_ms / row.median_ms:7.0f}%" if row.floor_ms else ""
        lines.append(
            f"{row.what:28} {f'{row.height}x{row.width}':>9} {row.views:5} {row.targets:7} "
            f"{row.median_ms:10.2f} {row.p99_ms:8.2f} {plain} {ratio} {share}"
        )
    return "\n".join(lines)


def plot(rows: Sequence[BenchmarkRow], title: str, path: str) -> None:
    """Draw milliseconds over views, one line for each kind of work; the format is the file name's.

    Raises SystemExit where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    size = rows[0].height, rows[0].width
    lines: dict[tuple[str, int], list[BenchmarkRow]] = {}
    for row in rows:
        if (row.height, row.width) == size and "keyframes" not in row.what and "mov" not in row.what:
            lines.setdefault((row.what, row.targets), []).append(row)
    for (what, targets), line in lines.items():
        views = [row.views for row in line]
        label = f"{what} {targets}" if targets else what
        (drawn,) = axes.plot(views, [row.median_ms for row in line], marker="o", label=label)
        plain = [row.baseline_ms for row in line if row.baseline_ms]
        if len(plain) == len(line):
            axes.plot(views, plain, "--", color=drawn.get_color(), label=f"{label}, baseline")
    axes.set(xscale="log", yscale="log", xlabel="views", ylabel="ms (median)", title=title)
    ticks = sorted({row.views for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="elvsm_core.benchmark", description="Measure insertion and rendering."
    )
    parser.add_argument(
        "--model", default="efficient-lvsm", help="preset with random weights, or weights to load"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, action="append", metavar=("H", "W"),
        help="image size, pixels (the model's); may be given several times",
    )  # fmt: skip
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--engine", default="auto", help="auto, eager or fused")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--keyframes", type=int, nargs="*", default=[], help="scene sizes for selection, 1000 say"
    )
    parser.add_argument("--insertions", type=int, default=0, help="insertions for the memory test, 10000 say")
    parser.add_argument("--repeats", type=int, help="calls for each figure (200 on CUDA, 30 on a CPU)")
    parser.add_argument("--no-baseline", action="store_true")
    for name, what in (
        ("json", "all"),
        ("csv", "the table"),
        ("plot", "a chart (png, svg, pdf)"),
    ):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write {what} to a file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    model = model_of(args.model, device, dtype)
    title = (
        f"{args.model}, {str(dtype).removeprefix('torch.')}, {device_name(device)}, torch {torch.__version__}"
    )
    print(title)
    result: dict[str, Any] = {"model": args.model, "dtype": str(dtype), "device": device_name(device)}
    result |= {"torch": torch.__version__, "ceilings": [], "rows": []}
    rows: list[BenchmarkRow] = []
    repeats = args.repeats or (200 if device.type == "cuda" else 30)
    for height, width in args.size or [model.config.image_size]:
        bench = Benchmark(
            model, (height, width), args.views, args.targets, repeats,
            with_baseline=not args.no_baseline, engine=args.engine,
        )  # fmt: skip
        rates = {f"{queries}x{keys}": rate for (queries, keys), rate in bench.ceilings.attention.items()}
        print(f"ceilings, TFLOP/s: matmul {bench.ceilings.matmul:.2f}; attention, queries x keys: ", end="")
        print(", ".join(f"{shape}: {rate:.2f}" for shape, rate in rates.items()))
        result["ceilings"].append(
            {"size": [height, width], "matmul": bench.ceilings.matmul, "attention": rates}
        )
        bench.insert_and_render()
        bench.selection(args.keyframes, max_views=8)
        print(table(bench.rows))
        rows += bench.rows
    result["rows"] = [dataclasses.asdict(row) for row in rows]
    if device.type == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated(device)
        print(f"peak device memory {result['peak_bytes'] / 1e9:.2f} GB")
    if args.insertions:
        memory = bench.memory(args.insertions)
        result["memory"] = dataclasses.asdict(memory)
        rest = memory.peak - memory.weights - memory.slots
        print(
            f"device memory over {memory.insertions} insertions: {memory.before / 1e6:.1f} MB -> "
            f"{memory.after / 1e6:.1f} MB; peak {memory.peak / 1e6:.1f} MB = weights {memory.weights / 1e6:.1f} + "
            f"slots {memory.slots / 1e6:.1f} + {rest / 1e6:.1f}"
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in dataclasses.fields(BenchmarkRow)])
            writer.writeheader()
            writer.writerows(dataclasses.asdict(row) for row in rows)
    if args.plot:
        plot(rows, title, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
