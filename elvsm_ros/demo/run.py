"""A run of the demo: node and player as processes, this one as the client, and the report at the end."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from elvsm_ros.demo.options import DemoOptions
from elvsm_ros.tools.processes import Child, ProcessDied, private_environment, stop

if TYPE_CHECKING:  # at run time only when the environment is set, see `run`
    from elvsm.msg import Status
    from elvsm_ros.demo.results import DemoResults
    from elvsm_ros.recordings.bag_reader import Bag, Streams
    from elvsm_ros.recordings.bag_tf import Ends

OUTPUT = "results of elvsm_demo"
"""What the marker of the output folder says."""


def run(options: DemoOptions) -> int:
    """Run the demo and return its exit status. What it starts has ended when this returns or raises."""
    # Before rclpy is imported: ament and Fast DDS read the environment once.
    os.environ.update(private_environment(options.domain))
    from elvsm_ros import SceneClientError
    from elvsm_ros.parameters.table import ParameterError
    from elvsm_ros.recordings.bag_reader import BagError

    console = Console()
    children: list[Child] = []
    try:
        return _run(options, console, children)
    except (BagError, ParameterError, OSError) as error:
        _complain(console, str(error))
        return 2
    except (SceneClientError, ProcessDied) as error:
        _complain(console, str(error))
        return 1
    finally:
        stop(children)


def _run(options: DemoOptions, console: Console, children: list[Child]) -> int:
    from elvsm_core.files import owned
    from elvsm_ros.parameters.table import Settings
    from elvsm_ros.recordings.bag_reader import Bag, find_streams
    from elvsm_ros.recordings.bag_tf import tf_ends
    from elvsm_ros.recordings.bag_writer import STREAMS
    from elvsm_ros.tools.node_process import start_node

    begin = time.monotonic()
    Settings.from_values(_values(options))  # a bad one is told about before anything is started
    ends = None
    owned.claim_output(options.out, OUTPUT)
    with contextlib.ExitStack() as stack:
        if options.bag is not None:
            bag = stack.enter_context(Bag(options.bag))
            streams = find_streams(bag, options.image_topic, options.camera_info_topic, options.pose_topic)
            ends = tf_ends(bag, streams, options.world_frame, options.camera_frame)
            _introduce(console, options, bag, streams, ends)
            node = start_node(streams, _values(options), options.out, children, options.rate)
        else:
            # The node loads its model meanwhile: the topics of a drawn walk are known beforehand.
            node = start_node(STREAMS, _values(options), options.out, children, options.rate)
            bag = stack.enter_context(Bag(_drawn_walk(options, console, node)))
            streams = find_streams(bag)
        return _watch(options, console, children, node, bag, streams, ends, begin)


def _watch(
    options: DemoOptions,
    console: Console,
    children: list[Child],
    node: Child,
    bag: Bag,
    streams: Streams,
    ends: Ends | None,
    begin: float,
) -> int:
    """Play the recording, ask for held-out views meanwhile, and report."""
    import torch

    from elvsm_ros.demo.film import shoot
    from elvsm_ros.demo.view import keep, open_page, start_viewer
    from elvsm_ros.demo.watch import Watch
    from elvsm_ros.tools.node_process import NODE_TIMEOUT, clock, start_player
    from elvsm_ros.tools.playback_client import PlaybackClient

    torch.set_num_threads(1)  # the node needs the cores
    with contextlib.ExitStack() as stack:
        topic, kind = clock(streams)
        # It leaves the network before the others, for the reason that `stop` gives: one of them that gets stuck
        # in its farewell can be killed.
        client = stack.enter_context(PlaybackClient(topic, node.check, kind))
        with console.status("waiting for the node to load its model"):
            client.wait_until_ready(NODE_TIMEOUT)
        console.print(
            f"elvsm_node runs: model {client.newest_status.model!r} on {client.newest_status.device}"
        )
        url = ""
        if options.view is not None:
            url = start_viewer(options.view, streams.camera_info.name, options.out, children)
            console.print(f"the scene while it grows: {url}", soft_wrap=True)
            open_page(url)
        seconds = options.seconds if options.bag is not None else None
        player = start_player(bag, streams, ends, options.out, children, options.rate, seconds)
        watch = Watch(options, client, bag, streams, ends, (node, player))
        with _progress(console, "the camera walks") as progress:
            results = watch.follow(progress)
        film = None
        if options.film_frames and results.views:
            with _progress(console, "the video") as progress:
                film = shoot(options, watch, results.latency(50) / 1e3, options.out / "walk.mp4", progress)
        status = client.newest_status
        if results.views:
            length = f"{streams.image.count} images, {bag.duration:.1f} s at {options.rate:g} × real time"
            facts = [
                ("recording", f"{bag.path.name}: {length}"),
                *_facts(status, results),
                ("whole run", _duration(begin)),
            ]
            _report(options, console, results, film, facts)
        if url:
            console.print(f"node and viewer go on: {url}   Ctrl-C ends them", soft_wrap=True)
            keep([child for child in children if child is not player])
    verdict = results.verdict()
    if verdict is not None:
        _complain(console, verdict)
        return 1
    return 0


def _report(
    options: DemoOptions,
    console: Console,
    results: DemoResults,
    film: Path | None,
    facts: list[tuple[str, str]],
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


def _facts(status: Status, results: DemoResults) -> list[tuple[str, str]]:
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


def _drawn_walk(options: DemoOptions, console: Console, node: Child) -> Path:
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


def _values(options: DemoOptions) -> dict[str, Any]:
    """Return the node's parameters that the options are about."""
    return {
        "model": options.model,
        "device": options.device,
        "body_to_camera": list(options.body_to_camera),
    }


def _introduce(console: Console, options: DemoOptions, bag: Bag, streams: Streams, ends: Ends | None) -> None:
    from elvsm_ros.recordings.bag_reader import ODOMETRY

    console.print(f"{bag.path}: {bag.duration:.1f} s", markup=False)
    for topic in (streams.image, streams.camera_info, streams.pose):
        console.print(f"  {topic.name}  {topic.type}, {topic.count} messages", markup=False, highlight=False)
    if ends is not None:
        console.print(f"  poses from TF: {ends.camera_frame} in {ends.world_frame}", markup=False)
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
