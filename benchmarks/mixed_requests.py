"""Measure requests of several clients while keyframes come in: python benchmarks/mixed_requests.py

Starts a node as a process of its own and clients as others. A camera walks to and fro and its images become
keyframes; each client asks for views from near places where the camera has been, of one of several kinds after
another: sizes, numbers of poses, encodings. Printed for each kind and for all together; "of its own kind" divides
every time by the median of its kind, so that its p99 tells how evenly requests are served, whatever they ask for.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import threading
import time
from typing import Any

import numpy as np

# isort: split
import harness  # before rclpy
from harness import STEP, Figures, Peer

from elvsm.srv import RenderViews

KINDS = [  # width, height, poses, encoding
    (256, 256, 1, "rgb8"),
    (256, 256, 1, "jpeg"),
    (128, 128, 1, "png"),
    (320, 240, 1, "jpeg"),
    (256, 256, 2, "rgb8"),
    (256, 256, 4, "jpeg"),
]
SHARES = [0.3, 0.2, 0.1, 0.15, 0.15, 0.1]
WALK = 20
"""Steps from one end of the walk to the other."""
ASIDE = 0.1
"""Metres along and across the walk, at most, from a place where the camera has been to a view that is asked for."""


def place(step: int) -> tuple[float, float]:
    """Return where the camera is after so many steps: to and fro along x, each lap a little aside."""
    lap, along = divmod(step, WALK)
    return STEP * (along if lap % 2 == 0 else WALK - along), 0.1 * (lap % 20)


def client(number: int, count: int, rate: float, step: Any, results: Any, start: Any) -> None:
    """Ask `count` times, `rate` times a second (0: as soon as the last answer is there); a process of its own."""
    rng = np.random.default_rng(number)
    peer = Peer(f"client_{number}")
    peer.wait_for_service()
    rows, failures = [], 0
    for kind in range(len(KINDS)):  # also warms the node up for each
        peer.call(_request(KINDS[kind], rng, step.value))
    start.wait()
    due = time.perf_counter() + rng.uniform(0, 1 / rate if rate else 0)
    for _ in range(count):
        if rate:
            due += rng.exponential(1 / rate)
            time.sleep(max(0.0, due - time.perf_counter()))
            due = max(due, time.perf_counter())  # what is late is not made up for
        kind = int(rng.choice(len(KINDS), p=SHARES))
        try:
            response, elapsed = peer.call(_request(KINDS[kind], rng, step.value))
            rows.append((kind, elapsed, response.latency_ms))
        except (RuntimeError, TimeoutError) as error:
            print(f"client {number}: {error}")
            failures += 1
    peer.close()
    results.put((rows, failures))


def _request(
    kind: tuple[int, int, int, str], rng: np.random.Generator, keyframes: int
) -> RenderViews.Request:
    width, height, poses, encoding = kind
    x, y = place(int(rng.integers(1, keyframes + 1))) + rng.uniform(-ASIDE, ASIDE, 2)
    return RenderViews.Request(
        poses=[harness.pose_at(x + 0.02 * i, y) for i in range(poses)], width=width, height=height,
        encoding=encoding,
    )  # fmt: skip


def feed(peer: Peer, rate: float, step: Any, stop: threading.Event) -> None:
    """Show pictures, each of which becomes a keyframe, at a steady rate: 640x480, JPEG."""
    while not stop.wait(1 / rate):
        _advance(peer, step)


def _advance(peer: Peer, step: Any) -> None:
    peer.show(harness.photo((480, 640), step.value % 4), "jpeg", harness.pose_at(*place(step.value + 1)))
    step.value += 1


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    harness.add_options(parser)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--requests", type=int, default=1000, help="of all clients together (1000)")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="requests a second and client; 0: no pause (0)"
    )
    parser.add_argument("--keyframes", type=int, default=32, help="in the scene at the start (32)")
    parser.add_argument("--keyframe-rate", type=float, default=5.0, help="new ones a second; 0: none (5)")
    parser.add_argument(
        "--capacity",
        type=int,
        default=0,
        help="encoded views that the device holds; 0: what the node chooses (0)",
    )
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    settings = {
        "image_transport": "compressed", "max_keyframes": 400, "keyframe_max_rate": 0.0, "keyframe_distance": 0.09,
        "capacity": options.capacity,
    }  # fmt: skip
    step = context.Value("i", 0)
    with (
        harness.weights(options.model) as model,
        harness.node(model, device=options.device, max_views=options.max_views, **settings),
    ):
        peer = Peer()
        peer.wait_for_service()
        time.sleep(1)  # the subscriptions follow the service
        for count in range(1, options.keyframes + 1):
            _advance(peer, step)
            if not harness.wait_for(lambda count=count: len(peer.arrivals) >= count, 10):
                raise TimeoutError(f"the node has {len(peer.arrivals)} keyframes of {count} after 10 s")
        results, start = context.Queue(), context.Event()
        clients = [
            context.Process(
                target=client,
                args=(
                    i,
                    options.requests // options.clients,
                    options.rate,
                    step,
                    results,
                    start,
                ),
            )
            for i in range(options.clients)
        ]
        for process in clients:
            process.start()
        time.sleep(5)
        stop = threading.Event()
        feeder = threading.Thread(target=feed, args=(peer, options.keyframe_rate, step, stop), daemon=True)
        before = len(peer.arrivals)
        if options.keyframe_rate:
            feeder.start()
        began = time.perf_counter()
        start.set()
        rows, failures = [], 0
        for _ in clients:
            part, failed = results.get(timeout=240)
            rows += part
            failures += failed
        seconds = time.perf_counter() - began
        stop.set()
        inserted = len(peer.arrivals) - before
        for process in clients:
            process.join(20)
        peer.close()
    _report(options, rows, failures, seconds, inserted)


def _report(
    options: argparse.Namespace,
    rows: list[tuple[int, float, float]],
    failures: int,
    seconds: float,
    inserted: int,
) -> None:
    by_kind = collections.defaultdict(list)
    for kind, elapsed, _ in rows:
        by_kind[kind].append(elapsed)
    figures = []
    for kind in sorted(by_kind):
        width, height, poses, encoding = KINDS[kind]
        figures.append(Figures.of(f"{poses} x {width}x{height} {encoding}", by_kind[kind]))
    figures.append(Figures.of("all", [elapsed for _, elapsed, _ in rows]))
    figures.append(Figures.of("all, in the node (latency_ms)", [latency for *_, latency in rows]))
    medians = {kind: np.median(times) for kind, times in by_kind.items()}
    figures.append(
        Figures.of("of its own kind (ratio)", [elapsed / medians[kind] for kind, elapsed, _ in rows])
    )
    pace = f"{options.rate:g} requests/s each" if options.rate else "without pause"
    harness.report(
        f"{options.clients} clients {pace}: {len(rows)} requests, {failures} failed, {len(rows) / seconds:.1f}/s; "
        f"{inserted} keyframes meanwhile; max_views {options.max_views}, capacity {options.capacity}, "
        f"model {options.model}, on {harness.machine(options.device)}",
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
