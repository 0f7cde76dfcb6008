"""Percentiles of the newest measurements."""

from __future__ import annotations

import collections
import math
import threading


class Window:
    """The newest `length` values. Safe to use from several threads."""

    def __init__(self, length: int = 256):
        self._values: collections.deque[float] = collections.deque(maxlen=length)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        with self._lock:
            self._values.append(value)

    def percentile(self, percent: float) -> float:
        """Return the value that `percent` of the window do not exceed (nearest rank); NaN if it is empty."""
        with self._lock:
            ordered = sorted(self._values)
        if not ordered:
            return math.nan
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
