"""Images wait here until it is known where the camera was."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from elvsm_ros.input.pose_source import PoseError, PoseSource

P = TypeVar("P")


@dataclasses.dataclass(frozen=True)
class Posed(Generic[P]):
    """An image (whatever stands for it), its stamp in nanoseconds, and T_world_cam at that stamp."""

    payload: P
    stamp: int
    T_world_cam: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Unposed(Generic[P]):
    """An image given up: `reason` is short, for counting; `message` tells cause and remedy."""

    payload: P
    stamp: int
    reason: str
    message: str


class ImageSync(Generic[P]):
    """A bounded queue of images that a pose source is asked about until it knows.

    length: images that wait at most; beyond it the oldest goes. timeout: seconds that an image waits.
    complete: tells of an image whose pose is known, by its stamp and the seconds that it has waited, whether
    all else that belongs to it has arrived; it is not asked after the timeout. Times are seconds of any steady
    clock, given by the caller.
    """

    def __init__(
        self,
        poses: PoseSource,
        length: int = 30,
        timeout: float = 1.0,
        complete: Callable[[int, float], bool] = lambda stamp, waited: True,
    ):
        self._poses, self._length, self._timeout, self._complete = poses, length, timeout, complete
        self._waiting: collections.deque[tuple[float, int, P]] = collections.deque()
        self.counts: collections.Counter[str] = collections.Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def limit(self, length: int, timeout: float) -> None:
        """Let so many images wait from now on, and for so long."""
        self._length, self._timeout = length, timeout

    @property
    def oldest(self) -> int | None:
        """The oldest stamp that waits, or None."""
        return min((stamp for _, stamp, _ in self._waiting), default=None)

    def add(self, stamp: int, payload: P, now: float) -> list[Unposed[P]]:
        """Let an image wait. Returns those that had to make room."""
        self._waiting.append((now, stamp, payload))
        given_up = []
        while len(self._waiting) > self._length:
            _, old_stamp, old = self._waiting.popleft()
            given_up.append(self._give_up(
                old, old_stamp, "overflow",
                f"more than {self._length} images wait for a pose: poses arrive later than images, or not "
                f"at all; raise sync_queue, or check the pose topic",
            ))  # fmt: skip
        return given_up

    def poll(self, now: float) -> tuple[list[Posed[P]], list[Unposed[P]]]:
        """Return the images whose pose is known by now, in the order of arrival, and those given up."""
        ready: list[Posed[P]] = []
        given_up: list[Unposed[P]] = []
        still: collections.deque[tuple[float, int, P]] = collections.deque()
        for arrived, stamp, payload in self._waiting:
            try:
                T = self._poses.lookup(stamp)
            except PoseError as error:
                given_up.append(self._give_up(payload, stamp, error.reason, str(error)))
                continue
            if T is not None and (now - arrived > self._timeout or self._complete(stamp, now - arrived)):
                ready.append(Posed(payload, stamp, T))
            elif T is None and now - arrived > self._timeout:
                why = getattr(self._poses, "missing", None) or (
                    "no pose at or after an image's stamp arrived: is the pose topic published, with stamps "
                    "of the same clock as the images?"
                )
                message = f"an image waited {self._timeout:g} s (sync_timeout) for its pose: {why}"
                given_up.append(self._give_up(payload, stamp, "timeout", message))
            else:
                still.append((arrived, stamp, payload))
        self._waiting = still
        return ready, given_up

    def clear(self) -> int:
        """Forget the images that wait, and return how many they were."""
        count = len(self._waiting)
        self._waiting.clear()
        return count

    def _give_up(self, payload: P, stamp: int, reason: str, message: str) -> Unposed[P]:
        self.counts[reason] += 1
        return Unposed(payload, stamp, reason, message)
