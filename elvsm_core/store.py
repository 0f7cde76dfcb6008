"""The keyframes of a scene, with their poses in arrays that thousands of them can be searched in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from . import keyframes
from .files.persistence import Keyframe

DISTANCE, ANGLE = 0.15, float(np.deg2rad(10))
"""A hand's breadth of motion makes two views as different as ten degrees of rotation."""

FEW = 8
"""Keyframes that are better exchanged one by one."""
ROWS = 64
"""Keyframes that are compared with all others at once: what they take fits into the cache of a processor."""


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

    @classmethod
    def of(cls, views: Mapping[int, Keyframe]) -> KeyframeStore:
        """Return a store of many keyframes, {id: keyframe} with increasing ids, as `add` one by one would make it.

        Takes some seconds for 20,000, where one by one takes a minute.
        """
        store, n = cls(), len(views)
        if not n:
            return store
        store._keyframes = dict(views)
        found = keyframes.Views.of([keyframe.camera for keyframe in views.values()])
        store._ids, store._poses = np.array(list(views), dtype=np.int64), found.T_world_cam
        store._numbers = found.numbers
        store._nearest, store._difference = np.full(n, -1, dtype=np.int64), np.full(n, np.inf)
        for start in range(0, n - 1, ROWS):
            rows = np.arange(start, min(start + ROWS, n - 1))
            store._nearest[rows], store._difference[rows] = _nearest_newer(store._poses, store._ids, rows)
        return store

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
        for view in changed:
            self._keyframes[view]
        if len(changed) > FEW:
            self.__dict__.update(vars(KeyframeStore.of({**self._keyframes, **changed})))
            return
        for view, keyframe in changed.items():
            self.update(view, keyframe)

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


def _nearest_newer(
    poses: NDArray[np.float64], ids: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the id of the nearest newer keyframe of each of some neighbouring rows, and how different it is."""
    here, there = poses[rows], poses[rows[0] :]
    squares = np.zeros((len(rows), len(there)))
    trace = here[:, :3, :3].reshape(-1, 9) @ there[:, :3, :3].reshape(-1, 9).T
    for axis in range(3):
        apart = here[:, axis, 3, None] - there[None, :, axis, 3]
        squares += np.square(apart, out=apart)
    squares[np.tri(len(rows), len(there), dtype=bool)] = np.inf  # themselves and older ones
    best, difference = np.zeros(len(rows), np.int64), np.zeros(len(rows))
    for row, closest in enumerate(squares.argmin(1)):
        # What is farther away, or turned farther, than the one with the closest centre needs no look.
        bound = keyframes.difference(here[row], there[closest], DISTANCE, ANGLE)[0] * (1 + 1e-9) + 1e-9
        turned = np.cos(bound * ANGLE) if bound * ANGLE < np.pi else -1.0
        near = np.flatnonzero(
            (squares[row] <= (bound * DISTANCE) ** 2) & (trace[row] >= 1 + 2 * turned - 1e-9)
        )
        units = keyframes.difference(here[row], there[near], DISTANCE, ANGLE)
        best[row], difference[row] = near[units.argmin()], units.min()
    return ids[rows[0] + best], difference
