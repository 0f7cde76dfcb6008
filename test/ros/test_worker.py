"""The thread that owns the device."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from elvsm_ros.worker import BusyError, StoppedError, Worker

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
