"""How much work the device is given at once."""

from __future__ import annotations

import collections
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elvsm_core import Rendering
    from elvsm_core.scene import PendingRendering

SLICE = 0.05
"""Seconds that a decode may take before a keyframe or another request gets its turn."""
AHEAD = 2
"""Decodes that wait for the device or run on it at most: enough to keep it busy."""


class Decode:
    """A decode that is under way, for several who wait for parts of it; or, with a result, one that is done."""

    def __init__(self, rendering: PendingRendering | None, result: Rendering | None = None):
        self._rendering: PendingRendering | None = rendering
        self._result: Rendering | None = result
        self._lock = threading.Lock()

    def done(self) -> bool:
        """Tell whether the images have arrived."""
        rendering = self._rendering
        return rendering is None or rendering.done()

    def result(self) -> Rendering:
        """Wait for the images. Any thread."""
        with self._lock:
            if self._rendering is not None:
                self._result, self._rendering = self._rendering.result(), None
            assert self._result is not None
            return self._result


class Pace:
    """Keep the device busy and its queue short; learn how many targets it decodes within SLICE.

    most: targets decoded at once at most. Not to be used from several threads.
    """

    def __init__(self, most: int):
        self._most = most
        self._seconds = 0.0  # for one target, as of late
        self._under_way: collections.deque[tuple[Decode, int, float]] = collections.deque()
        self._free_since = 0.0

    @property
    def targets(self) -> int:
        """Targets to decode at once: a power of two."""
        count = 1
        while 2 * count <= self._most and 2 * count * self._seconds <= SLICE:
            count *= 2
        return count

    def make_room(self) -> None:
        """Wait until the device may be given another decode. One that failed counts as done."""
        while len(self._under_way) >= AHEAD:
            decode, targets, start = self._under_way.popleft()
            waited = not decode.done()
            try:
                decode.result()
            except Exception:  # told to those who asked for it
                continue
            if waited:  # else nobody knows when it was done
                self._learn(targets, start)

    def add(self, decode: Decode, targets: int, start: float) -> None:
        """Take note of a decode of so many targets that was begun at `start`, time.perf_counter()."""
        if decode.done():  # a device that computes within the call, or a very quick one
            self._learn(targets, start)
        else:
            self._under_way.append((decode, targets, start))

    def _learn(self, targets: int, start: float) -> None:
        now = time.perf_counter()
        spent = (now - max(start, self._free_since)) / targets
        self._free_since = now
        self._seconds = spent if not self._seconds else 0.7 * self._seconds + 0.3 * spent
