"""From candidates to keyframes: what the device's thread does with images, and the books about it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import Pose

from elvsm_ros import conversions
from elvsm_ros.corrections import Corrected, Correction
from elvsm_ros.intake import Candidate, Intake
from elvsm_ros.reports import Reports
from elvsm_ros.worker import Worker

if TYPE_CHECKING:
    from elvsm_ros.engine import Engine, Inserted

Wait = Callable[[Future], Awaitable[Any]]
"""Waits for a future without holding the executor up."""


class KeyframeFeed:
    """Hand candidates to the worker, and keep the list of keyframes.

    later: has the executor's thread call a function, from any thread. changed: called when the keyframes have
    changed. Everything but the jobs runs on the executor's thread.
    """

    def __init__(
        self,
        intake: Intake,
        worker: Worker[Engine],
        reports: Reports,
        later: Callable[..., None],
        changed: Callable[[], None],
    ):
        self._intake, self._worker, self._reports = intake, worker, reports
        self._later, self._changed = later, changed
        self._places: dict[int, int] = {}  # view id: its place in the admission
        self.stamps: dict[int, int] = {}
        """Stamps of the keyframes' images by view id, nanoseconds."""
        self._epoch = 0  # counts resets: what was under way before one is of no interest after it
        self.keyframes: dict[int, Pose] = {}
        """Poses of the optical frame in the world by view id, oldest first."""
        self.inserted = 0
        self.evicted = 0
        self._forgetting = self._forgotten = 0  # restarts asked for, and done
        intake.on_restart = self._restart

    def advance(self) -> None:
        """Pass on the images that have become candidates."""
        if self._forgetting != self._forgotten:  # they would come into a scene that is about to be cleared
            return
        for candidate in self._intake.poll(time.monotonic()):
            self._insert(candidate)

    async def reset(self, wait: Wait) -> int:
        """Forget all keyframes, poses and waiting images, and return how many keyframes there were."""
        self._epoch += 1
        self._intake.clear()
        self._intake.held += 1  # what arrives until the scene is clear belongs to the time before
        try:
            self._worker.clear_offers()
            count = await wait(self._worker.call(lambda engine: engine.clear()))
        finally:
            self._intake.held -= 1
        self._forget_keyframes()
        return count

    def _restart(self) -> None:
        """Forget all keyframes without anybody waiting for it; candidates wait until that is done."""
        self._epoch += 1
        self._forgetting += 1
        epoch, restart = self._epoch, self._forgetting
        self._worker.clear_offers()

        def on_forgotten(done: Future[int]) -> None:
            self._forgotten = max(self._forgotten, restart)
            if epoch == self._epoch and not done.cancelled():
                self._forget_keyframes()
            self.advance()

        # Out of turn: before any insertion and render that waits.
        future = self._worker.call(lambda engine: engine.clear(), urgent=True)
        future.add_done_callback(lambda done: self._later(on_forgotten, done))

    def _forget_keyframes(self) -> None:
        self._places.clear()
        self.stamps.clear()
        self.keyframes.clear()
        self._changed()

    def correct(self, correction: Correction) -> None:
        """Move keyframes after a loop closure. Raises BusyError when too many calls wait."""
        if correction.T_new_old is not None:
            # Poses that are known so far, and images placed by them, are of the world as it was.
            self._intake.forget_poses()
            self._worker.clear_offers()
        epoch = self._epoch
        future = self._worker.call(lambda engine: engine.correct(correction))
        future.add_done_callback(lambda done: self._later(self._on_corrected, epoch, done))

    def _on_corrected(self, epoch: int, future: Future[Corrected]) -> None:
        if epoch != self._epoch or future.cancelled():
            return
        error = future.exception()
        if isinstance(error, ValueError):
            self._reports.add("pose_updates", str(error))
            return
        if error is not None:
            self._reports.fault("correcting poses failed", error)
            return
        for view, T_world_cam in future.result().poses.items():
            if view in self.keyframes:
                self.keyframes[view] = conversions.matrix_to_pose(T_world_cam)
                self._intake.admission.move(self._places[view], T_world_cam)
        if unknown := future.result().unknown:
            self._reports.add(
                "pose_updates",
                f"there are no keyframes {', '.join(map(str, unknown))} (forgotten to make room, or by a "
                f"reset): the others have moved; ~/keyframe_list tells the ids",
            )
        self._changed()

    async def pause(self, paused: bool, wait: Wait) -> None:
        """Stop or go on taking images; when this is through, no further keyframe appears while paused."""
        self._intake.pause(paused)
        if paused:
            self._worker.clear_offers()
        # Once this is through, so is the keyframe that was on the device when the request came.
        await wait(self._worker.call(lambda engine: None))

    def _insert(self, candidate: Candidate) -> None:
        epoch = self._epoch
        future = self._worker.offer(lambda engine: engine.insert(candidate))
        future.add_done_callback(lambda done: self._later(self._on_inserted, epoch, candidate, done))

    def _on_inserted(self, epoch: int, candidate: Candidate, future: Future[Inserted]) -> None:
        if epoch != self._epoch:
            return
        if future.cancelled():  # a newer one took its place in the queue
            self._intake.counters.images_dropped += 1
            self._intake.admission.release(candidate.key)
            return
        error = future.exception()
        if error is not None:
            self._intake.admission.release(candidate.key)
            if isinstance(error, ValueError):
                self._intake.reject(str(error))
            else:
                self._reports.fault("inserting a keyframe failed", error)
            return
        inserted = future.result()
        self._places[inserted.view] = candidate.key
        self.keyframes[inserted.view] = conversions.matrix_to_pose(inserted.T_world_cam)
        self.stamps[inserted.view] = candidate.stamp
        for view in inserted.evicted:
            del self.keyframes[view], self.stamps[view]
            self._intake.admission.release(self._places.pop(view))
        self.inserted += 1
        self.evicted += len(inserted.evicted)
        self._changed()
