"""The thread that owns the device."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from elvsm_ros.worker import ALWAYS, BusyError, StoppedError, Task, Worker

PATIENCE = 20


class Log(list):
    """The owned thing: what was done, in order, and by which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def note(self, what: Any) -> Any:
        assert threading.get_ident() == self.thread
        self.append(what)
        return what


def blocked(worker: Worker[Log]) -> tuple[threading.Event, Future]:
    """Keep the worker busy until the event is set."""
    entered, leave = threading.Event(), threading.Event()

    def job(log: Log) -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    future = worker.call(job)
    assert entered.wait(PATIENCE)
    return leave, future


@pytest.fixture
def worker() -> Any:
    worker: Worker[Log] = Worker(Log, offers=2, calls=3)
    yield worker
    assert worker.stop(PATIENCE)


def test_results_and_exceptions_come_back_and_none_ends_the_thread(worker: Worker[Log]) -> None:
    assert worker.started.result(PATIENCE) is None
    assert worker.call(lambda log: log.note("a")).result(PATIENCE) == "a"
    for error in (ValueError("bad"), MemoryError("full"), SystemExit(3)):

        def fail(log: Log, error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)):
            worker.call(fail).result(PATIENCE)
        with pytest.raises(type(error)):
            worker.offer(fail).result(PATIENCE)
    assert worker.call(lambda log: list(log)).result(PATIENCE) == ["a"]


def test_the_newest_offers_win(worker: Worker[Log]) -> None:
    leave, _ = blocked(worker)
    futures = [worker.offer(lambda log, i=i: log.note(i)) for i in range(5)]
    assert [future.cancelled() for future in futures] == [True, True, True, False, False]
    assert len(worker) == 2
    leave.set()
    assert [future.result(PATIENCE) for future in futures[3:]] == [3, 4]


def test_calls_and_offers_take_turns(worker: Worker[Log]) -> None:
    leave, _ = blocked(worker)
    futures = [worker.offer(lambda log, i=i: log.note(f"offer {i}")) for i in range(2)]
    futures += [worker.call(lambda log, i=i: log.note(f"call {i}")) for i in range(3)]
    leave.set()
    for future in futures:
        future.result(PATIENCE)
    order = worker.call(lambda log: list(log)).result(PATIENCE)
    assert order == ["offer 0", "call 0", "offer 1", "call 1", "call 2"]


def test_too_many_calls_are_refused(worker: Worker[Log]) -> None:
    leave, _ = blocked(worker)
    for _ in range(3):
        worker.call(lambda log: None)
    with pytest.raises(BusyError, match="3 requests wait"):
        worker.call(lambda log: None)
    leave.set()


def test_the_latest_call_of_a_name_replaces_the_one_that_waits(worker: Worker[Log]) -> None:
    leave, _ = blocked(worker)
    futures = [worker.call(lambda log, i=i: log.note(i), latest="pose") for i in range(6)]
    other = worker.call(lambda log: log.note("other"))
    assert [future.cancelled() for future in futures] == [True] * 5 + [False]
    leave.set()
    assert other.result(PATIENCE) == "other"
    assert worker.call(lambda log: list(log)).result(PATIENCE) == [5, "other"]


def test_offers_can_be_called_off(worker: Worker[Log]) -> None:
    leave, _ = blocked(worker)
    futures = [worker.offer(lambda log: log.note("never")) for _ in range(2)]
    assert worker.clear_offers() == 2
    assert all(future.cancelled() for future in futures)
    leave.set()
    assert worker.call(lambda log: list(log)).result(PATIENCE) == []


def test_stop_cancels_what_waits_and_reports_a_job_that_goes_on() -> None:
    worker: Worker[Log] = Worker(Log)
    leave, running = blocked(worker)
    waiting = [worker.call(lambda log: None), worker.offer(lambda log: None)]
    assert worker.stop(timeout=0.05) is False
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(CancelledError):
        waiting[0].result(0)
    with pytest.raises(StoppedError):
        worker.call(lambda log: None)
    leave.set()
    assert running.result(PATIENCE) is None
    assert worker.stop(PATIENCE) is True


def test_a_thing_that_cannot_be_made_is_told_and_nothing_hangs() -> None:
    enter = threading.Event()

    def make() -> Log:
        assert enter.wait(PATIENCE)
        raise OSError("no such model")

    worker = Worker(make)
    waiting = worker.call(lambda log: None)
    enter.set()
    with pytest.raises(OSError, match="no such model"):
        worker.started.result(PATIENCE)
    assert waiting.cancelled()
    with pytest.raises(StoppedError):
        worker.offer(lambda log: None)
    assert worker.stop(PATIENCE)


class Steps(Task[Log]):
    """A task of several pieces; with `along`, pieces of the tasks that wait are done with it."""

    def __init__(self, what: str, count: int, along: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.what, self.count, self.done, self.along = what, count, 0, along

    @property
    def finished(self) -> bool:
        return self.done == self.count

    def advance(self, log: Log) -> None:
        self.done += 1
        log.note(f"{self.what}{self.done}")
        if self.finished:
            self.succeed(self.what)

    def step(self, thing: Log, waiting: list[Task[Log]]) -> None:
        self.advance(thing)
        for other in waiting if self.along else []:
            if isinstance(other, Steps) and other.begin():
                other.advance(thing)


def test_pieces_of_tasks_take_turns_and_plain_calls_keep_their_place(worker: Worker[Log]) -> None:
    leave, _ = blocked(worker)
    large, small, after = Steps("a", 3), Steps("b", 1), Steps("c", 1)
    offers = [worker.offer(lambda log, i=i: log.note(f"offer {i}")) for i in range(2)]
    worker.submit(large)
    worker.submit(small)
    call = worker.call(lambda log: log.note("call"))
    leave.set()
    call.result(PATIENCE)
    worker.submit(after)
    for future in (large.future, small.future, *offers):
        future.result(PATIENCE)
    assert after.future.result(PATIENCE) == "c"
    order = worker.call(lambda log: list(log)).result(PATIENCE)
    # The call came after both tasks and sees them done, however many pieces they had.
    assert order == ["offer 0", "a1", "offer 1", "b1", "a2", "a3", "call", "c1"]


def test_tasks_are_advanced_along_with_another_and_none_is_done_twice(worker: Worker[Log]) -> None:
    leave, _ = blocked(worker)
    first, second, third = Steps("a", 2, along=True), Steps("b", 1), Steps("c", 2)
    for task in (first, second, third):
        worker.submit(task)
    third.future.cancel()
    leave.set()
    assert first.future.result(PATIENCE) == "a" and second.future.result(PATIENCE) == "b"
    assert worker.call(lambda log: list(log)).result(PATIENCE) == ["a1", "b1", "a2"]
    assert third.future.cancelled() and not len(worker)


def test_an_urgent_call_comes_between_the_pieces_of_a_task(worker: Worker[Log]) -> None:
    task = Steps("a", 3)

    def step(thing: Log, waiting: list[Task[Log]]) -> None:
        task.advance(thing)
        if task.done == 1:
            worker.call(lambda log: log.note("urgent"), urgent=True)

    task.step = step  # type: ignore[method-assign]
    worker.submit(task)
    task.future.result(PATIENCE)
    assert worker.call(lambda log: list(log)).result(PATIENCE) == ["a1", "urgent", "a2", "a3"]


def test_a_task_that_fails_ends_and_a_newer_one_of_its_name_replaces_it(worker: Worker[Log]) -> None:
    def fail(thing: Log, waiting: list[Task[Log]]) -> None:
        raise OSError("bad")

    leave, _ = blocked(worker)
    old, new = Steps("a", 1, name="pose"), Steps("b", 2, name="pose")
    worker.submit(old)
    worker.submit(new)
    assert old.future.cancelled() and len(worker) == 1
    new.step = fail  # type: ignore[method-assign]
    leave.set()
    with pytest.raises(OSError, match="bad"):
        new.future.result(PATIENCE)
    assert worker.call(lambda log: list(log)).result(PATIENCE) == [] and not len(worker)


def test_stop_ends_a_task_between_two_pieces() -> None:
    worker: Worker[Log] = Worker(Log)
    entered, leave = threading.Event(), threading.Event()
    task = Steps("a", 1000)

    def step(thing: Log, waiting: list[Task[Log]]) -> None:
        task.advance(thing)
        entered.set()
        leave.wait(PATIENCE)

    task.step = step  # type: ignore[method-assign]
    worker.submit(task)
    assert entered.wait(PATIENCE)
    assert worker.stop(timeout=0.01) is False
    leave.set()
    with pytest.raises(StoppedError):
        task.future.result(PATIENCE)
    assert worker.stop(PATIENCE) and task.done == 1


def test_idle_work_is_done_when_nothing_waits_until_it_says_so() -> None:
    left = 3

    def idle(log: Log) -> bool:
        nonlocal left
        if left:
            left -= 1
            log.note("idle")
        return left > 0

    worker: Worker[Log] = Worker(Log, idle=idle)
    try:
        deadline = time.monotonic() + PATIENCE
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
        assert worker.call(lambda log: list(log)).result(PATIENCE) == ["idle"] * 3
        left = 1  # more to do, as another job found out
        worker.call(lambda log: None).result(PATIENCE)
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
        assert worker.call(lambda log: len(log)).result(PATIENCE) == 4
    finally:
        assert worker.stop(PATIENCE)


def test_an_offer_waits_for_what_it_needs_and_nobody_waits_for_it(worker: Worker[Log]) -> None:
    needed: Future[str] = Future()
    offer = worker.offer(lambda log: log.note(f"offer with {needed.result()}"), after=needed)
    assert worker.call(lambda log: log.note("call")).result(PATIENCE) == "call"
    assert worker.offer(lambda log: log.note("another")).result(PATIENCE) == "another"
    assert not offer.done() and len(worker) == 1
    needed.set_result("picture")
    assert offer.result(PATIENCE) == "offer with picture"
    broken: Future[str] = Future()
    broken.set_exception(ValueError("damaged"))
    with pytest.raises(ValueError, match="damaged"):
        worker.offer(lambda log: broken.result(), after=broken).result(PATIENCE)


def test_what_is_being_made_ready_stays_and_what_is_given_up_is_not_made(worker: Worker[Log]) -> None:
    """With more than can be made ready, the one that is at work is the next to be done, and the newest follow."""
    needed: list[Future[int]] = [Future() for _ in range(6)]
    assert needed[0].set_running_or_notify_cancel()
    offers = [worker.offer(lambda log, n=n: log.note(str(n)), after=after) for n, after in enumerate(needed)]
    assert [offer.cancelled() for offer in offers] == [after.cancelled() for after in needed]
    kept = [n for n, offer in enumerate(offers) if not offer.cancelled()]
    assert kept[0] == 0 and kept[1:] == list(range(6))[1 - len(kept) :], kept
    for n in kept:
        needed[n].set_result(n)
    assert [offers[n].result(PATIENCE) for n in kept] == [str(n) for n in kept]


def test_calls_that_are_always_taken_have_a_limit_too(worker: Worker[Log]) -> None:
    leave, _ = blocked(worker)
    for _ in range(3 + ALWAYS):
        worker.call(lambda log: None, always=True)
    with pytest.raises(BusyError, match="requests wait already"):
        worker.call(lambda log: None, always=True)
    urgent = worker.call(lambda log: log.note("urgent"), urgent=True)
    leave.set()
    assert urgent.result(PATIENCE) == "urgent"
