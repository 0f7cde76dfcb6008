"""A recorded movement of a page's camera, and the video that the node renders along it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from std_msgs.msg import Header

from elvsm.action import RenderTrajectory
from elvsm_report.video import write_video
from elvsm_ros import conversions
from elvsm_ros.conversions import RGB, Intrinsics
from elvsm_ros.viewer.geometry import Matrix, resample
from elvsm_ros.viewer.link import Link

FAILED = (GoalStatus.STATUS_ABORTED, GoalStatus.STATUS_CANCELED)
PATIENCE = 60.0
"""Seconds without a new picture after which a film is given up."""


class FilmError(RuntimeError):
    """A film that could not be made. The text says why."""


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
    with the file, or with None and what went wrong.
    """

    def __init__(
        self,
        link: Link,
        poses: list[Matrix],
        camera: Intrinsics,
        max_views: int,
        rate: float,
        path: Path,
        progress: Callable[[int, int], None],
        ended: Callable[[Path | None, str], None],
    ):
        self._link, self._poses, self._progress, self._ended = link, poses, progress, ended
        self._rate, self._path = rate, path
        self._pictures: queue.Queue[RGB | str] = queue.Queue()
        self._goal: Any = None
        self._cancelled = False
        self.done = 0
        goal = RenderTrajectory.Goal(
            poses=[conversions.matrix_to_pose(T) for T in poses],
            camera_info=conversions.camera_info(camera, Header()), max_views=max_views, encoding="jpeg",
        )  # fmt: skip
        threading.Thread(target=self._write, name="viewer-film", daemon=True).start()
        if not (link.connected and link.trajectory.server_is_ready()):
            self._pictures.put(f"{link.name} does not offer render_trajectory: is it running?")
            return
        # On the executor's thread: the answer to a goal that another thread sends can overtake rclpy's note of it.
        link.later(self._send, goal)

    def cancel(self) -> None:
        """Have the node stop, and keep nothing."""
        self._cancelled = True
        self._link.later(self._cancel)
        self._pictures.put("cancelled")

    def _send(self, goal: RenderTrajectory.Goal) -> None:
        self._link.trajectory.send_goal_async(goal, self._on_feedback).add_done_callback(self._on_goal)

    def _cancel(self) -> None:
        if self._goal is not None:
            self._goal.cancel_goal_async()

    def _on_goal(self, future: Any) -> None:
        self._goal = future.result()
        if not self._goal.accepted:
            self._pictures.put("the node refused the trajectory")
        elif self._cancelled:
            self._goal.cancel_goal_async()

    def _on_feedback(self, message: Any) -> None:
        try:
            for picture in message.feedback.compressed_images:
                self._pictures.put(conversions.image_to_rgb(picture))
        except conversions.ConversionError as error:
            self._pictures.put(str(error))

    def _ask_why(self) -> None:
        self._goal.get_result_async().add_done_callback(
            lambda future: self._pictures.put(future.result().result.message or "the node gave it up")
        )

    def _frames(self) -> Iterator[RGB]:
        end, asked = time.monotonic() + PATIENCE, False
        while self.done < len(self._poses):
            try:
                picture = self._pictures.get(timeout=0.2)
            except queue.Empty:
                if not self._link.connected:
                    raise FilmError(f"{self._link.name} went away") from None
                # Not before: with the result rclpy drops what is still under way of the feedback.
                if not asked and self._goal is not None and self._goal.status in FAILED:
                    asked = True
                    self._link.later(self._ask_why)
                if time.monotonic() > end:
                    raise FilmError(f"no picture came for {PATIENCE:g} s") from None
                continue
            if isinstance(picture, str):
                raise FilmError(picture)
            end = time.monotonic() + PATIENCE
            self.done += 1
            self._progress(self.done, len(self._poses))
            yield np.ascontiguousarray(picture)

    def _write(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_video(self._path, self._frames(), self._rate)
        except (FilmError, OSError, ValueError) as error:
            self._ended(None, str(error))
        else:
            self._ended(self._path, "")
