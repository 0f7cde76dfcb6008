"""Compute how evenly mixed requests could be served at best: python benchmarks/mixed_limit.py

The requests of `mixed_requests.py`, clients without pause, and a node that costs nothing but the device's time: it
serves them in the order of their arrival, or the large ones earlier, and never lets the device idle. Times of the
device are those of the full-size model on an H200 (docs/notebook/gpu.md). Nothing runs but this calculation.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
from mixed_requests import KINDS, SHARES

BASE, TARGET = 0.41, 1.04
"""Milliseconds that a decode from eight views takes, and more of them for each target of 256x256."""
ELSEWHERE = 3.0
"""Milliseconds of a round trip that no other request waits for: client, DDS, conversions."""
TOGETHER = 8
"""Targets that are decoded at once at most."""
ENCODE = 0.7
"""Milliseconds to encode a view that a request lacks, among several."""
INSERT, PERIOD = 0.8, 200.0
"""Milliseconds to encode a keyframe, and between two of them."""


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """share: of requests that find views to be encoded first, `views` on average. python: milliseconds
    of a thread that all requests go through before the device. lead: milliseconds by which a request counts as having
    come earlier for each millisecond that it takes the device. together: requests for one size that wait are decoded
    together, whichever keyframes they use."""

    share: float = 0.0
    views: float = 4.5
    python: float = 0.0
    lead: float = 0.0
    together: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """ready: for the device; asked: by the client; encode: milliseconds until its views are encoded."""

    ready: float
    asked: float
    targets: int
    aspect: float
    encode: float


def device_time(requests: list[Request]) -> float:
    """Return the milliseconds that requests for one size take, decoded together."""
    targets = sum(one.targets for one in requests)
    # Rendered with the model's short side.
    return BASE + TARGET * targets * requests[0].aspect + sum(one.encode for one in requests)


def latencies(given: Assumptions, clients: int, count: int, seed: int = 0) -> np.ndarray:
    """Return milliseconds from each request to its answer."""
    rng = np.random.default_rng(seed)
    waiting: list[Request] = []
    found: list[float] = []
    device_free = thread_free = inserted = 0.0

    def ask(now: float) -> None:
        nonlocal thread_free
        width, height, poses, _ = KINDS[int(rng.choice(len(KINDS), p=SHARES))]
        encode = ENCODE * given.views * rng.uniform(0.5, 1.5) if rng.random() < given.share else 0.0
        thread_free = max(now + ELSEWHERE / 2, thread_free) + given.python
        waiting.append(Request(thread_free, now, poses, max(width, height) / min(width, height), encode))

    for start in np.sort(rng.uniform(0, 5, clients)):
        ask(float(start))
    while len(found) < count:
        now = max(device_free, min(one.ready for one in waiting))
        while inserted < now:
            device_free = max(device_free, inserted) + INSERT
            inserted += PERIOD
            now = max(device_free, now)
        there = [one for one in waiting if one.ready <= now]
        there.sort(key=lambda one: one.ready - given.lead * device_time([one]))
        served = there[:1]
        for one in there[1:] if given.together else ():
            if one.aspect == served[0].aspect and sum(r.targets for r in [*served, one]) <= TOGETHER:
                served.append(one)
        device_free = now + device_time(served)
        answered = device_free + ELSEWHERE / 2
        for one in served:
            waiting.remove(one)
            found.append(answered - one.asked)
        for _ in served:
            ask(answered)
    return np.array(found)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--requests", type=int, default=50_000)
    options = parser.parse_args()
    for what, given in {
        "all views are encoded": Assumptions(),
        "4.5% of requests find 4.5 views to encode": Assumptions(share=0.045),
        "the same, large ones earlier (lead 1)": Assumptions(share=0.045, lead=1.0),
        "the same, large ones much earlier (lead 3)": Assumptions(share=0.045, lead=3.0),
        "the same, all that wait decoded together": Assumptions(share=0.045, together=True),
        "4.5%, and 2.5 ms of Python each": Assumptions(share=0.045, python=2.5),
        "4.5%, and 5 ms of Python each": Assumptions(share=0.045, python=5.0),
    }.items():
        p50, p99 = np.percentile(latencies(given, options.clients, options.requests), [50, 99])
        print(f"{what:45} p50 {p50:5.1f}  p99 {p99:5.1f} ms  p99/p50 {p99 / p50:.2f}")


if __name__ == "__main__":
    main()
