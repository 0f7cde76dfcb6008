"""What is asked of a scene and what it answers: requests, which keyframes serve them, renderings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from . import keyframes
from .cameras import Camera
from .engine import Pending
from .files.persistence import Keyframe
from .frame import SceneFrame
from .store import KeyframeStore

Support = Callable[[], NDArray[np.float32]]
"""Computes the support of a request's targets; called while the device is at work, because it takes time."""


class SceneError(ValueError):
    """A request that a scene cannot serve as it is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rendering:
    """Rendered views.

    images: uint8 [M, H, W, 3]. support: float32 [M] in [0, 1], the share of each target's field of view that
    the used keyframes look into (0: the picture is invention). views: ids of the keyframes used.
    With detail (see `Scene.render`) also depth: float32 [M, H, W], metres along z, and confidence: float32 [M, H, W] in
    [0, 1], how far the picture and its depth are the keyframes' own (0: the picture is the network's, and the depth a
    guess); otherwise None.
    """

    images: NDArray[np.uint8]
    support: NDArray[np.float32]
    views: list[int]
    depth: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a request is rendered with: ids of keyframes, oldest first, and a frame, if not the scene's own."""

    views: tuple[int, ...]
    frame: SceneFrame | None = None


class PendingRendering:
    """A rendering that the device is at work on. Any thread may ask for it; the scene is free meanwhile."""

    def __init__(self, images: Pending, support: Support, views: list[int]) -> None:
        self._images, self._support, self.views = images, support, views

    def done(self) -> bool:
        """Tell whether the images have arrived."""
        return self._images.done()

    def result(self) -> Rendering:
        """Wait for the images and return them."""
        support = self._support()  # while the device is busy
        return Rendering(self._images.wait(), support, self.views)


def check_request(cameras: Sequence[Camera], max_views: int | None) -> None:
    if not cameras:
        raise SceneError("no camera to render: ask for at least one view")
    if max_views is not None and max_views < 1:
        raise SceneError(f"max_views must be at least 1, got {max_views}; None uses all views")
    if len(cameras) > 1 and any(camera.size != cameras[0].size for camera in cameras):
        raise SceneError("all cameras of one request must have the same size: split the request")


def check_filled(store: KeyframeStore) -> None:
    if not len(store):
        raise SceneError("the scene is empty: insert a keyframe before asking for a render")


def look_up(store: KeyframeStore, view: int) -> Keyframe:
    """Return a keyframe by its id. Raises SceneError for an unknown one."""
    try:
        return store[view]
    except KeyError:
        raise SceneError(f"there is no view {view} in this scene: evicted, or of another scene") from None


def choose(
    store: KeyframeStore, cameras: Sequence[Camera], limit: int
) -> tuple[list[int], Callable[[], Support]]:
    """Return the ids of the keyframes that serve a request best, at most `limit`, and what keeps their poses.

    The latter is to be called before the store changes, when the device has its work.
    """
    if len(store) <= limit:
        return list(store), lambda: _support_of(cameras, store.views.copy())
    targets = keyframes.Targets.of(cameras)
    # In order of age, so that the sums run in the order of a fresh scene with these views.
    rows = keyframes.most_useful(targets, store.views, limit)
    return store.ids[rows].tolist(), lambda: _support_of(targets, store.views[rows])


def support_by(used: Sequence[Camera], cameras: Sequence[Camera]) -> Support:
    """Return the support of targets by keyframes that were chosen before."""
    return lambda: _support_of(cameras, keyframes.Views.of(used))()


def _support_of(targets: Sequence[Camera] | keyframes.Targets, used: keyframes.Views) -> Support:
    def support() -> NDArray[np.float32]:
        of = targets if isinstance(targets, keyframes.Targets) else keyframes.Targets.of(targets)
        return keyframes.support(keyframes.visibilities(of, used))

    return support
