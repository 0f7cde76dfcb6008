"""Save and load a scene of thousands of keyframes while renders are asked for: python benchmarks/scene_files.py

Tells how long ~/save_scene and ~/load_scene take, what requests take meanwhile, and how much memory the node needs
for it. Ends with status 1 when a request fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

# isort: split
import harness  # before rclpy
from harness import Figures, Peer
from rclpy.node import Node

import elvsm_core as ec
from elvsm.srv import LoadScene, RenderViews, SaveScene
from elvsm_core.files.persistence import write_scene
from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics


def resident(pid: int) -> float:
    """Return a process's memory that is not swapped out, MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) / 1024


def make(path: Path, model: str, count: int) -> tuple[int, int]:
    """Write a scene of `count` keyframes from random places, and return its images' (height, width)."""
    rng = np.random.default_rng(0)
    scene = ec.Scene(ec.load_model(model, device="cpu"), capacity=1)
    height, width = scene.image_size
    camera = ec.Camera(0.8 * width, 0.8 * width, width / 2, height / 2, width, height, np.eye(4))
    scene.insert(harness.photo((height, width), 0), camera)
    stored = scene.snapshot()
    (one,) = stored.views.values()
    views = {}
    for view in range(count):
        T = np.eye(4)
        T[:3, 3] = rng.uniform(-20, 20, 3)
        views[view] = dataclasses.replace(one, camera=camera.at(T))
    write_scene(path, dataclasses.replace(stored, views=views, next_id=count), {})
    return height, width


class Client:
    """A peer that asks for one view after the other until `stop`, and calls the other services meanwhile."""

    def __init__(self, peer: Peer, node: Node, request: RenderViews.Request):
        self._peer, self._node, self._request = peer, node, request
        self._services = {
            kind: node.create_client(kind, f"/elvsm/{name}")
            for kind, name in ((SaveScene, "save_scene"), (LoadScene, "load_scene"))
        }
        self.rows: list[tuple[float, float]] = []  # when, milliseconds
        self.failures: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._done.is_set():
            try:
                self.rows.append((time.perf_counter(), self._peer.call(self._request)[1]))
            except RuntimeError as error:
                self.failures.append(str(error))

    def call(self, kind: type, name: str) -> tuple[float, float]:
        """Call a service of files; return when it began and ended."""
        answered, start = threading.Event(), time.perf_counter()
        future = self._services[kind].call_async(kind.Request(name=name))
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(300) or not future.result().success:
            raise RuntimeError(future.result().message if answered.is_set() else "no answer within 300 s")
        return start, time.perf_counter()

    def between(self, start: float, end: float) -> list[float]:
        """Return the milliseconds of the requests that were under way then."""
        return [took for at, took in self.rows if at < end and at + took / 1e3 > start]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    harness.add_options(parser)
    parser.add_argument("--keyframes", type=int, default=10_000, help="in the scene (10000)")
    options = parser.parse_args()
    with harness.weights(options.model) as model, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        height, width = make(folder / "first.safetensors", model, options.keyframes)
        camera = Intrinsics(0.8 * width, 0.8 * width, width / 2, height / 2, width, height)
        request = RenderViews.Request(
            poses=[harness.pose_at(0.1)], camera_info=conversions.camera_info(camera, harness.Header())
        )
        with harness.node(
            model, device=options.device, max_views=options.max_views, scene_directory=folder,
            max_keyframes=options.keyframes,
        ) as process:  # fmt: skip
            peer = Peer()
            peer.wait_for_service()
            client = Client(peer, peer.node, request)
            memory = [resident(process.pid)]
            start, end = client.call(LoadScene, "first")
            lines = [f"first load: {end - start:.2f} s"]
            memory.append(resident(process.pid))
            client.start()
            time.sleep(5)
            quiet = client.between(0, time.perf_counter())[20:]
            saving = client.call(SaveScene, "second")
            memory.append(resident(process.pid))
            time.sleep(1)
            loading = client.call(LoadScene, "second")
            memory.append(resident(process.pid))
            time.sleep(1)
            client.stop()
            peer.close()
        size = (folder / "second.safetensors").stat().st_size / 1e6
    lines += [
        f"save: {saving[1] - saving[0]:.2f} s for {size:.0f} MB", f"load again: {loading[1] - loading[0]:.2f} s",
        "node's memory, MiB: at first {:.0f}, loaded {:.0f}, saved {:.0f}, loaded again {:.0f}".format(*memory),
    ]  # fmt: skip
    rows = [
        Figures.of("a request, nothing else", quiet),
        Figures.of("while saving", client.between(*saving)),
        Figures.of("while loading", client.between(*loading)),
    ]
    harness.report(
        f"{options.keyframes} keyframes of {width}x{height}, {harness.machine(options.device)}\n"
        + "\n".join(lines),
        rows,
        options.json,
    )
    for message in client.failures:
        print("failed:", message)
    sys.exit(bool(client.failures))


if __name__ == "__main__":
    main()
