"""From candidates to keyframes: what the device's thread does with images, and the books about it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import Pose

from elvsm_ros import conversions
from elvsm_ros.conversions import RGB
from elvsm_ros.input.image_intake import Candidate, Intake
from elvsm_ros.keyframes.corrections import Corrected, Correction
from elvsm_ros.keyframes.inserted import Colour, Inserted
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.worker import BusyError, StoppedError, Worker

if TYPE_CHECKING:
    from elvsm_core.scene import Unpacked
    from elvsm_ros.device_scene import DeviceScene

Wait = Callable[[Future], Awaitable[Any]]
"""Waits for a future without holding the executor up."""
FEW = 10
"""Ids that a message to people lists at most."""
DECODED = 3
"""Decoded pictures that there may be at a time, on their way to the device: one of 20 megapixels takes 60 MB."""


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A stored scene that is ready to be used: content for the scene, and what the books need, by view id.

    poses: of the optical frame in the world. stamps: nanoseconds. colours: mean RGB, 0 to 255.
    """

    content: Unpacked
    poses: dict[int, Pose]
    stamps: dict[int, int]
    colours: dict[int, Colour]


class KeyframeFeed:
    """Hand candidates to the worker, and keep the list of keyframes.

    later: has the executor's thread call a function, from any thread. changed: called when the keyframes have
    changed. Everything but the jobs runs on the executor's thread.
    """

    def __init__(
        self,
        intake: Intake,
        worker: Worker[DeviceScene],
        reports: Reports,
        later: Callable[..., None],
        changed: Callable[[], None],
    ):
        self._intake, self._worker, self._reports = intake, worker, reports
        self._later, self._changed = later, changed
        self._places: dict[int, int] = {}  # view id: its place in the admission
        self.stamps: dict[int, int] = {}
        """Stamps of the keyframes' images by view id, nanoseconds."""
        self.colours: dict[int, Colour] = {}
        """Mean colours of the keyframes' images by view id."""
        self._epoch = 0  # counts resets: what was under way before one is of no interest after it
        self.keyframes: dict[int, Pose] = {}
        """Poses of the optical frame in the world by view id, oldest first."""
        self.inserted = 0
        self.evicted = 0
        self._forgetting = self._forgotten = 0  # restarts asked for, and done
        self._moving = 0  # corrections of the whole map that are not done
        self._under_way = 0  # candidates of which it is not known yet whether they become keyframes
        self._decoder = ThreadPoolExecutor(1, "elvsm-decoder")
        self._room = threading.Semaphore(DECODED)
        self._closed = False
        intake.on_restart = self._restart

    def close(self) -> None:
        """Give up the images that wait, and take no more: the device goes away, and the topics with it."""
        self._closed = True
        self._changed = lambda: None
        self._decoder.shutdown(wait=False, cancel_futures=True)

    def advance(self) -> None:
        """Pass on the images that have become candidates.

        One after the other, as long as the device keeps up: a picture may turn out to be damaged, or an old
        keyframe may go for a new one, and what comes next is to be judged knowing that. Otherwise it would
        depend on the device's speed which images become keyframes.
        """
        if self._closed:
            return
        now = time.monotonic()
        self._intake.collect(now)
        # They would come into a scene that is about to be cleared, or to be moved.
        if self._forgetting != self._forgotten or self._moving:
            self._intake.make_room()
            return
        while (candidate := self._intake.next(now, busy=self._under_way > 0)) is not None:
            self._insert(candidate)

    async def reset(self, wait: Wait) -> int:
        """Forget all keyframes, poses and waiting images, and return how many keyframes there were.

        The next pose decides the world frame anew.
        """
        count, newest = await self._exchange(
            lambda engine: engine.clear(), wait, self._intake.forget_world_frame
        )
        if newest:
            self._forget_keyframes()
        return count

    async def load(self, loaded: Loaded, wait: Wait) -> None:
        """Put a stored scene in the place of the present one; poses and waiting images are forgotten, too."""
        _, newest = await self._exchange(lambda engine: engine.scene.adopt(loaded.content), wait)
        if not newest:
            return
        self.keyframes, self.stamps = dict(loaded.poses), dict(loaded.stamps)
        self.colours = dict(loaded.colours)
        store, hold = loaded.content.keyframes, self._intake.admission.hold
        self._places = {
            view: hold(T, self.stamps[view]) for view, T in zip(store.ids.tolist(), store.poses, strict=True)
        }
        self._changed()

    async def _exchange(
        self, job: Callable[[DeviceScene], Any], wait: Wait, forget: Callable[[], None] = lambda: None
    ) -> tuple[Any, bool]:
        """Have the scene's content exchanged, and forget what is under way for the present one.

        forget: called when that is certain to happen.
        Returns the job's result, and whether the books are to follow it: not when a later exchange waits.
        """
        self._worker.clear_offers()
        future = self._worker.call(job, always=True)
        self._epoch += 1
        epoch = self._epoch
        self._intake.clear()
        forget()
        self._intake.held += 1  # what arrives until the exchange is through belongs to the time before
        try:
            result = await wait(future)
        finally:
            self._intake.held -= 1
        if self._closed:  # the scene is gone, whatever became of it before
            raise StoppedError("the node is being cleaned up")
        return result, epoch == self._epoch

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
        self.colours.clear()
        self.keyframes.clear()
        self._changed()

    def correct(self, correction: Correction) -> None:
        """Move keyframes after a loop closure, however many requests wait."""
        rigid = correction.T_new_old is not None
        if rigid:
            # Poses that are known so far, and images placed by them, are of the world as it was; those that come
            # from now on are of the new one, and must not be moved along.
            self._intake.forget_poses()
            self._worker.clear_offers()
            self._moving += 1
        epoch = self._epoch
        try:
            future = self._worker.call(lambda engine: engine.correct(correction), always=True)
        except BusyError as error:
            self._moving -= rigid
            self._reports.add("pose_updates", f"a correction is left out: {error}")
            return

        def on_corrected(done: Future[Corrected]) -> None:
            self._moving -= rigid
            self._on_corrected(epoch, done)
            self.advance()

        future.add_done_callback(lambda done: self._later(on_corrected, done))

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
        corrected = future.result()
        moved = {view: T for view, T in corrected.poses.items() if view in self.keyframes}
        self.keyframes.update((view, corrected.messages[view]) for view in moved)
        for view, T_world_cam in moved.items():
            self._intake.admission.move(self._places[view], T_world_cam)
        if unknown := corrected.unknown:
            names = ", ".join(map(str, unknown[:FEW])) + (" ..." if len(unknown) > FEW else "")
            self._reports.add(
                "pose_updates",
                f"there are no keyframes {names} (forgotten to make room, or by a reset): the others have moved; "
                f"~/keyframe_list tells the ids",
            )
        self._changed()

    async def pause(self, paused: bool, wait: Wait) -> None:
        """Stop or go on taking images; when this is through, no further keyframe appears while paused."""
        self._intake.pause(paused)
        if paused:
            self._worker.clear_offers()
        # Once this is through, so is the keyframe that was on the device when the request came. Out of turn: renders
        # that wait are no reason to let whoever pauses wait.
        await wait(self._worker.call(lambda engine: None, urgent=True))

    def _insert(self, candidate: Candidate) -> None:
        epoch, encoded = self._epoch, [candidate]

        def decode() -> RGB:
            self._room.acquire()
            return encoded.pop().picture()

        def make_room(_: Future[Inserted]) -> None:
            if not picture.cancelled():
                self._room.release()

        # Decoded and rectified on a thread of its own, so that renders go on meanwhile. The pool keeps what is
        # cancelled until its turn comes: the image must not be a part of that.
        picture = self._decoder.submit(decode)
        picture.add_done_callback(lambda _: encoded.clear())
        future = self._worker.offer(lambda engine: engine.insert(candidate, picture.result()), after=picture)
        future.add_done_callback(make_room)
        self._under_way += 1
        future.add_done_callback(lambda done: self._later(self._on_inserted, epoch, candidate, done))

    def _on_inserted(self, epoch: int, candidate: Candidate, future: Future[Inserted]) -> None:
        self._under_way -= 1
        if self._closed:
            return
        self._take_over(epoch, candidate, future)
        self.advance()

    def _take_over(self, epoch: int, candidate: Candidate, future: Future[Inserted]) -> None:
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
        self.colours[inserted.view] = inserted.colour
        for view in inserted.evicted:
            del self.keyframes[view], self.stamps[view], self.colours[view]
            self._intake.admission.release(self._places.pop(view))
        self.inserted += 1
        self.evicted += len(inserted.evicted)
        self._changed()
