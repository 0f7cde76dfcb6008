"""The demo's video: the walk once more, rendered by the node from poses that are no keyframes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import Progress

from elvsm_report.video import write_video
from elvsm_ros.conversions import RGB
from elvsm_ros.demo.heldout import psnr
from elvsm_ros.demo.options import DemoOptions
from elvsm_ros.demo.watch import Watch
from elvsm_ros.recordings.bag_reader import PosedImage
from elvsm_ros.tools.image_grid import row

RATE = 15
"""Frames per second."""
LIMIT = 40.0
"""Seconds that rendering may take, about."""
HEIGHT = 336


def shoot(options: DemoOptions, watch: Watch, latency: float, path: Path, progress: Progress) -> Path | None:
    """Render up to `film_frames` views along the walk and write them beside truth and nearest keyframe.

    latency: seconds that a render takes, which limits how many there are. Returns the path, None when there
    was nothing to show. Raises what the client raises.
    """
    count = len(watch.walked.path)
    fit_in = max(24, round(LIMIT / max(1e-3, latency)))
    wanted = min(options.film_frames, count, fit_in)
    task = progress.add_task("", total=wanted, note="views")

    def pictures() -> Iterator[RGB]:
        for done, frame in enumerate(_spread(watch, count, wanted), 1):
            copy, _ = watch.nearest(frame)
            if copy is not None:
                truth, reply = watch.render(frame)
                yield row(
                    (truth.image, reply.images[0], copy),
                    (
                        ("ground truth", ""),
                        ("render", f"{psnr(reply.images[0], truth.image):.1f} dB"),
                        ("nearest keyframe", f"{psnr(copy, truth.image):.1f} dB"),
                    ),
                    HEIGHT,
                )
            progress.update(task, completed=done)
        progress.update(task, completed=wanted)

    return path if write_video(path, pictures(), RATE) else None


def _spread(watch: Watch, count: int, wanted: int) -> Iterator[PosedImage]:
    """Yield about `wanted` of a recording's frames, evenly, none of them a keyframe."""
    due = iter(np.linspace(0, count, wanted, endpoint=False))
    at = next(due, None)
    for index, frame in enumerate(watch.frames):
        if at is None or index >= count:
            return
        if index >= at and not watch.is_keyframe(frame):
            yield frame
            while at is not None and at <= index:
                at = next(due, None)
