"""One thread that owns a thing (here: model, scene and device) and does every job on it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


QUIET = 0.005
"""Seconds without a job after which there is time for what can wait."""
ALWAYS = 256
"""Calls that are taken although too many wait: so many more, and none beyond."""


class BusyError(RuntimeError):
    """Too many calls wait already."""


class StoppedError(RuntimeError):
    """The worker has been stopped."""


class Task(Generic[T]):
    """A call that is done in pieces, between which others get their turn. To be subclassed.

    future: of the outcome; `step` sees to it that it is completed, on whatever thread. name: see
    `Worker.call`, `latest`.
    """

    urgent = always = False

    def __init__(self, name: str | None = None) -> None:
        self.future: Future[Any] = Future()
        self.name = name
        self._begun = False

    def step(self, thing: T, waiting: list[Task[T]]) -> None:
        """Do the next piece, on the worker's thread. What it raises becomes the outcome.

        waiting: the tasks that would come next, none behind a plain call; their next pieces may be done along
        with this one (`begin` first).
        """
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Whether no piece is left for the worker."""
        raise NotImplementedError

    def begin(self) -> bool:
        """Tell whether to go on: False for a task that was cancelled, has failed or is finished.

        After True it cannot be cancelled any more.
        """
        if self.future.done() or self.finished:
            return False
        self._begun = self._begun or self.future.set_running_or_notify_cancel()
        return self._begun

    def succeed(self, result: Any) -> None:
        """Complete the future, unless it is completed."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Complete the future with an error, unless it is completed."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclasses.dataclass(eq=False)
class _Job:
    """A plain call or an offer, in the line."""

    work: Callable[[Any], Any]
    future: Future
    name: str | None = None
    urgent: bool = False
    always: bool = False
    after: Future | None = None

    def cancel(self) -> None:
        """Give the job up, and what is done for it elsewhere."""
        if self.after is not None:
            self.after.cancel()
        self.future.cancel()


class Worker(Generic[T]):
    """Run jobs on a thing that one thread makes, owns and alone touches.

    make: builds the thing, on the thread; `started` gives its outcome. Jobs are functions of the thing; their
    results and exceptions come back through futures, and no exception ends the thread.

    Two lines of jobs are served in turn, so that neither waits for the other to run dry:
    * `offer`: at most `offers` wait; the oldest gives way to a new one, and its future is cancelled, along with what
      it waits for (`after`). One whose `after` is being worked on stays: it is the next to be ready, and were it
      given up, nothing would ever be ready while more comes than can be done;
    * `call` and `submit`: first come, first served, at most `calls` wait; with `latest`, a new one takes the
      place of the one with the same name that still waits. A task gets one piece at a time and goes behind
      the tasks that follow it; plain calls keep their order, among each other and to the tasks around them.

    idle: called with the thing when nothing waits and nothing came for a moment, again and again while it
    returns True; when it has returned False, not before another job was done. It must not raise.

    Callbacks of futures run on the thread (or on the one that cancels): keep them short.
    """

    def __init__(
        self,
        make: Callable[[], T],
        offers: int = 4,
        calls: int = 256,
        name: str = "worker",
        idle: Callable[[T], bool] = lambda thing: False,
    ):
        self._make, self._offers_limit, self._calls_limit, self._idle = make, offers, calls, idle
        self._condition = threading.Condition()
        self._offers: collections.deque[_Job] = collections.deque()
        self._calls: collections.deque[_Job | Task[T]] = collections.deque()
        self._call_next = True
        self._stopping = False
        self.started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def limit(self, offers: int, calls: int) -> None:
        """Let so many offers and calls wait from now on; those that wait already stay."""
        with self._condition:
            self._offers_limit, self._calls_limit = offers, calls

    def offer(self, job: Callable[[T], R], after: Future | None = None) -> Future[R]:
        """Queue a job that may be given up for a newer one: then its future is cancelled.

        after: what the job needs, done by another thread; others get their turn until it is there. It is cancelled
        with the job.
        """
        given_up: list[_Job] = []
        future: Future[R] = Future()
        with self._condition:
            self._check()
            self._offers.append(_Job(job, future, after=after))
            idle = [job for job in self._offers if job.after is None or not job.after.running()]
            for old in idle[: max(0, len(idle) - self._offers_limit)]:
                self._offers.remove(old)
                given_up.append(old)
            self._condition.notify()
        for old in given_up:
            old.cancel()
        if after is not None:
            after.add_done_callback(self._wake)
        return future

    def call(
        self, job: Callable[[T], R], latest: str | None = None, urgent: bool = False, always: bool = False
    ) -> Future[R]:
        """Queue a job that is answered in any case; `urgent` ones come next, however many wait.

        Raises BusyError when too many wait; jobs that are `always` taken may be ALWAYS more.
        """
        future: Future[R] = Future()
        self._line_up(_Job(job, future, latest, urgent, always))
        return future

    def submit(self, task: Task[T]) -> None:
        """Queue a task, as `call` does a job."""
        self._line_up(task)

    def _line_up(self, entry: _Job | Task[T]) -> None:
        replaced = None
        with self._condition:
            self._check()
            if entry.urgent:
                self._calls.appendleft(entry)
                self._call_next = True
                self._condition.notify()
                return
            for index, old in enumerate(self._calls):
                if entry.name is not None and entry.name == old.name:
                    replaced = old.future
                    self._calls[index] = entry
                    break
            else:
                if len(self._calls) >= self._calls_limit + (ALWAYS if entry.always else 0):
                    raise BusyError(
                        f"{len(self._calls)} requests wait already: ask again later, or less often"
                    )
                self._calls.append(entry)
            self._condition.notify()
        if replaced is not None:
            replaced.cancel()

    def clear_offers(self) -> int:
        """Cancel the offers that wait, and return how many they were."""
        with self._condition:
            waiting, self._offers = list(self._offers), collections.deque()
        for job in waiting:
            job.cancel()
        return len(waiting)

    def __len__(self) -> int:
        """Return the number of jobs that wait."""
        return len(self._offers) + len(self._calls)

    def stop(self, timeout: float | None = None) -> bool:
        """Cancel what waits, end the thread after the job at hand. Returns whether it ended in time."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._cancel_waiting()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _check(self) -> None:
        if self._stopping:
            raise StoppedError("the worker has been stopped")

    def _run(self) -> None:
        try:
            thing = self._make()
        except BaseException as error:
            with self._condition:
                self._stopping = True
            self._cancel_waiting()
            self.started.set_exception(error)
            return
        self.started.set_result(None)
        restless = True
        while True:
            with self._condition:
                while not (self._calls or self._stopping or self._ready_offer()):
                    if not self._condition.wait(QUIET if restless else None):
                        break
                if self._stopping:
                    return
                entry, together = self._next()
            if entry is None:
                restless = self._idle(thing)
                continue
            restless = True
            if isinstance(entry, Task):
                self._do_piece(thing, entry, together)
            elif entry.future.set_running_or_notify_cancel():
                try:
                    result = entry.work(thing)
                except BaseException as error:
                    entry.future.set_exception(error)
                else:
                    entry.future.set_result(result)
                    del result
            # Not kept until the next job comes: they may hold images.
            del entry, together

    def _do_piece(self, thing: T, task: Task[T], together: list[Task[T]]) -> None:
        if not task.begin():
            return
        try:
            task.step(thing, together)
        except BaseException as error:
            task.fail(error)
            return
        with self._condition:
            # Others may have come to their end along with it.
            self._calls = collections.deque(
                e for e in self._calls if not (isinstance(e, Task) and e.finished)
            )
            if task.finished:
                return
            if self._stopping:
                task.fail(StoppedError("the worker has been stopped"))
                return
            # Behind the tasks that follow it, before the plain call that came after it; urgent ones came out of turn.
            place = 0
            while place < len(self._calls):
                entry = self._calls[place]
                if isinstance(entry, _Job) and not entry.urgent:
                    break
                place += 1
            self._calls.insert(place, task)

    def _wake(self, _: Future) -> None:
        with self._condition:
            self._condition.notify()

    def _ready_offer(self) -> _Job | None:
        return next((job for job in self._offers if job.after is None or job.after.done()), None)

    def _next(self) -> tuple[_Job | Task[T] | None, list[Task[T]]]:
        """Return the next entry, if any, and the tasks that follow it."""
        offer = self._ready_offer()
        if not self._calls and offer is None:
            return None, []
        take_call = bool(self._calls) and (self._call_next or offer is None)
        self._call_next = not take_call
        if not take_call:
            assert offer is not None
            self._offers.remove(offer)
            return offer, []
        entry = self._calls.popleft()
        together: list[Task[T]] = []
        if isinstance(entry, Task):
            for other in self._calls:
                if isinstance(other, _Job):
                    break
                together.append(other)
        return entry, together

    def _cancel_waiting(self) -> None:
        with self._condition:
            offers, waiting = list(self._offers), list(self._calls)
            self._offers.clear()
            self._calls.clear()
        for job in offers:
            job.cancel()
        for entry in waiting:
            if not entry.future.cancel() and isinstance(entry, Task):
                entry.fail(StoppedError("the worker has been stopped"))
