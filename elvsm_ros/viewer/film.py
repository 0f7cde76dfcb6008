"""A recorded movement of a page's camera, and the video that the node renders along it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from elvsm_report.video import write_video
from elvsm_ros import SceneClient, SceneClientError
from elvsm_ros.conversions import RGB, ConversionError, Intrinsics
from elvsm_ros.viewer.geometry import Matrix, resample

PATIENCE = 60.0
"""Seconds without a new picture after which a film is given up."""


class Take:
    """A movement that is being recorded. Add poses in the order of time; `poses` resamples them."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._poses: list[Matrix] = []

    def __len__(self) -> int:
        return len(self._poses)

    def add(self, T_world_cam: Matrix, at: float | None = None) -> None:
        """Note where the camera is now. at: seconds, steady."""
        at = time.monotonic() if at is None else at
        if self._times and at <= self._times[-1]:
            return
        self._times.append(at)
        self._poses.append(T_world_cam)

    def poses(self, rate: float) -> list[Matrix]:
        """Return T_world_cam at `rate` per second."""
        return resample(self._times, self._poses, rate)


class Film:
    """One goal of ~/render_trajectory, whose pictures become a video.

    progress: called with the pictures that are done, and all. ended: called once, on a thread of the film's own,
    with the file, or with None and what went wrong. detail: see `SceneClient.render_views`.
    """

    def __init__(
        self,
        scene: SceneClient,
        poses: list[Matrix],
        camera: Intrinsics,
        max_views: int,
        rate: float,
        path: Path,
        progress: Callable[[int, int], None],
        ended: Callable[[Path | None, str], None],
        detail: bool | None = None,
    ):
        self._count, self._progress, self._ended = len(poses), progress, ended
        self._rate, self._path = rate, path
        self._cancelled = False
        pictures = scene.stream_trajectory(
            poses, camera, max_views=max_views, encoding="jpeg", detail=detail, timeout=PATIENCE
        )
        threading.Thread(target=self._write, args=(pictures,), name="viewer-film", daemon=True).start()

    def cancel(self) -> None:
        """Have the node stop, and keep nothing."""
        self._cancelled = True

    def _frames(self, pictures: Iterator[RGB]) -> Iterator[RGB]:
        for done, picture in enumerate(pictures, 1):
            if self._cancelled:
                raise SceneClientError("cancelled")
            self._progress(done, self._count)
            yield picture

    def _write(self, pictures: Generator[RGB, None, None]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(pictures):  # cancels what is not rendered yet
                write_video(self._path, self._frames(pictures), self._rate)
        except (SceneClientError, ConversionError, OSError, ValueError) as error:
            self._ended(None, str(error))
        else:
            self._ended(self._path, "")
