"""Which views have keys and values on the device, in which slots; what makes room for what."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from .cache import ViewCache
from .cameras import Camera
from .engine import Engine, camera_numbers
from .frame import SceneFrame
from .images import ImageLike
from .store import KeyframeStore

log = logging.getLogger(__name__)

Place = tuple[float, bytes] | None
"""Where a view was encoded: None in the scene's own frame, else in another one, by its numbers."""


class Pager:
    """Encode views into slots, their own, a free one or the least recently used one.

    A view has a slot for every frame that it was encoded in lately. Nothing is lost with a slot: the view is
    encoded again when it is needed, and gives the same numbers.
    """

    def __init__(self, engine: Engine, cache: ViewCache) -> None:
        self._engine, self._cache = engine, cache
        self._slots: dict[tuple[int, Place], int] = {}  # least recently used first
        self._stale: dict[int, None] = {}

    def put(
        self,
        views: Sequence[int],
        cameras: Sequence[Camera],
        images: Sequence[ImageLike],
        frame: SceneFrame,
        place: Place = None,
    ) -> None:
        """Encode views, at most `capacity`, from their cameras and images at the scene's size."""
        slots = []
        for view in views:
            slot = self._slots.pop((view, place), None)
            if slot is None:
                if not self._cache.free:
                    self._cache.evict(self._slots.pop(next(iter(self._slots))))
                slot = self._cache.take()
            slots.append(slot)
        try:
            self._engine.encode(images, camera_numbers(cameras, frame), slots)
        except BaseException:
            for slot in slots:
                self._cache.evict(slot)
            raise
        for view, slot in zip(views, slots, strict=True):
            self._slots[view, place] = slot
            if place is None:
                self._stale.pop(view, None)

    def slots(
        self,
        views: Sequence[int],
        keyframes: KeyframeStore,
        frame: SceneFrame,
        place: Place = None,
    ) -> list[int]:
        """Return the slots of views in that order; those without one are encoded. At most `capacity` views."""
        slots, missing, held = [], [], self._slots
        for view in views:
            key = (view, place)
            slot = held.pop(key, None)
            if slot is None:
                missing.append(view)
            else:
                held[key] = slot  # used last
                slots.append(slot)
        if not missing:
            return slots
        found = [keyframes[view] for view in missing]
        self.put(missing, [one.camera for one in found], [one.image for one in found], frame, place)
        return [held[view, place] for view in views]

    def release(self, views: Iterable[int], stale: bool = False) -> None:
        """Free all slots of views; with `stale`, those in the scene's own frame are remembered as such."""
        views = set(views)
        self._drop([key for key in self._slots if key[0] in views], stale)
        if not stale:
            for view in views:
                self._stale.pop(view, None)

    def leave_frame(self) -> None:
        """The scene's own frame is another one now: what was encoded in it is stale."""
        self._drop([key for key in self._slots if key[1] is None], stale=True)

    def leave_others(self) -> None:
        """Free the slots of views in other frames than the scene's own."""
        self._drop([key for key in self._slots if key[1] is not None], stale=False)

    def clear(self) -> None:
        self._slots.clear()
        self._stale.clear()
        self._cache.clear()

    @property
    def stale(self) -> list[int]:
        """Views that lost their slots to a correction or a new frame, the newest first."""
        return sorted(self._stale, reverse=True)

    @property
    def room(self) -> int:
        """Number of views that can be encoded without taking another one's slot."""
        return self._cache.free

    def forget_stale(self) -> None:
        self._stale.clear()

    def _drop(self, keys: list[tuple[int, Place]], stale: bool) -> None:
        for key in keys:
            self._cache.evict(self._slots.pop(key))
            if stale and key[1] is None:
                self._stale[key[0]] = None

    def shrink(self, batch_first: bool) -> bool:
        """Need less device memory from now on; return False when that is not possible any more.

        First by decoding fewer targets at once (with batch_first), then with half the slots, all of them empty.
        """
        self._engine.release_memory()
        if batch_first and self._engine.batch > 1:
            self._engine.batch //= 2
            log.warning("out of device memory: rendering %d targets at once from now on", self._engine.batch)
            return True
        if self._cache.capacity == 1:
            return False
        self.clear()
        self._cache.resize(self._cache.capacity // 2)
        log.warning(
            "out of device memory: keeping keys and values of %d views on the device from now on; set a smaller "
            "capacity, or free memory that others use",
            self._cache.capacity,
        )
        return True
