"""What went wrong, said once and clearly: counted by kind, logged at most every so often."""

from __future__ import annotations

import collections
import re
import threading
import time
import traceback
from collections.abc import Callable

KNOWN_LIMIT = 256
"""Different messages that are remembered for throttling."""


class Reports:
    """Count faults by kind; log a message at once, and the same again only after `period` seconds.

    Messages that differ in numbers alone are the same one. log: takes the finished line. debug: takes details
    of what nobody foresaw. clock: seconds, steady. Safe to use from several threads.
    """

    def __init__(
        self,
        log: Callable[[str], object],
        period: float = 5.0,
        debug: Callable[[str], object] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._log, self._debug, self._period, self._clock = log, debug, period, clock
        self._lock = threading.Lock()
        self._logged: collections.OrderedDict[str, tuple[float, int]] = collections.OrderedDict()
        self.counts: collections.Counter[str] = collections.Counter()
        self.last = ""

    def add(self, kind: str, message: str) -> None:
        """Note a fault. Kinds are short and few; the message tells cause and remedy."""
        now = self._clock()
        key = kind + re.sub(r"\d+", "", message)
        with self._lock:
            self.counts[kind] += 1
            self.last = message
            at, silent = self._logged.get(key, (-float("inf"), 0))
            throttled = now - at < self._period
            self._logged[key] = (at, silent + 1) if throttled else (now, 0)
            self._logged.move_to_end(key)
            if len(self._logged) > KNOWN_LIMIT:
                self._logged.popitem(last=False)
        if not throttled:
            self._log(f"{kind}: {message}" + (f" ({silent} more like this since)" if silent else ""))

    def fault(self, what: str, error: BaseException) -> str:
        """Note an exception that nobody foresaw, and return what to say about it."""
        message = f"{what}: {type(error).__name__}: {error}"
        self.add("internal", message)
        self._debug("".join(traceback.format_exception(error)))
        return message
