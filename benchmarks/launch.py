"""Measure what a call takes in all, before the device starts, and on it alone: python benchmarks/launch.py

Insertions and renders of the full-size model (--model demo: the bundled one). "After a wait": the device worked, and
the processor waited for it, right before the call, as a robot's does; "in a row": nothing was waited for, what the
call runs included. On a CPU, whose device is itself, only the first is told. With CUDA also: what the call's graph
takes when it is run again and again, and an insertion's kernels by kind.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from elvsm_core import Camera, Scene
from elvsm_core.benchmark.command import device_name
from elvsm_core.benchmark.measure import FRAME, Stopwatch, model_of, pose
from elvsm_core.checkpoint import resolve_device, resolve_dtype
from elvsm_core.cuda import graphs

KINDS = {"products": ("nvjet", "gemm", "cutlass"), "attention": ("_attend", "flash", "cudnn")}


class Launches:
    """Notes when graphs, or what runs in their place, are launched."""

    def __init__(self) -> None:
        self.first = 0.0
        run = graphs.Graphs.run

        def noting(lane_graphs: graphs.Graphs, *arguments: object) -> object:
            self.first = self.first or time.perf_counter()
            return run(lane_graphs, *arguments)  # type: ignore[arg-type]

        graphs.Graphs.run = noting  # type: ignore[method-assign, assignment]

    def before(self, call: Callable[[], object], prepare: Callable[[], object], count: int) -> float:
        """Return the median microseconds from the call to its first launch."""
        times = []
        for _ in range(count):
            prepare()
            self.first, start = 0.0, time.perf_counter()
            call()
            times.append(self.first - start)
        return 1e6 * float(np.median(times))


def replays(graph: torch.cuda.CUDAGraph, count: int = 20) -> float:
    """Return the milliseconds of a graph that is run again and again."""
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(count):
            graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / count)
    return float(np.median(times))


def kernels(graph: torch.cuda.CUDAGraph, count: int = 10) -> str:
    """Return how many kernels a graph has, and the microseconds of each kind."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(count):
            graph.replay()
        torch.cuda.synchronize()
    rows = [row for row in profile.key_averages() if row.device_time_total]
    sums = dict.fromkeys([*KINDS, "others"], 0.0)
    for row in rows:
        kind = next((k for k, names in KINDS.items() if any(n in row.key for n in names)), "others")
        sums[kind] += row.device_time_total / count
    number = sum(row.count for row in rows) // count
    return f"{number} kernels: " + ", ".join(f"{kind} {us:.0f} us" for kind, us in sums.items())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="efficient-lvsm", help="preset or weights (efficient-lvsm)")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, cpu (auto)")
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    device = resolve_device(options.device)
    dtype = resolve_dtype("auto", device)
    model = model_of(options.model, device, dtype)
    height, width = model.config.image_size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    def camera(step: int) -> Camera:
        return Camera(width, width, width / 2, height / 2, width, height, pose(step))

    watch, cuda = Stopwatch(device, options.repeats), device.type == "cuda"
    scene = Scene(model, 65, (height, width), FRAME, engine="fused")
    scene.warm_up(view_counts=(2, 4, 8, 16), target_counts=(1, 8))
    launches = Launches()
    print(f"{options.model}, {dtype}, {device_name(device)}, torch {torch.__version__}")
    for views, targets in ((2, 0), (2, 1), (8, 1), (16, 1), (4, 8), (8, 8)):
        while len(scene) < views:
            scene.insert(image, camera(len(scene)))
        while len(scene) > views:
            scene.evict(scene.views[-1])
        last, own = scene.views[-1], camera(views - 1)
        cameras = [camera(3 * i) for i in range(targets)]
        engine = scene._engine
        if targets:
            call: Callable[[], object] = lambda cameras=cameras: scene.render(cameras)  # noqa: E731
            captured = engine._decoder._captured.get((views, True, targets, (height, width)))
        else:
            call = lambda last=last, own=own: scene.replace(last, image, own)  # noqa: E731
            captured = engine._encoder._captured.get(1)

        def work(call: Callable[[], object] = call) -> None:
            call()
            watch.wait()

        what = f"render {targets} from {views}" if targets else "insert"
        line = f"{what:18} in all {watch(call)[0]:.3f} ms; "
        line += f"before the launch: after a wait {launches.before(call, work, options.repeats):5.0f} us"
        if cuda:
            line += f", in a row {launches.before(call, lambda: None, options.repeats):5.0f} us"
        if captured is not None:
            line += f"; on the device {replays(captured[0]):.3f} ms"
        print(line, flush=True)
        if captured is not None and not targets:
            print(f"{'':18} {kernels(captured[0])}")


if __name__ == "__main__":
    main()
