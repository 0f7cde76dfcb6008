"""A run of the demo: node and player as processes, this one as the client, and the report at the end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from elvsm_ros.demo.options import Options
from elvsm_ros.processes import Child, ProcessDied, private_environment, stop

if TYPE_CHECKING:  # at run time only when the environment is set, see `run`
    from elvsm.msg import Status
    from elvsm_ros.bag_reader import Bag, Streams
    from elvsm_ros.demo.results import Results

NODE_TIMEOUT = 120.0
"""Seconds that the node may take to load its model."""
LISTENER_TIMEOUT = 30.0
"""Seconds that the player waits for the node to subscribe."""


def run(options: Options) -> int:
    """Run the demo and return its exit status. What it starts has ended when this returns or raises."""
    # Before rclpy is imported: ament and Fast DDS read the environment once.
    os.environ.update(private_environment(options.domain))
    from elvsm_ros.bag_reader import BagError
    from elvsm_ros.demo.client import CallFailed

    console = Console()
    children: list[Child] = []
    try:
        return _run(options, console, children)
    except BagError as error:
        _complain(console, str(error))
        return 2
    except (CallFailed, ProcessDied) as error:
        _complain(console, str(error))
        return 1
    finally:
        stop(children)


def _run(options: Options, console: Console, children: list[Child]) -> int:
    from elvsm_ros.bag_reader import Bag, find_streams
    from elvsm_ros.bag_writer import STREAMS

    begin = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if options.bag is not None:
            bag = stack.enter_context(Bag(options.bag))
            streams = find_streams(bag, options.image_topic, options.camera_info_topic, options.pose_topic)
            _introduce(console, options, bag, streams)
            node = _start_node(options, streams, children)
        else:
            # The node loads its model meanwhile: the topics of a drawn walk are known beforehand.
            node = _start_node(options, STREAMS, children)
            bag = stack.enter_context(Bag(_drawn_walk(options, console, node)))
            streams = find_streams(bag)
        return _watch(options, console, children, node, bag, streams, begin)


def _watch(
    options: Options,
    console: Console,
    children: list[Child],
    node: Child,
    bag: Bag,
    streams: Streams,
    begin: float,
) -> int:
    """Play the recording, ask for held-out views meanwhile, and report."""
    import torch

    from elvsm_ros.demo.client import Client
    from elvsm_ros.demo.film import shoot
    from elvsm_ros.demo.watch import Watch

    torch.set_num_threads(1)  # the node needs the cores
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(streams.camera_info.name, node.check))
        # Before this process leaves the network, for the reason that `stop` gives.
        stack.callback(stop, children)
        with console.status("waiting for the node to load its model"):
            client.wait_for_node(NODE_TIMEOUT)
        console.print(f"elvsm_node runs: model {client.status.model!r} on {client.status.device}")
        player = _start_player(options, bag, streams, children)
        watch = Watch(options, client, bag, streams, (node, player))
        with _progress(console, "the camera walks") as progress:
            results = watch.follow(progress)
        film = None
        if options.film_frames and results.views:
            with _progress(console, "the video") as progress:
                film = shoot(options, watch, results.latency(50) / 1e3, options.out / "walk.mp4", progress)
        status = client.status
    if results.views:
        length = f"{streams.image.count} images, {bag.duration:.1f} s at {options.rate:g} × real time"
        facts = [
            ("recording", f"{bag.path.name}: {length}"),
            *_facts(status, results),
            ("whole run", _duration(begin)),
        ]
        _report(options, console, results, film, facts)
    verdict = results.verdict()
    if verdict is not None:
        _complain(console, verdict)
        return 1
    return 0


def _report(
    options: Options, console: Console, results: Results, film: Path | None, facts: list[tuple[str, str]]
) -> None:
    from elvsm_ros.demo.page import rows, write_page, write_picture

    write_page(options.out / "index.html", results, film, facts)
    if options.picture is not None:
        write_picture(options.picture, results.views)
    table = Table(show_header=False)
    for name, value in rows(results):
        table.add_row(name, value)
    console.print(table)
    console.print(
        f"report: {options.out / 'index.html'}" + (f"   video: {film}" if film else ""), soft_wrap=True
    )


def _facts(status: Status, results: Results) -> list[tuple[str, str]]:
    import numpy as np

    overhead = np.percentile([view.round_trip - view.inside for view in results.views], 50)
    return [
        ("model", f"{status.model} on {status.device}"),
        ("keyframes inserted / evicted", f"{status.keyframes_inserted} / {status.keyframes_evicted}"),
        (
            "images received / dropped / rejected",
            f"{status.images_received} / {status.images_dropped} / {status.images_rejected}",
        ),
        (
            "insertion of a keyframe, median / 95 %",
            f"{status.insert_ms_p50:.0f} / {status.insert_ms_p95:.0f} ms",
        ),
        ("transport of a request and its answer, median", f"{overhead:.1f} ms"),
    ]


def _duration(begin: float) -> str:
    return f"{time.monotonic() - begin:.0f} s on {os.cpu_count()} CPU cores"


def _start_node(options: Options, streams: Streams, children: list[Child]) -> Child:
    from elvsm_ros.bag_reader import COMPRESSED, ODOMETRY

    compressed, odometry = streams.image.type == COMPRESSED, streams.pose.type == ODOMETRY
    renamed = {
        "image/compressed" if compressed else "image": streams.image.name,
        "camera_info": streams.camera_info.name,
        "odom" if odometry else "pose": streams.pose.name,
    }
    values = {
        "model": options.model,
        "device": options.device,
        "image_transport": "compressed" if compressed else "raw",
        "pose_source": "odom" if odometry else "pose",
        "body_to_camera": list(options.body_to_camera),
    }
    command = [sys.executable, "-m", "elvsm_ros.node", "--ros-args"]
    for old, new in renamed.items():
        command += ["-r", f"{old}:={new}"]
    for name, value in values.items():
        command += ["-p", f"{name}:={value}"]
    children.append(Child("elvsm_node", command, os.environ, options.out / "node.log"))
    return children[-1]


def _start_player(options: Options, bag: Bag, streams: Streams, children: list[Child]) -> Child:
    command = [sys.executable, "-m", "elvsm_ros.bag_player", str(bag.path), "--topics", *streams.names]
    command += ["--rate", str(options.rate), "--wait", str(LISTENER_TIMEOUT)]
    # The node listens to all, this process to camera_info.
    image, camera_info, pose = streams.names
    command += ["--listeners", f"{image}=1", f"{camera_info}=2", f"{pose}=1"]
    if options.bag is not None and options.seconds is not None:
        command += ["--seconds", str(options.seconds)]
    children.append(Child("player", command, os.environ, options.out / "player.log"))
    return children[-1]


def _drawn_walk(options: Options, console: Console, node: Child) -> Path:
    """Return the recording of a walk in the output folder, drawn now unless it is there."""
    from elvsm_ros.demo.walk import WalkSettings, draw_walk, forget_walks

    settings = WalkSettings(seed=options.seed, seconds=options.seconds or WalkSettings.seconds)
    path = options.out / settings.key
    if (path / "metadata.yaml").exists():
        console.print(f"{path} was drawn before and is played again", markup=False, soft_wrap=True)
        return path
    with _progress(console, "drawing a walk") as progress:
        task = progress.add_task("", total=settings.frames, note="images")

        def drawn(count: int, total: int) -> None:
            node.check()
            progress.update(task, completed=count, total=total)

        forget_walks(options.out)
        draw_walk(path, settings, drawn)
    return path


def _introduce(console: Console, options: Options, bag: Bag, streams: Streams) -> None:
    from elvsm_ros.bag_reader import ODOMETRY

    console.print(f"{bag.path}: {bag.duration:.1f} s", markup=False)
    for topic in (streams.image, streams.camera_info, streams.pose):
        console.print(f"  {topic.name}  {topic.type}, {topic.count} messages", markup=False, highlight=False)
    if streams.pose.type == ODOMETRY and options.body_to_camera == (0, 0, 0, 0, 0, 0, 1):
        console.print(
            "  odometry is taken to be the camera's optical frame: give --body-to-camera if it is not"
        )


def _progress(console: Console, what: str) -> Progress:
    return Progress(
        TextColumn(f"{what:<16}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _complain(console: Console, text: str) -> None:
    console.print(f"elvsm_demo: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
