"""Measure how long an image takes from its publication into the cache: python benchmarks/insert_latency.py

Starts a node as a process of its own and publishes images with poses that make each of them a keyframe. An
image is in the cache when ~/keyframe_list names its stamp; the time until that message has arrived here is
what is printed, so it holds both ways through DDS.
"""

from __future__ import annotations

import argparse
import time

# isort: split
import harness  # before rclpy
from harness import Figures, Peer

PATIENCE = 3.0


def measure(
    peer: Peer, encoding: str, size: tuple[int, int], count: int, period: float
) -> tuple[list[float], int]:
    """Return milliseconds of those images that became keyframes, and how many did not."""
    photos = [harness.photo(size, seed) for seed in range(8)]
    times, lost = [], 0
    for index in range(count):
        started = time.monotonic()
        stamp, published = peer.show(photos[index % len(photos)], encoding)
        if harness.wait_for(lambda stamp=stamp: stamp in peer.arrivals, PATIENCE):
            times.append((peer.arrivals[stamp] - published) * 1e3)
        else:
            lost += 1
        time.sleep(max(0.0, started + period - time.monotonic()))
    return times, lost


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    harness.add_options(parser)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width (480 640)")
    parser.add_argument("--count", type=int, default=100, help="images of each encoding (100)")
    parser.add_argument("--period", type=float, default=0.1, help="seconds between two images (0.1)")
    options = parser.parse_args()
    size = options.size[0], options.size[1]
    rows = []
    with harness.weights(options.model) as model:
        for encoding, transport in (("rgb8", "raw"), ("jpeg", "compressed")):
            # Few keyframes are kept, so that their list does not grow while it is measured.
            settings = {
                "image_transport": transport, "keyframe_max_rate": 0.0, "keyframe_distance": 0.1, "max_keyframes": 16,
            }  # fmt: skip
            with harness.node(model, device=options.device, max_views=options.max_views, **settings):
                peer = Peer()
                peer.wait_for_service()
                time.sleep(1)  # the subscriptions follow the service
                measure(peer, encoding, size, 10, options.period)
                times, lost = measure(peer, encoding, size, options.count, options.period)
                time.sleep(1.2)  # the status comes once a second
                inside = peer.status.insert_ms_p50
                peer.close()
            print(f"{encoding}: {inside:.2f} ms (median) of it on the device's thread")
            rows.append(Figures.of(f"{size[1]}x{size[0]} {encoding} to the cache, {lost} lost", times))
    harness.report(f"model {options.model}, on {harness.machine(options.device)}", rows, options.json)


if __name__ == "__main__":
    main()
