"""Where the camera was when an image was taken: a buffer of stamped poses and interpolation between them.

Stamps are integer nanoseconds. Nothing here knows rclpy.
"""

from __future__ import annotations

import bisect
import collections
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elvsm_ros.conversions import ConversionError, check_pose, parts_to_matrix, slerp

SECOND = 1_000_000_000
LEAP = 10 * SECOND
"""Nanoseconds by which a pose may be ahead of the one before it without suspicion."""


class PoseError(ValueError):
    """A pose that is refused, or an image that no pose can be found for. `reason` is short, for counting."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class PoseSource(Protocol):
    """Anything that knows where the camera was."""

    def lookup(self, stamp: int) -> NDArray[np.float64] | None:
        """Return T_world_cam at a stamp, or None when it may still become known.

        Raises PoseError when it never will. A source that can say why something is not known has that, with
        the remedy, as its attribute `missing`; one that goes by the images' frame_id has `see_image(frame_id)`.
        """
        ...

    def clear(self) -> None:
        """Forget all poses."""
        ...


class Mounted:
    """Poses of a camera that sits on a body at a place that is known. T_body_cam: 4x4."""

    def __init__(self, body: PoseSource, T_body_cam: NDArray[np.float64]):
        self._body, self._T_body_cam = body, T_body_cam

    def lookup(self, stamp: int) -> NDArray[np.float64] | None:
        """Return T_world_cam [4, 4] at a stamp, as the body's source does."""
        T_world_body = self._body.lookup(stamp)
        return None if T_world_body is None else T_world_body @ self._T_body_cam

    def clear(self) -> None:
        """Do nothing: the body's poses are cleared where they are kept."""


class PoseBuffer:
    """Poses that arrive as messages, interpolated: linear in position, slerp in orientation.

    length: seconds of poses that are kept. gap: seconds between two poses beyond which nothing is
    interpolated. T_body_cam: 4x4, the camera's optical frame in the frame whose poses arrive.

    `counts` tells how many poses were refused for which reason ("invalid", "duplicate", "out of order", "too
    old"), and how many lookups failed ("before", "gap").
    """

    def __init__(self, length: float = 10.0, gap: float = 0.5, T_body_cam: NDArray[np.float64] | None = None):
        self._length, self._gap = round(length * SECOND), round(gap * SECOND)
        self._T_body_cam = T_body_cam
        self._stamps: list[int] = []
        self._poses: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        self.counts: collections.Counter[str] = collections.Counter()

    def __len__(self) -> int:
        return len(self._stamps)

    def limit(self, gap: float) -> None:
        """Interpolate over no more than so many seconds from now on."""
        self._gap = round(gap * SECOND)

    @property
    def newest(self) -> int | None:
        """Stamp of the newest pose, or None."""
        return self._stamps[-1] if self._stamps else None

    def add(self, stamp: int, translation: NDArray[np.float64], xyzw: NDArray[np.float64]) -> None:
        """Store a pose: translation [3] in metres, quaternion [4] as x, y, z, w.

        Raises PoseError for NaN, a quaternion that is not normalised, and a stamp that is not newer than the
        newest one; the buffer stays as it was.
        """
        try:
            xyzw = check_pose(translation, xyzw)
        except ConversionError as error:
            raise self._refused("invalid", str(error)) from error
        newest = self.newest
        if newest is not None and stamp <= newest:
            late = (newest - stamp) / SECOND
            if stamp == newest:
                raise self._refused(
                    "duplicate", f"pose has the stamp of the one before it ({_text(stamp)} s)"
                )
            if late <= 1.0:
                raise self._refused("out of order", f"pose is {late:.3f} s older than the newest one")
            raise self._refused(
                "too old",
                f"pose is {late:.1f} s older than the newest one: two sources publish it, or the clock was "
                f"set back (a bag started again?), for which there is on_time_jump",
            )
        self._stamps.append(stamp)
        self._poses.append((np.array(translation, dtype=np.float64), xyzw))
        # One pose older than the limit stays, as the earlier end of the first interval.
        keep = max(0, bisect.bisect_right(self._stamps, stamp - self._length) - 1)
        if keep > 64:  # in batches, because the front of a list is dear to delete from
            del self._stamps[:keep], self._poses[:keep]

    def lookup(self, stamp: int) -> NDArray[np.float64] | None:
        """Return T_world_cam [4, 4] at a stamp; None while no pose at or after it has arrived.

        Never extrapolates. Raises PoseError for a stamp before the oldest pose, and in a gap.
        """
        after = bisect.bisect_left(self._stamps, stamp)
        if after == len(self._stamps):
            return None
        if self._stamps[after] == stamp:
            return self._camera(*self._poses[after])
        if after == 0:
            raise self._refused(
                "before",
                f"image is {(self._stamps[0] - stamp) / SECOND:.3f} s older than the oldest pose that is "
                f"known: poses started later than images, or images arrive later than pose_buffer",
            )
        gap = self._stamps[after] - self._stamps[after - 1]
        if gap > LEAP and after == len(self._stamps) - 1:
            return None  # it may be out of line itself: the next one tells
        if gap > self._gap:
            raise self._refused(
                "gap",
                f"image falls between two poses that are {gap / SECOND:.3f} s apart, more than pose_gap "
                f"({self._gap / SECOND:g} s): the localisation paused, or publishes more slowly than that",
            )
        fraction = (stamp - self._stamps[after - 1]) / gap
        (p, q), (p_after, q_after) = self._poses[after - 1], self._poses[after]
        return self._camera(p + fraction * (p_after - p), slerp(q, q_after, fraction))

    def drop_newest(self) -> None:
        """Forget the newest pose: its stamp has turned out to be wrong."""
        if self._stamps:
            self._stamps.pop()
            self._poses.pop()

    def clear(self) -> None:
        """Forget all poses; the counts stay."""
        self._stamps.clear()
        self._poses.clear()

    def _camera(self, translation: NDArray[np.float64], xyzw: NDArray[np.float64]) -> NDArray[np.float64]:
        T = parts_to_matrix(translation, xyzw)
        return T if self._T_body_cam is None else T @ self._T_body_cam

    def _refused(self, reason: str, message: str) -> PoseError:
        self.counts[reason] += 1
        return PoseError(reason, message)


def _text(stamp: int) -> str:
    return f"{stamp // SECOND}.{stamp % SECOND:09d}"
