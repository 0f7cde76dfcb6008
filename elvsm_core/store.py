"""The keyframes of a scene, with their poses in arrays that thousands of them can be searched in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from . import keyframes
from .persistence import Keyframe

DISTANCE, ANGLE = 0.15, float(np.deg2rad(10))
"""A hand's breadth of motion makes two views as different as ten degrees of rotation."""

FEW = 8
"""Keyframes that are better exchanged one by one."""


class KeyframeStore:
    """Keyframes by id, oldest first.

    Adding and removing cost time in proportion to the number of keyframes, a fraction of a millisecond for
    10,000. Ids are given in increasing order.
    """

    def __init__(self) -> None:
        self._keyframes: dict[int, Keyframe] = {}
        self._ids = np.zeros(64, dtype=np.int64)
        self._poses = np.zeros((64, 4, 4))
        self._numbers = np.zeros((12, 64))  # of keyframes.Views
        self._near = keyframes.Neighbourhood()  # likewise
        # For eviction: the nearest newer keyframe of each, and how different it is.
        self._nearest = np.full(64, -1, dtype=np.int64)
        self._difference = np.full(64, np.inf)

    def __len__(self) -> int:
        return len(self._keyframes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._keyframes)

    def __contains__(self, view: int) -> bool:
        return view in self._keyframes

    def __getitem__(self, view: int) -> Keyframe:
        return self._keyframes[view]

    def items(self) -> dict[int, Keyframe]:
        """Return a copy, {id: keyframe}, oldest first."""
        return dict(self._keyframes)

    @property
    def ids(self) -> NDArray[np.int64]:
        """[n], increasing; not to be written to, valid until the next change."""
        return self._ids[: len(self)]

    @property
    def poses(self) -> NDArray[np.float64]:
        """T_world_cam [n, 4, 4]; not to be written to, valid until the next change."""
        return self._poses[: len(self)]

    @property
    def views(self) -> keyframes.Views:
        """All of them as arrays; not to be written to, valid until the next change."""
        return keyframes.Views(self.poses, self._numbers[:, : len(self)], self._near)

    def add(self, view: int, keyframe: Keyframe) -> None:
        """Add a keyframe under an id larger than all others."""
        n = len(self)
        if n == len(self._ids):
            for name in ("_ids", "_poses", "_nearest", "_difference"):
                array = getattr(self, name)
                setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)], axis=1)
        self._keyframes[view] = keyframe
        self._ids[n] = view
        self._nearest[n], self._difference[n] = -1, np.inf
        self._write(n, keyframe)
        self._compare_older(n)

    def remove(self, view: int) -> None:
        """Forget a keyframe. Raises KeyError for an unknown id."""
        del self._keyframes[view]
        self._near.forget()
        n = len(self)
        row = int(np.searchsorted(self._ids[: n + 1], view))
        for array in (self._ids, self._poses, self._numbers.T, self._nearest, self._difference):
            array[row:n] = array[row + 1 : n + 1]
        for orphan in np.flatnonzero(self._nearest[:n] == view):
            self._compare_newer(int(orphan))

    def update(self, view: int, keyframe: Keyframe) -> None:
        """Exchange a keyframe under its id. Raises KeyError for an unknown id."""
        if view not in self._keyframes:
            raise KeyError(view)
        n = len(self)
        row = int(np.searchsorted(self.ids, view))
        moved = not np.array_equal(self._poses[row], keyframe.camera.T_world_cam)
        self._keyframes[view] = keyframe
        self._near.forget()
        self._write(row, keyframe)
        if moved:
            for orphan in np.flatnonzero(self._nearest[:n] == view):
                self._compare_newer(int(orphan))
            self._compare_newer(row)
            self._compare_older(row)

    def update_many(self, changed: Mapping[int, Keyframe]) -> None:
        """Exchange keyframes as `update` does, thousands in seconds. Raises KeyError for an unknown id, before all."""
        if len(changed) <= FEW:
            for view in changed:
                self._keyframes[view]
            for view, keyframe in changed.items():
                self.update(view, keyframe)
            return
        rows = np.searchsorted(self.ids, [view for view in changed if self._keyframes[view]])
        self._keyframes.update(changed)
        self._near.forget()
        for row, keyframe in zip(rows.tolist(), changed.values(), strict=True):
            self._write(row, keyframe)
        # One look at all later ones for each, where `update` looks again for whatever the moved one was nearest to.
        for row in range(len(self)):
            self._compare_newer(row)

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def most_redundant(self, protect: int = 8) -> int:
        """Return the id of the keyframe to evict: the older one of the closest pair.

        The newest `protect` are spared; when there are no others, the oldest goes.
        """
        candidates = len(self) - protect
        if candidates < 1:
            return int(self._ids[0])
        return int(self._ids[self._difference[:candidates].argmin()])

    def _write(self, row: int, keyframe: Keyframe) -> None:
        self._poses[row] = keyframe.camera.T_world_cam
        self._numbers[:, row] = keyframes.Views.of([keyframe.camera]).numbers[:, 0]

    def _differences(self, row: int, others: slice) -> NDArray[np.float64]:
        return keyframes.difference(self._poses[row], self._poses[others], DISTANCE, ANGLE)

    def _compare_older(self, row: int) -> None:
        """Let the keyframes before `row` know of it."""
        new = self._differences(row, slice(0, row))
        nearer = np.flatnonzero(new < self._difference[:row])
        self._difference[nearer] = new[nearer]
        self._nearest[nearer] = self._ids[row]

    def _compare_newer(self, row: int) -> None:
        """Find the nearest keyframe after `row` again."""
        later = self._differences(row, slice(row + 1, len(self)))
        if len(later):
            best = int(later.argmin())
            self._nearest[row], self._difference[row] = self._ids[row + 1 + best], later[best]
        else:
            self._nearest[row], self._difference[row] = -1, np.inf
