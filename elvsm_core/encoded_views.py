"""The device's side of a scene: views that are encoded in the frame that suits them, and renders begun from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from .cache import ViewCache
from .cameras import Camera
from .engine import Engine, camera_numbers
from .frame import SceneFrame
from .frame_policy import FramePolicy
from .images import ImageLike
from .paging import Pager
from .rendering import Plan, Support, check_filled, choose, look_up, support_by
from .store import KeyframeStore

P = TypeVar("P")
R = TypeVar("R")


class EncodedViews:
    """Encode a scene's views in its frame, or in a request's where that does not suit, and begin renders.

    frame: a SceneFrame that stays; None: the one that `policy` chooses. When the device runs out of memory, fewer
    targets are rendered at once, then half the slots are kept. The scene's lock guards all of it.
    """

    def __init__(
        self, engine: Engine, cache: ViewCache, pager: Pager, frame: SceneFrame | None, policy: FramePolicy
    ) -> None:
        self._engine, self._cache, self._pager, self._policy = engine, cache, pager, policy
        self.fixed = frame is not None
        self.frame = frame

    # The frame

    def choose_frame(self, keyframes: KeyframeStore, added: Sequence[Camera] = ()) -> None:
        """Choose the frame anew where that is due. added: of keyframes that are about to be added."""
        if self.fixed:
            return
        poses = keyframes.poses
        if added:
            poses = np.concatenate([poses, [camera.T_world_cam for camera in added]])
        self.set_frame(self._policy.next_frame(self.frame, poses))

    def set_frame(self, frame: SceneFrame | None) -> None:
        """Use a frame from now on; what was encoded in another one is stale."""
        if frame is not self.frame:
            self.frame = frame
            self._pager.leave_frame()

    def plan(
        self, keyframes: KeyframeStore, cameras: Sequence[Camera], max_views: int | None
    ) -> tuple[Plan, Callable[[], Support]]:
        """Return the keyframes that serve a request best, with the frame, and what keeps their poses; see `choose`."""
        check_filled(keyframes)
        capacity = self._cache.capacity
        views, keep = choose(keyframes, cameras, min(capacity, max_views or capacity))
        return Plan(tuple(views), self._frame_for(keyframes, views, cameras)), keep

    def _frame_for(
        self, keyframes: KeyframeStore, views: Sequence[int], cameras: Sequence[Camera]
    ) -> SceneFrame | None:
        """Return the frame to render in when it is not the scene's."""
        assert self.frame is not None
        if self.fixed:
            return None
        used = np.stack([keyframes[view].camera.T_world_cam for view in views])
        targets = np.stack([camera.T_world_cam for camera in cameras])
        if self._policy.suits(self.frame, used, targets):
            return None
        # Not where the robot is now, or not looking its way: the frame of another place, shared with its neighbours.
        return self._policy.frame_for(used, targets)

    # Work for the device

    def encode(self, views: Sequence[int], cameras: Sequence[Camera], images: Sequence[ImageLike]) -> None:
        """Encode views in the scene's frame; with half the slots when memory is short."""
        if not views:
            return
        assert self.frame is not None
        try:
            self._pager.put(views, cameras, images, self.frame)
        except torch.OutOfMemoryError:
            if not self._pager.shrink(batch_first=False):
                raise
            for view, camera, image in zip(views, cameras, images, strict=True):
                self._pager.put([view], [camera], [image], self.frame)

    def begin(
        self,
        keyframes: KeyframeStore,
        cameras: Sequence[Camera],
        max_views: int | None,
        render: Callable[[list[int], NDArray[np.float32], tuple[int, int]], P],
        answer: Callable[[P, Support, list[int]], R],
        plan: Plan | None = None,
    ) -> R:
        """Have an engine's function render views for cameras, and return what `answer` makes of it.

        plan: keyframes and frame to use instead of choosing. Raises SceneError for a keyframe that is gone.
        """
        check_filled(keyframes)
        while True:
            if plan is None:
                chosen, keep = self.plan(keyframes, cameras, max_views)
            else:
                chosen = plan
                used = [look_up(keyframes, view).camera for view in plan.views]
                keep = partial(support_by, used, cameras)
            views = list(chosen.views)
            try:
                frame, slots = self._slots(keyframes, views, chosen.frame)
                images = render(slots, camera_numbers(cameras, frame), cameras[0].size)
                return answer(images, keep(), views)  # the device is at work
            except torch.OutOfMemoryError:
                if not self._pager.shrink(batch_first=True):
                    raise
                if len(views) > self._cache.capacity:
                    plan, max_views = None, self._cache.capacity

    def _slots(
        self, keyframes: KeyframeStore, views: Sequence[int], frame: SceneFrame | None
    ) -> tuple[SceneFrame, list[int]]:
        """Return the frame to render in, the scene's own if None, and the slots that hold the views in it."""
        if frame is not None:
            return frame, self._pager.slots(views, keyframes, frame, frame.numbers)
        assert self.frame is not None
        return self.frame, self._pager.slots(views, keyframes, self.frame)
