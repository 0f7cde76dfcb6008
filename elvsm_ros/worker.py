"""One thread that owns a thing (here: model, scene and device) and does every job on it."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class BusyError(RuntimeError):
    """Too many calls wait already."""


class StoppedError(RuntimeError):
    """The worker has been stopped."""


class Worker(Generic[T]):
    """Run jobs on a thing that one thread makes, owns and alone touches.

    make: builds the thing, on the thread; `started` gives its outcome. Jobs are functions of the thing; their
    results and exceptions come back through futures, and no exception ends the thread.

    Two lines of jobs are served in turn, so that neither waits for the other to run dry:
    * `offer`: at most `offers` wait; the oldest gives way to a new one, and its future is cancelled;
    * `call`: first come, first served, at most `calls` wait; with `latest`, a new job takes the place of the
      one with the same name that still waits.

    Callbacks of futures run on the thread (or on the one that cancels): keep them short.
    """

    def __init__(self, make: Callable[[], T], offers: int = 4, calls: int = 256, name: str = "worker"):
        self._make, self._offers_limit, self._calls_limit = make, offers, calls
        self._condition = threading.Condition()
        self._offers: collections.deque[tuple[Callable[[T], Any], Future]] = collections.deque()
        self._calls: collections.deque[tuple[Callable[[T], Any], Future, str | None]] = collections.deque()
        self._call_next = True
        self._stopping = False
        self.started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, job: Callable[[T], R]) -> Future[R]:
        """Queue a job that may be given up for a newer one: then its future is cancelled."""
        given_up: list[Future] = []
        future: Future[R] = Future()
        with self._condition:
            self._check()
            self._offers.append((job, future))
            while len(self._offers) > self._offers_limit:
                given_up.append(self._offers.popleft()[1])
            self._condition.notify()
        for old in given_up:
            old.cancel()
        return future

    def call(self, job: Callable[[T], R], latest: str | None = None, urgent: bool = False) -> Future[R]:
        """Queue a job that is answered in any case; `urgent` ones come next, however many wait.

        Raises BusyError when too many wait.
        """
        future: Future[R] = Future()
        replaced = None
        with self._condition:
            self._check()
            if urgent:
                self._calls.appendleft((job, future, None))
                self._call_next = True
                self._condition.notify()
                return future
            for index, (_, old, name) in enumerate(self._calls):
                if latest is not None and name == latest:
                    replaced = old
                    self._calls[index] = (job, future, latest)
                    break
            else:
                if len(self._calls) >= self._calls_limit:
                    raise BusyError(
                        f"{len(self._calls)} requests wait already: ask again later, or less often"
                    )
                self._calls.append((job, future, latest))
            self._condition.notify()
        if replaced is not None:
            replaced.cancel()
        return future

    def clear_offers(self) -> int:
        """Cancel the offers that wait, and return how many they were."""
        with self._condition:
            waiting, self._offers = list(self._offers), collections.deque()
        for _, future in waiting:
            future.cancel()
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
        while True:
            with self._condition:
                while not (self._offers or self._calls or self._stopping):
                    self._condition.wait()
                if self._stopping:
                    return
                job, future = self._next()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = job(thing)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
            # Not kept until the next job comes: they may hold images.
            del job, future

    def _next(self) -> tuple[Callable[[T], Any], Future]:
        take_call = bool(self._calls) and (self._call_next or not self._offers)
        self._call_next = not take_call
        if take_call:
            job, future, _ = self._calls.popleft()
            return job, future
        return self._offers.popleft()

    def _cancel_waiting(self) -> None:
        with self._condition:
            waiting = [future for _, future in self._offers] + [future for _, future, _ in self._calls]
            self._offers.clear()
            self._calls.clear()
        for future in waiting:
            future.cancel()
