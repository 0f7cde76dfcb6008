"""What went wrong, said once and clearly: counted by kind, logged at most every so often."""

from __future__ import annotations

import collections
import re
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError

from elvsm_ros.quoting import printable
from elvsm_ros.worker import BusyError, StoppedError

KNOWN_LIMIT = 256
"""Different messages that are remembered for throttling, and counted."""

BURST = 8
"""Different messages of one kind that are logged in a period."""
QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?:\.\.\. \(\d+ characters\))?""")
"""What a message quotes, as `quoted` does it."""


class Reports:
    """Count faults by kind; log a message at once, and the same again only after `period` seconds.

    Messages that differ in numbers and in what they quote are the same one; of one kind, BURST different ones are
    logged in a period at most. log: takes the finished line. debug: takes details of what nobody foresaw. clock:
    seconds, steady. Safe to use from several threads.
    """

    def __init__(
        self,
        log: Callable[[str], object],
        period: float = 5.0,
        debug: Callable[[str], object] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._log, self._debug, self._clock = log, debug, clock
        self.period = period
        self._lock = threading.Lock()
        self._logged: collections.OrderedDict[str, tuple[float, int]] = collections.OrderedDict()
        self._lines: dict[str, tuple[float, int]] = {}  # of a kind in this period: since when, and how many
        self.counts: collections.Counter[str] = collections.Counter()
        self._reasons: collections.Counter[tuple[str, str]] = collections.Counter()
        self.last = ""
        self.last_of: dict[str, str] = {}
        """The newest message of each kind."""
        self.on_fault: Callable[[BaseException], None] = lambda error: None
        """Called with every exception that nobody foresaw."""

    def add(self, kind: str, message: str) -> None:
        """Note a fault. Kinds are short and few; the message tells cause and remedy."""
        now, message = self._clock(), printable(message)
        text = QUOTED.sub("'...'", message)
        key = kind + re.sub(r"\d+", "", text)
        with self._lock:
            self.counts[kind] += 1
            self._count_reason(kind, text)
            self.last = self.last_of[kind] = message
            at, silent = self._logged.get(key, (-float("inf"), 0))
            throttled = now - at < self.period or self._too_many(kind, now)
            self._logged[key] = (at, silent + 1) if throttled else (now, 0)
            self._logged.move_to_end(key)
            if len(self._logged) > KNOWN_LIMIT:
                self._logged.popitem(last=False)
        if not throttled:
            self._log(f"{kind}: {message}" + (f" ({silent} more like this since)" if silent else ""))

    def _too_many(self, kind: str, now: float) -> bool:
        """Tell whether a kind has had its lines of this period; if not, take one."""
        since, lines = self._lines.get(kind, (-float("inf"), 0))
        if now - since >= self.period:
            since, lines = now, 0
        self._lines[kind] = since, lines + (lines < BURST)
        return lines >= BURST

    def answer(self, kind: str, what: str, error: BaseException) -> str:
        """Note what kept a request from being served, and return what to tell whoever asked. what: failed."""
        if isinstance(error, CancelledError | StoppedError):
            return "the node is being cleaned up or shut down"
        if isinstance(error, ValueError | OSError | BusyError):
            self.add(kind, f"{what}: {error}")
            return str(error)
        return self.fault(what, error)

    def reasons(self, limit: int) -> list[tuple[str, str, int]]:
        """Return the most frequent faults, `limit` at most: kind, message with # for numbers, how often."""
        with self._lock:
            return [(kind, text, count) for (kind, text), count in self._reasons.most_common(limit)]

    def _count_reason(self, kind: str, message: str) -> None:
        key = kind, re.sub(r"-?\d+(\.\d+)?", "#", message)
        if key not in self._reasons and len(self._reasons) >= KNOWN_LIMIT:
            self._reasons.pop(min(self._reasons, key=self._reasons.__getitem__))
        self._reasons[key] += 1

    def fault(self, what: str, error: BaseException) -> str:
        """Note an exception that nobody foresaw, and return what to say about it."""
        message = f"{what}: {type(error).__name__}: {error}"
        self.add("internal", message)
        self._debug("".join(traceback.format_exception(error)))
        self.on_fault(error)
        return message
