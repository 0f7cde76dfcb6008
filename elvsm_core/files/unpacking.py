"""From what a scene's file holds to keyframes that a scene can take over at once."""

from __future__ import annotations

import dataclasses

from ..frame import SceneFrame
from ..rendering import SceneError
from ..store import KeyframeStore
from .persistence import StoredScene


@dataclasses.dataclass(frozen=True, eq=False)
class Unpacked:
    """A stored scene, ready to be adopted once. next_id: the first id that it never used."""

    keyframes: KeyframeStore
    frame: SceneFrame | None
    next_id: int


def unpack(stored: StoredScene, image_size: tuple[int, int], max_keyframes: int | None) -> Unpacked:
    """Prepare a stored scene for one of an image size (height, width); see `Scene.unpack`."""
    if stored.image_size != image_size:
        (height, width), (own_height, own_width) = stored.image_size, image_size
        raise SceneError(
            f"the images of the stored scene have {width}x{height} pixels and this scene's have "
            f"{own_width}x{own_height}: make a scene with image_size ({height}, {width})"
        )
    store = KeyframeStore.of(stored.views)
    while max_keyframes is not None and len(store) > max_keyframes:
        store.remove(store.most_redundant())
    return Unpacked(store, stored.frame, stored.next_id)
