"""Measure attention to views with their keys in 1 to 8 parts: python benchmarks/attention.py (CUDA)

What `fused.Tuning` says of a device comes from here: for each number of targets and views, the microseconds of one
layer of the full-size model at 256x256, merging included, where the views lie side by side and where they are
scattered over 64 slots.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from elvsm_core.benchmark.command import device_name
from elvsm_core.config import PRESETS
from elvsm_core.cuda import ops

SLOTS = 64
PARTS = (1, 2, 4, 8)


def graph_of(call: Callable[[], object], count: int) -> torch.cuda.CUDAGraph:
    """Return a graph of so many calls in a row."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            call()
    return graph


def in_turn(graphs: dict[int, torch.cuda.CUDAGraph], count: int, repeats: int) -> dict[int, float]:
    """Return the median microseconds of a call of each graph; they take turns."""
    times: dict[int, list[float]] = {parts: [] for parts in graphs}
    for _ in range(repeats):
        for parts, graph in graphs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            graph.replay()
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[parts].append(begin.elapsed_time(end) / count * 1e3)
    return {parts: float(np.median(of_parts)) for parts, of_parts in times.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 2, 3, 4, 8])
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64], help=f"{SLOTS} at most")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("what is measured here runs on a CUDA device alone, and PyTorch finds none")
    config, device = PRESETS["efficient-lvsm"], torch.device("cuda")
    tokens = config.tokens(config.image_size)
    torch.manual_seed(0)

    def normalised(*shape: int) -> torch.Tensor:
        heads = torch.randn(*shape, config.heads, config.head_dim, device=device)
        return F.normalize(heads, dim=-1) * config.head_dim**0.5

    layer = normalised(2, SLOTS, tokens).bfloat16()
    print(f"{device_name(device)}, torch {torch.__version__}; microseconds by the number of parts")
    for targets in options.targets:
        q = (normalised(1, targets * tokens) * ops.query_scale(config.head_dim)).bfloat16()
        for views in options.views:
            for direct in (True, False):
                slots = (torch.arange(views) if direct else torch.randperm(SLOTS)[:views]).int().to(device)
                count = 20 if targets * views < 64 else 5
                graphs = {
                    parts: graph_of(lambda: ops.attend_views(q, layer, slots, direct, parts, True), count)  # noqa: B023
                    for parts in PARTS
                    if views % parts == 0
                }
                times = in_turn(graphs, count, options.repeats)
                where = "side by side" if direct else "scattered"
                figures = "  ".join(f"{parts}: {us:7.1f}" for parts, us in times.items())
                print(f"{targets} targets, {views:2} views {where:12}  {figures}", flush=True)


if __name__ == "__main__":
    main()
