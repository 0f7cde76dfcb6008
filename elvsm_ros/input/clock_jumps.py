"""A clock that was set back, told from messages that come late. No rclpy, no clock of its own."""

from __future__ import annotations

import enum

SECOND = 1_000_000_000


class Order(enum.Enum):
    """How a message's stamp fits in: `OLD` ones may be the first after a jump; `STALE` ones are from before.

    `BACK` is as good as `NORMAL`, and says that the message before it was far ahead of its time.
    """

    NORMAL = enum.auto()
    BACK = enum.auto()
    OLD = enum.auto()
    JUMP = enum.auto()
    STALE = enum.auto()


class Timeline:
    """Watch the stamps of several streams that share a clock.

    A single message that is more than `tolerance` seconds older than its stream's newest is late; `patience`
    of them in a row, each newer than the one before, say that the clock was set back: a recording that
    started anew, a simulation that was reset. After that, what is still under way from the time before is
    STALE, for at most `leftovers` messages of a stream.

    A single message that is more than `leap` seconds ahead of the one before it, and of the one after it, is no
    reason to think that the clock was set back.
    """

    def __init__(self, tolerance: float = 1.0, patience: int = 3, leftovers: int = 20, leap: float = 10.0):
        self._tolerance, self._patience, self._leftovers = round(tolerance * SECOND), patience, leftovers
        self._leap = round(leap * SECOND)
        self._newest: dict[str, int] = {}
        self._before_leap: dict[str, int] = {}  # the newest stamp before one that was far ahead
        self._old: dict[str, list[int]] = {}
        self._before: dict[str, tuple[int, int]] = {}  # by stream: stamps above, and for how many messages

    def see(self, stream: str, stamp: int) -> Order:
        """Take note of a message. stamp: nanoseconds. With JUMP, it and the OLD ones before it are new."""
        limit, left = self._before.get(stream, (0, 0))
        if left and stamp > limit:
            self._before[stream] = limit, left - 1
            return Order.STALE
        self._before.pop(stream, None)
        newest = self._newest.get(stream)
        old = self._old.setdefault(stream, [])
        before_leap = self._before_leap.pop(stream, None)
        if newest is not None and stamp > newest + self._leap:
            self._before_leap[stream] = newest
        elif (
            before_leap is not None
            and newest is not None
            and before_leap - self._tolerance <= stamp < newest - self._leap
        ):
            self._newest[stream] = max(before_leap, stamp)
            return Order.BACK
        # Whatever follows an old one and is not newer than all of them goes with it: recordings may be short.
        if newest is None or stamp > newest or (not old and stamp >= newest - self._tolerance):
            self._newest[stream] = stamp if newest is None else max(newest, stamp)
            old.clear()
            return Order.NORMAL
        if old and stamp <= old[-1]:
            old.clear()
        old.append(stamp)
        if len(old) < self._patience:
            return Order.OLD
        # Half way back: a stream that lags behind the one that told of the jump still shows stamps near the end.
        limit = stamp + (newest - stamp) // 2
        self._before = {
            other: (limit, self._leftovers)
            for other, at in self._newest.items()
            if other != stream and at > limit
        }
        self._newest = {stream: stamp}
        self._old.clear()
        self._before_leap.clear()
        return Order.JUMP

    def clear(self) -> None:
        """Forget all stamps."""
        self._newest.clear()
        self._old.clear()
        self._before_leap.clear()
        self._before.clear()
