"""Measure what ~/render_views takes, and what of it is not the model: python benchmarks/service_roundtrip.py

Starts a node as a process of its own, shows it pictures, and asks for one view again and again. The same scene
in this process, without ROS, tells what the model alone takes. The node's own latency_ms, from taking the
request to having the answer ready, is in between.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

# isort: split
import harness  # before rclpy
from harness import STEP, Figures, Peer

import elvsm_core as ec
from elvsm.srv import RenderViews


def measure(peer: Peer, request: RenderViews.Request, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the round trip and the node's own latency of `count` calls, milliseconds."""
    rows = []
    for _ in range(count):
        response, elapsed = peer.call(request)
        rows.append((elapsed, response.latency_ms))
    round_trip, latency = np.array(rows).T
    return round_trip, latency


def model_alone(options: argparse.Namespace, model: str) -> list[float]:
    """Return what rendering the node's scene takes without the node, milliseconds."""
    scene = ec.Scene(ec.load_model(model, device=options.device))
    height, width = scene.image_size
    scene.warm_up(view_counts=[options.keyframes], target_counts=[1])

    def camera(x: float) -> ec.Camera:
        T = np.eye(4)
        T[0, 3] = x
        return ec.Camera(0.8 * width, 0.8 * width, width / 2, height / 2, width, height, T)

    for step in range(options.keyframes):
        scene.insert(harness.photo((height, width), step), camera(STEP * step))
    times = []
    for _ in range(options.count + 20):
        start = time.perf_counter()
        scene.render([camera(STEP * options.keyframes / 2 + 0.1)], options.max_views)
        times.append((time.perf_counter() - start) * 1e3)
    return times[20:]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    harness.add_options(parser)
    parser.add_argument("--size", type=int, default=256, help="side of the square images, pixels (256)")
    parser.add_argument("--encoding", default="rgb8", choices=("rgb8", "jpeg", "png"))
    parser.add_argument("--keyframes", type=int, default=8, help="in the scene (8)")
    parser.add_argument("--count", type=int, default=300, help="requests (300)")
    options = parser.parse_args()
    request = RenderViews.Request(
        poses=[harness.pose_at(STEP * options.keyframes / 2 + 0.1)], width=options.size, height=options.size,
        encoding=options.encoding,
    )  # fmt: skip
    with harness.weights(options.model) as model:
        with harness.node(model, device=options.device, max_views=options.max_views, keyframe_distance=0.1):
            peer = Peer()
            peer.fill(options.keyframes)
            used = peer.call(request)[0].views_used
            measure(peer, request, 20)
            round_trip, latency = measure(peer, request, options.count)
            peer.close()
        alone = model_alone(options, model)
    rows = [
        Figures.of("round trip", round_trip),
        Figures.of("in the node (latency_ms)", latency),
        Figures.of("model alone", alone),
        Figures.of("round trip without the node", round_trip - latency),
    ]
    harness.report(
        f"one {options.size}x{options.size} {options.encoding} view from {used} keyframes, model "
        f"{options.model}, on {harness.machine(options.device)}",
        rows,
        options.json,
    )
    print(f"round trip without the model: {rows[0].p50 - rows[2].p50:.2f} ms (medians)")


if __name__ == "__main__":
    main()
