"""Measure on a recording how well held-out frames are rendered: elvsm_evaluate_bag."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from elvsm_ros.evaluation.options import EvaluationOptions, parse
from elvsm_ros.tools.processes import private_environment

if TYPE_CHECKING:
    from elvsm_ros.evaluation.results import EvaluationResults

VIDEO_RATE = 10
"""Frames per second."""
OUTPUT = "results of elvsm_evaluate_bag"
"""What the marker of the output folder says."""
INSTALL = "python3 -m pip install rosbags mcap rich imageio-ffmpeg"
"""What brings the packages that ROS does not have."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate a recording. Returns the exit status.

    0: evaluated. 1: nothing was held out, every image became a keyframe. 2: the command line, the model or the
    recording cannot be used, or only a part of it; that part's results are written.
    """
    options = parse(arguments)
    if options.through_node:
        os.environ.update(private_environment(options.domain))
    # Before rclpy is imported: the ROS packages of PyPI take the virtual environment as their prefix.
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    # And before PyTorch is: threads that spin while they wait slow everything down where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    console = Console()
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _run(options, console, stop)
    except (ValueError, OSError) as error:  # BagError, ParameterError, CheckpointError: all say what to do
        _complain(str(error))
        return 2
    except ModuleNotFoundError as error:  # with ROS, some packages come from PyPI all the same
        _complain(f"there is no Python package {error.name}: {INSTALL}")
        return 2
    except KeyboardInterrupt:
        _complain("ended by Ctrl-C: the same command goes on from what was measured")
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stop:
    """What Ctrl-C and SIGTERM do: once `check` has been called, that raises KeyboardInterrupt, and nothing else does.

    An exception in the middle of anything would make some C extensions report something else.
    """

    def __init__(self) -> None:
        self._asked = self._checked = False

    def __call__(self, number: int, frame: object) -> None:
        if self._asked or not self._checked:  # asked twice: at once
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        self._checked = True
        if self._asked:
            self._asked = self._checked = False
            raise KeyboardInterrupt


def _run(options: EvaluationOptions, console: Console, stop: _Stop) -> int:
    from elvsm_ros.parameters.table import Settings
    from elvsm_ros.recordings.bag_reader import Bag, find_streams
    from elvsm_ros.recordings.bag_tf import tf_ends

    settings = Settings.from_values(options.parameters)
    with Bag(options.bag, salvage=True) as bag:
        streams = find_streams(bag, options.image_topic, options.camera_info_topic, options.pose_topic)
        console.print(f"{bag.path}: {bag.duration:.1f} s", markup=False, soft_wrap=True)
        for topic in (streams.image, streams.camera_info, streams.pose):
            line = f"  {topic.name}  {topic.type}, {topic.count} messages"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        ends = tf_ends(bag, streams, options.world_frame, options.camera_frame)
        if ends is not None:
            line = f"  poses from TF: {ends.camera_frame} in {ends.world_frame}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        # PyTorch takes seconds to import: a recording that cannot be used is told about before.
        from elvsm_core.files import owned

        owned.claim_output(options.out, OUTPUT)
        from elvsm_ros.evaluation.journal import KIND
        from elvsm_ros.evaluation.measure import UNFINISHED, evaluate
        from elvsm_ros.evaluation.replay import Recording

        with _Bars(console, stop.check) as tell:
            results = evaluate(Recording(bag, streams, ends), settings, options, tell)
    _report(options, console, results)
    if not results.goes_on:
        owned.remove(options.out / UNFINISHED, KIND)
    if results.incomplete:
        _complain(f"{results.incomplete}; the results until then are in {options.out}")
        return 2
    if not results.views:
        _complain(
            f"{options.bag}: nothing was held out, every usable image became a keyframe: raise keyframe_distance and "
            f"keyframe_angle (--param), or record more images per metre"
        )
        return 1
    return 0


def _report(options: EvaluationOptions, console: Console, results: EvaluationResults) -> None:
    from elvsm_report.video import write_video
    from elvsm_ros.evaluation.node_page import NODE_HEAD, node_facts, node_rows, number
    from elvsm_ros.evaluation.page import SUMMARY_HEAD, facts, pictures, summary_rows, write_page

    results.write(options.out / "results.json")
    if options.json is not None:
        results.write(options.json)
    results.write_csv(options.out / "frames.csv")
    video: Path | None = options.out / "video.mp4"
    if not options.video or not results.views:
        video = None
    elif video is not None:
        write_video(video, pictures(results), VIDEO_RATE)
    write_page(options.out / "index.html", results, video)
    if results.views:
        _print(console, SUMMARY_HEAD, summary_rows(results))
    if results.sweep():
        rows = [[str(r["max_views"]), number(r["psnr"])] for r in results.sweep()]
        _print(console, ["max_views", "PSNR online"], rows)
    if results.pose_noise:
        rows = [[f"{r['centimetres']:g}", f"{r['degrees']:g}", number(r["psnr"])] for r in results.pose_noise]
        _print(console, ["pose noise, cm", "degrees", "PSNR offline"], rows)
    lines = facts(results)
    if results.through_node is not None:
        _print(console, NODE_HEAD, node_rows(results.through_node))
        lines += node_facts(results.through_node)
    for name, value in lines:
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
    for warning in results.warnings:
        console.print(f"note: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {options.out / 'index.html'}", markup=False, soft_wrap=True)


def _print(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table()
    for k, title in enumerate(head):
        table.add_column(title, justify="left" if k == 0 else "right", no_wrap=k == 0)
    for row in rows:
        table.add_row(*row)
    console.print(table)


class _Bars:
    """A progress bar for each stage; called with (stage, done, total). check: called each time."""

    def __init__(self, console: Console, check: Callable[[], None]):
        self._check = check
        self._progress = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._progress.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _tell(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)  # type: ignore[arg-type]
        self._check()


def _complain(text: str) -> None:
    Console(stderr=True).print(
        f"elvsm_evaluate_bag: {text}", style="red", markup=False, highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    sys.exit(main())
