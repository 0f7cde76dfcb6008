"""A compressed stream with every tenth picture damaged: the others are taken, and nothing of these shows."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from bench import Bench
from rig import picture, pose_at, wait_until

pytestmark = pytest.mark.ros

DAMAGES: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda data: data[: len(data) // 2], "truncated or corrupt"),
    (lambda data: data[:60] + b"\xff" * 300 + data[360:], "truncated or corrupt"),
    (lambda data: b"", "neither JPEG nor PNG"),
    (lambda data: b"not a picture" * 20, "neither JPEG nor PNG"),
]


def test_every_tenth_picture_damaged(compressed_bench: Bench) -> None:
    bench = compressed_bench
    bench.begin()
    count = 40
    for i in range(count):
        T, damaged = pose_at(0.3 * i), i % 10 == 5
        stamp = bench.peer.next_stamp()
        bench.peer.send_info(stamp)
        bench.peer.send_pose(stamp, T)
        cut = DAMAGES[i // 10][0] if damaged else bytes
        bench.send_image(stamp, picture(i), cut)
        if not damaged:
            bench.accept(picture(i), T)
        time.sleep(0.03)  # as a camera would: this is not about a flood
    bench.peer.wait_for_status(
        lambda s: s.images_rejected == 4 and s.keyframes == 2 + count - 4,
        f"what became of them {bench.node.output}",
    )
    for _, text in DAMAGES:
        assert any(text in line for line in bench.news())
    assert len(bench.news()) == 4  # one line for each, as log_period is zero here
    bench.unharmed()


def test_a_damaged_picture_gives_its_place_to_the_next(compressed_bench: Bench) -> None:
    bench = compressed_bench
    bench.begin()
    for cut, text in DAMAGES:
        stamp = bench.peer.next_stamp()
        bench.peer.send_info(stamp)
        bench.peer.send_pose(stamp, pose_at(3.0))
        bench.send_image(stamp, picture(9), cut)
        wait_until(lambda t=text: any(t in line for line in bench.news()), f"{text!r} in {bench.node.output}")
    bench.send(picture(9), pose_at(3.05))
    bench.accept(picture(9), pose_at(3.05))
    bench.unharmed()


def test_the_other_transport_is_named(compressed_bench: Bench) -> None:
    """The driver has fallen back to raw images: they are not read, and the silence says what to look for."""
    bench = compressed_bench
    bench.begin()

    def warned() -> bool:
        stamp = bench.peer.next_stamp()
        bench.peer.send_info(stamp)
        bench.peer.send_pose(stamp, pose_at(9.0))
        bench.peer.send_image(stamp, picture(1))
        time.sleep(0.1)
        return any("waiting for images: nothing arrived" in line for line in bench.node.lines)

    wait_until(warned, f"a warning: {bench.node.output}")
    bench.unharmed()
