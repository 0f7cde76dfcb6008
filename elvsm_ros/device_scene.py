"""Model, scene and device as the worker's thread uses them."""

from __future__ import annotations

import dataclasses
import logging
import time

import numpy as np
from numpy.typing import NDArray

import elvsm_core as ec
from elvsm_core.scene import Plan
from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.input.image_intake import Candidate
from elvsm_ros.keyframes.corrections import Corrected, Correction
from elvsm_ros.keyframes.inserted import Inserted, mean_colour
from elvsm_ros.monitoring.stats import Window
from elvsm_ros.parameters.table import Settings
from elvsm_ros.rendering.cache_capacity import slots
from elvsm_ros.rendering.decode_pacing import Decode, Pace
from elvsm_ros.rendering.render_task import GROUP, RenderTask
from elvsm_ros.rendering.requests import Query, RequestError

log = logging.getLogger(__name__)

WARM_VIEWS = 8
"""Requests that use up to so many keyframes find everything prepared; others cost some milliseconds once."""
TARGETS = (1, 2, 4, 8)
"""Numbers of targets that are decoded at once."""
CALM = 0.1
"""Seconds without a request after which there is time to prepare for requests that nobody has made yet."""
SIZES = 8
"""Sizes of targets that are prepared for; each takes device memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rendered:
    """An answer: uint8 RGB [H, W, 3] each at the size asked for; support; views used."""

    images: list[NDArray[np.uint8]]
    support: NDArray[np.float32]
    views: list[int]


def make_scene(settings: Settings, model: ec.EfficientLVSM) -> ec.Scene:
    """Return an empty scene, as the node has it with these parameters."""
    size = settings.image_size
    image_size = (size[0], size[1]) if size[0] else model.config.image_size
    capacity = slots(settings.capacity, model, image_size)
    return ec.Scene(
        model, capacity, image_size, max_keyframes=settings.max_keyframes, detail_size=settings.detail_size
    )


class DeviceScene:
    """Load a model, own a scene. Every method runs on one thread; `insert_ms` may be read from others.

    Raises ValueError (elvsm_core's errors) for a model, device or size that cannot be.
    """

    def __init__(self, settings: Settings):
        self.model = ec.load_model(settings.model, device=settings.device, dtype=settings.dtype)
        self.scene = make_scene(settings, self.model)
        capacity = self.scene.capacity
        self.native_size: tuple[int, int] = self.scene.image_size
        self.patch_size: int = self.model.config.patch_size
        self.device = str(self.model.device)
        self._cuda = self.model.device.type == "cuda"  # encodes several views at once, and wants preparation
        self.insert_ms = Window()
        self._pace, self._detail_pace = Pace(most=GROUP), Pace(most=GROUP)
        self._spare = 0  # keyframes that may be encoded again when there is time
        self._usual_views = min(settings.max_views or capacity, capacity)
        self._sizes = {self.native_size}  # of targets, as far as they are prepared for
        self._unprepared: list[tuple[tuple[int, int], int]] = []  # sizes, and numbers of targets
        self._asked = 0.0  # when a request was last served, time.perf_counter()
        # So that neither the first keyframe nor the first requests wait for kernels to be chosen.
        self.scene.warm_up(view_counts=range(1, min(self._usual_views, WARM_VIEWS) + 1))

    def insert(self, candidate: Candidate, rgb: NDArray[np.uint8] | None = None) -> Inserted:
        """Make an image a keyframe. rgb: the candidate's picture, if it has been decoded already.

        Raises ValueError for a bad one and leaves the scene.
        """
        start = time.perf_counter()
        if rgb is None:
            rgb = candidate.picture()
        before = set(self.scene.views)
        view = self.scene.insert(
            rgb, _camera(candidate.camera, candidate.T_world_cam), stamp=candidate.stamp / 1e9
        )
        # It may have changed the scene's frame. As many as a render near the camera needs are enough: with the next
        # keyframe comes the next frame.
        self._spare = max(self._spare, self._usual_views)
        evicted = sorted(before.difference(self.scene.views))
        self.insert_ms.add((time.perf_counter() - start) * 1e3)
        return Inserted(view, evicted, candidate.T_world_cam, mean_colour(rgb))

    def correct(self, correction: Correction) -> Corrected:
        """Move keyframes after a loop closure; those that are not there are passed over.

        One motion of all moves the scene's frame and encodes nothing; else the moved ones are encoded again
        when a render needs them. Raises ValueError for a pose that is none and leaves the scene.
        """
        if correction.T_new_old is not None:
            poses = correction.T_new_old @ self.scene.poses
            moved, unknown = dict(zip(self.scene.views, poses, strict=True)), []
        else:
            known = set(self.scene.views)
            moved = {view: T for view, T in correction.poses.items() if view in known}
            unknown = sorted(correction.poses.keys() - known)
        self.scene.update_poses(moved)
        self._spare = self.scene.capacity
        messages = {view: conversions.matrix_to_pose(T) for view, T in moved.items()}
        return Corrected(moved, messages, unknown)

    def render(self, query: Query) -> Rendered:
        """Answer a query at once. Raises as `serve` does."""
        wanted = query.camera
        task = RenderTask(
            query, lambda images: [conversions.resize(i, wanted.width, wanted.height) for i in images]
        )
        while task.begin():
            self.serve(task, [])
        answer = task.future.result()
        return Rendered(answer.messages, answer.support, answer.views)

    def serve(self, task: RenderTask, waiting: list[RenderTask]) -> None:
        """Render the next targets of a request, and of such as wait and can be decoded along with it.

        Only requests that use the same keyframes in the same frame share a decode, so that what one gets does
        not depend on who else asks. Raises RequestError before the first keyframe.
        """
        if not len(self.scene):
            raise RequestError(
                "there is no keyframe yet: wait until images with poses have arrived (see ~/status)"
            )
        self._asked = time.perf_counter()
        if task.query.detail:
            self._add_detail(task)
            return
        self._expect(task.query.render_size)
        limit = self._pace.targets
        plan, shared = task.plan(self.scene), [(task, task.left(limit))]
        for other in waiting:
            room = limit - sum(len(cameras) for _, cameras in shared)
            if room < 1:
                break
            if other.fits(task) and other.plan(self.scene) == plan and other.begin():
                shared.append((other, other.left(room)))
        self._pace.make_room()
        try:
            self._decode(shared, plan, not waiting)
        except Exception:
            if len(shared) == 1:
                raise
            self._decode(shared[:1], plan, False)  # nobody else's fault, at least

    def _decode(self, shared: list[tuple[RenderTask, list[ec.Camera]]], plan: Plan, alone: bool) -> None:
        cameras = [camera for _, part in shared for camera in part]
        start, first = time.perf_counter(), 0
        decode = Decode(self.scene.render_async(cameras, plan=plan))
        for request, part in shared:
            request.take(decode, first, len(part), alone)
            first += len(part)
        self._pace.add(decode, len(cameras), start)

    def _add_detail(self, task: RenderTask) -> None:
        """Render the next targets of a request with detail: as many as leave the device to others soon enough."""
        self._pace.make_room()
        cameras, start = task.left(self._detail_pace.targets), time.perf_counter()
        decode = Decode(None, self.scene.render(cameras, detail=True, plan=task.plan(self.scene)))
        task.take(decode, 0, len(cameras), False)
        self._detail_pace.add(decode, len(cameras), start)

    def _expect(self, size: tuple[int, int]) -> None:
        """Note that targets of a size are asked for: others of that size will come, alone and together."""
        if self._cuda and size not in self._sizes and len(self._sizes) < SIZES:
            self._sizes.add(size)
            self._unprepared += [(size, count) for count in TARGETS]

    def tidy(self) -> bool:
        """Do a little of what can wait until nobody asks for anything. Returns whether more is left.

        Encodes keyframes that a correction or a change of frame made stale, or prepares for a kind of request
        that came unprepared; after a while without requests, also for kinds that are to be expected.
        """
        try:
            if self._spare > 0:
                count = min(self._spare, GROUP if self._cuda else 1)
                self._spare -= count
                if self.scene.encode_stale(count):
                    return True
                self._spare = 0
            if self.scene.capture_missing(1):
                return True
            if self._unprepared and time.perf_counter() - self._asked > CALM:
                size, targets = self._unprepared.pop(0)
                self.scene.warm_up([size], [self._usual_views], [targets])
            return bool(self._unprepared)
        except Exception as error:  # what needs it will be told
            log.warning("work for idle times failed: %s", error)
            return False

    def clear(self) -> int:
        """Forget all keyframes, and return how many they were."""
        count = len(self.scene)
        self.scene.clear()
        return count


def _camera(camera: Intrinsics, T_world_cam: NDArray[np.float64]) -> ec.Camera:
    return ec.Camera(camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, T_world_cam)
