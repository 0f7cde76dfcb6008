"""What fault cases share: a real node, and a mirror of its scene that knows only what the node should have taken.

A case injects a fault and then says what holds: `unharmed` compares the node with the mirror, by the keyframes'
poses and by the value of renders, and sees that the node goes on; `says` sees that the fault was named, once and in
one way.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rig import CAMERA, NodeProcess, Peer, camera_at, header, picture, pixels, pose_at, wait_until
from std_srvs.srv import Trigger

import elvsm_core as ec
from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics

SYNC_TIMEOUT = 0.5


class Bench:
    """A node with parameters, a peer for it, and the mirror."""

    def __init__(self, model: Path, **parameters: Any):
        self.model = ec.load_model(model, device="cpu")
        self.mirror = ec.Scene(self.model)
        self.node = NodeProcess(
            model=str(model), device="cpu", log_period=0.0, status_period=0.1, sync_timeout=SYNC_TIMEOUT, **parameters
        )  # fmt: skip
        self.compressed = parameters.get("image_transport") == "compressed"
        self.peer = Peer()
        try:
            self.node.wait_for("active")
            wait_until(self.peer.connected, "the node and its peer to find each other")
        except BaseException:
            self.close()
            raise
        self._mark = 0
        self._next = 0

    def close(self) -> None:
        self.node.close()
        self.peer.close()

    def begin(self) -> None:
        """Forget what was, and show two good frames."""
        answer = self.peer.call(Trigger, "/elvsm/reset", Trigger.Request())
        assert answer.success, answer.message
        self.mirror.clear()
        self._next = 0
        wait_until(lambda: not self.peer.status.keyframes, "an empty scene")
        for _ in range(2):
            self.good()
        self._mark = len(self.node.lines)

    # Input

    def send(
        self, rgb: np.ndarray, T: np.ndarray, camera: Intrinsics = CAMERA, stamp: int | None = None
    ) -> int:
        """Publish a whole frame, on whichever topic the node reads, and return its stamp."""
        stamp = self.peer.next_stamp() if stamp is None else stamp
        self.peer.send_info(stamp, camera)
        self.peer.send_pose(stamp, T)
        self.send_image(stamp, rgb)
        return stamp

    def send_image(self, stamp: int, rgb: np.ndarray, cut: Callable[[bytes], bytes] = bytes) -> None:
        """Publish an image alone; of a compressed one, what `cut` leaves of it."""
        if not self.compressed:
            self.peer.send_image(stamp, rgb)
            return
        message = conversions.rgb_to_compressed(rgb, header(stamp, "camera"), "png")
        message.data = cut(bytes(message.data))
        self.peer.compressed.publish(message)

    def accept(self, rgb: np.ndarray, T: np.ndarray, camera: Intrinsics = CAMERA) -> None:
        """Say that the node should have made a keyframe of this, after all the others."""
        self.mirror.insert(rgb, camera_at(T, camera))

    def good(self) -> None:
        """Show a good frame from a place that no fault is about, and wait until it is a keyframe."""
        seed, T = self._next, pose_at(0.4 * self._next, 0.1, y=-1.5)
        self._next += 1
        count = self.peer.status.keyframes_inserted
        self.send(picture(seed), T)
        self.accept(picture(seed), T)
        self.peer.wait_for_status(lambda s: s.keyframes_inserted > count, f"a keyframe of {self.node.output}")

    # What must hold

    def says(self, text: str) -> str:
        """Wait for a warning with `text` in it; assert that it is the only one, numbers aside. Returns it."""
        wait_until(lambda: any(text in line for line in self.news()), f"{text!r} in {self.node.output}")
        # What else it has to say comes with the statuses after that.
        self.peer.fresh_status()
        different = {re.sub(r"[-\d.]+", "#", line.split(":", 1)[-1]) for line in self.news()}
        assert len(different) == 1, self.news()
        return self.news()[0]

    def quiet(self) -> None:
        """Assert that there was nothing to complain about."""
        self.peer.fresh_status()
        assert not self.news(), self.news()

    def news(self) -> list[str]:
        """Return what the node has warned of since `begin`. Of silence only the cases about silence speak."""
        lines = list(self.node.lines)[self._mark :]
        found = [line for line in lines if "[WARN]" in line or "[ERROR]" in line]
        return [line.split("[elvsm]:", 1)[-1].strip() for line in found if "silence: " not in line]

    def unharmed(self, goes_on: bool = True) -> None:
        """Assert that the node has what the mirror has, by value, and takes the next good frame."""
        self.compare()
        if goes_on:
            self.good()
            self.compare()
        assert "Traceback" not in self.node.output and "callback failed" not in self.node.output, (
            self.node.output
        )

    def compare(self) -> None:
        assert self.node.alive(), f"the node died:\n{self.node.output}"
        expected = self.mirror.poses
        self.peer.wait_for_status(
            lambda s: s.keyframes == len(expected) and not s.queue_length,
            f"{len(expected)} keyframes and an empty queue: {self.peer.status}\n{self.news()}",
        )
        wait_until(lambda: len(self.peer.keyframes[-1].poses) == len(expected), "the list of keyframes")
        found = [conversions.pose_to_matrix(pose) for pose in self.peer.keyframes[-1].poses]
        np.testing.assert_allclose(found, expected, atol=1e-9)
        targets = self.targets()
        answer = self.peer.render(targets)
        assert answer.success, answer.message
        for image, truth in zip(answer.images, self.shown(targets), strict=True):
            # By one, because the node's process may add up in another order.
            assert np.abs(pixels(image).astype(int) - truth).max() <= 1

    def targets(self) -> list[np.ndarray]:
        """Return two poses to render: near the oldest keyframe, and near the newest."""
        return [T @ pose_at(0.07, 0.05) for T in (self.mirror.poses[0], self.mirror.poses[-1])]

    def shown(self, targets: list[np.ndarray], camera: Intrinsics | None = None) -> np.ndarray:
        """Return what the mirror shows from some poses, as a request without a camera gets it: [n, H, W, 3]."""
        height, width = self.mirror.image_size
        camera = (camera or self.camera).fitted(width, height)
        return self.mirror.render([camera_at(T, camera) for T in targets], max_views=4).images.astype(int)

    camera: Intrinsics = CAMERA
    """What a request without intrinsics means: the newest good camera_info's."""

    @contextmanager
    def watched(self, period: float = 0.05) -> Iterator[None]:
        """Show good frames from places that are known already, all the while."""
        done = threading.Event()

        def show() -> None:
            while not done.wait(period):
                self.send(picture(0), pose_at(0.0, 0.1, y=-1.5))

        thread = threading.Thread(target=show)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
