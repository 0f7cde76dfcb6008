"""At most one request under way, and the newest of those that wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pacer(Generic[T]):
    """Send the newest item as soon as the one before it is done; what is overtaken is never sent.

    So the sender sets the pace, nothing queues up, and the last item is always sent. send: starts a request and
    has `done` called when it has ended, however it did. Safe to use from several threads.
    """

    def __init__(self, send: Callable[[T], None]):
        self._send = send
        self._lock = threading.Lock()
        self._waiting: list[T] = []  # none or one
        self._busy = False
        self.overtaken = 0

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._busy

    def offer(self, item: T) -> None:
        """Send an item now, or when the one under way is done."""
        with self._lock:
            if self._busy:
                self.overtaken += len(self._waiting)
                self._waiting = [item]
                return
            self._busy = True
        self._start(item)

    def done(self) -> None:
        """Note that the request under way has ended."""
        with self._lock:
            if not self._waiting:
                self._busy = False
                return
            item = self._waiting.pop()
        self._start(item)

    def _start(self, item: T) -> None:
        try:
            self._send(item)
        except BaseException:
            with self._lock:
                self._busy = False
            raise
