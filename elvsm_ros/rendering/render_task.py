"""Requests on their way over the device: in pieces, together with others, and on to a finished answer."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elvsm_ros.rendering.decode_pacing import Decode
from elvsm_ros.rendering.requests import Query
from elvsm_ros.worker import StoppedError, Task

if TYPE_CHECKING:
    from elvsm_core import Camera, Scene, SceneFrame
    from elvsm_core.scene import Plan

GROUP = 8
"""Poses of a request, one after the other, that share one choice of keyframes."""

RGB = NDArray[np.uint8]
Finish = Callable[[Sequence[RGB]], list[Any]]
"""Makes messages of rendered images, [H, W, 3] each at the size they were rendered at. Any thread."""
Layers = Callable[[NDArray[np.float32], NDArray[np.float32]], list[tuple[Any, Any]]]
"""Makes messages of depths and confidences, [n, H, W]. Any thread."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What became of a request: a message for each pose, support [n] in [0, 1], keyframes used, increasing.

    layers: messages of depth and of confidence for each pose, where they were asked for.
    """

    messages: list[Any]
    support: NDArray[np.float32]
    views: list[int]
    layers: list[tuple[Any, Any]]


class Device(Protocol):
    """What serves tasks: a DeviceScene."""

    def serve(self, task: RenderTask, waiting: list[RenderTask]) -> None:
        """Render the next poses of a task, together with those of waiting ones that fit."""
        ...


class RenderTask(Task[Device]):
    """A request in the line for the device; `future` gives its Answer.

    The device's thread takes its poses a few at a time (`DeviceScene.serve`), never across the border between two
    groups of GROUP poses, and hands their images to `finish`: on `pool`, or at once where there is none. quick:
    at once also while no other request waits, because that takes less time than the way to another thread. layers: for
    a query that wants depth.
    """

    def __init__(
        self,
        query: Query,
        finish: Finish,
        pool: Executor | None = None,
        name: str | None = None,
        quick: bool = False,
        layers: Layers | None = None,
    ) -> None:
        super().__init__(name)
        self.query = query
        self._finish, self._pool, self._quick, self._layers = finish, pool, quick, layers
        self._done = 0
        self._plan: tuple[int, SceneFrame | None, Plan] | None = None
        self._lock = threading.Lock()
        self._parts: dict[int, Answer] = {}  # by the first one's place

    @property
    def finished(self) -> bool:
        return self._done == len(self.query.T_world_cam)

    def step(self, thing: Device, waiting: list[Task[Any]]) -> None:
        thing.serve(self, [task for task in waiting if isinstance(task, RenderTask)])

    def fits(self, other: RenderTask) -> bool:
        """Tell whether targets of both can be decoded at once, if they use the same keyframes."""
        mine, theirs = self.query, other.query
        if mine.detail or theirs.detail:  # found for one target at a time, so nothing is gained
            return False
        return (mine.render_size, mine.max_views) == (theirs.render_size, theirs.max_views)

    @functools.cached_property
    def cameras(self) -> list[Camera]:
        """What is to be rendered. Not before the device's thread has imported PyTorch, which takes seconds."""
        from elvsm_core import Camera

        height, width = self.query.render_size
        numbers = dataclasses.astuple(self.query.camera.stretched(width, height))
        return [Camera(*numbers, T) for T in self.query.T_world_cam]

    def group(self) -> list[Camera]:
        """Return the cameras of the group that is at hand."""
        start = self._done - self._done % GROUP
        return self.cameras[start : start + GROUP]

    def left(self, limit: int) -> list[Camera]:
        """Return the cameras of the group that are to be rendered next, `limit` at most."""
        return self.group()[self._done % GROUP :][:limit]

    def plan(self, scene: Scene) -> Plan:
        """Return the keyframes, and the frame, that the group at hand is rendered with.

        They stay for all of the group, unless one of the keyframes was forgotten or the scene has another frame.
        """
        group = self._done // GROUP
        if self._plan is not None:
            of_group, frame, plan = self._plan
            if of_group == group and frame is scene.frame and all(view in scene for view in plan.views):
                return plan
        plan = scene.plan(self.group(), self.query.max_views)
        self._plan = group, scene.frame, plan
        return plan

    def take(self, decode: Decode, first: int, count: int, alone: bool) -> None:
        """Take what is being rendered of the next `count` cameras: from `first` on in it.

        alone: no other request waits for the device's thread.
        """
        place = self._done
        self._done += count
        try:
            if self._pool is None or (self._quick and alone):
                self._finish_part(place, decode, first, count)
            else:
                part = self._pool.submit(self._finish_part, place, decode, first, count)
                part.add_done_callback(self._see_part)
        except RuntimeError as error:  # the pool was shut down
            self.fail(StoppedError(str(error)))

    def _see_part(self, part: Future[None]) -> None:
        if part.cancelled():  # the pool is shut down: whoever asked is to learn of it
            self.fail(StoppedError("the answer was given up"))

    def _finish_part(self, place: int, decode: Decode, first: int, count: int) -> None:
        """Wait for images, make messages of them, and complete the answer when they are the last ones."""
        try:
            result, chosen = decode.result(), slice(first, first + count)
            messages, layers = self._finish(result.images[chosen]), []
            if self._layers is not None and result.depth is not None and result.confidence is not None:
                layers = self._layers(result.depth[chosen], result.confidence[chosen])
        except BaseException as error:
            self.fail(error)
            return
        with self._lock:
            self._parts[place] = Answer(messages, result.support[chosen], result.views, layers)
            if sum(len(part.messages) for part in self._parts.values()) < len(self.query.T_world_cam):
                return
        parts = [self._parts[place] for place in sorted(self._parts)]
        self.succeed(Answer(
            [message for part in parts for message in part.messages],
            np.concatenate([part.support for part in parts]),
            sorted({view for part in parts for view in part.views}),
            [layer for part in parts for layer in part.layers],
        ))  # fmt: skip
