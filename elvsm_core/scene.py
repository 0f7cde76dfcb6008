"""A scene: keyframes on the host, keys and values of some of them on the device, renders from anywhere."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .cache import ViewCache
from .cameras import Camera, check_pose
from .detail.request import DETAIL_SIZE, detailed, keep_picture, network_cameras
from .encoded_views import EncodedViews
from .engine_selection import make_engine
from .files.persistence import Keyframe, StoredScene, write_scene
from .files.scene_reading import read_scene
from .files.unpacking import Unpacked as Unpacked
from .files.unpacking import unpack
from .frame import SceneFrame, common_motion
from .frame_policy import FramePolicy
from .images import ImageLike
from .model import EfficientLVSM
from .paging import Pager
from .rendering import PendingRendering, Plan, Rendering, SceneError, check_request, look_up, support_by
from .store import KeyframeStore


class Scene:
    """Keep posed images of one static scene and render it from other poses.

    model: an EfficientLVSM in eval mode; its device and dtype are the scene's.
    capacity: slots for encoded views on the device, allocated here, and the most that one render uses.
    image_size: (height, width) pixels that images are cropped and resampled to; None: the model's own.
    frame: a SceneFrame that stays; None: one that is chosen from the first keyframes, and anew (`policy`)
    when the camera has left the range that the model knows.
    max_keyframes: images kept on the host; when there are more, the most redundant one is evicted. None: all.
    detail_size: longer side, pixels, of the pictures that are kept beside the images for renders with detail; each
    takes 3 bytes a pixel on the host, 0.9 MB at 640x480. 0: none are kept, and such renders use the images.
    engine: "fused" (CUDA: fused kernels and CUDA graphs, see `warm_up`), "eager" (the model as it is), or
    "auto", the fastest for the device. All are exact: a scene that was edited renders what a fresh one does.

    Keyframes without a slot are encoded again when a render needs them, which gives the same numbers.
    All methods may be called from several threads; each sees the scene as another one left it. A method that
    raises leaves the scene as it was. When the device runs out of memory, the scene renders fewer targets at
    once, then keeps half the slots, with a warning, and goes on.
    """

    def __init__(
        self,
        model: EfficientLVSM,
        capacity: int = 64,
        image_size: tuple[int, int] | None = None,
        frame: SceneFrame | None = None,
        *,
        max_keyframes: int | None = None,
        policy: FramePolicy | None = None,
        engine: str = "auto",
        detail_size: int = DETAIL_SIZE,
    ) -> None:
        if detail_size < 0:
            raise SceneError(f"detail_size must be 0 or a number of pixels, got {detail_size}")
        if max_keyframes is not None and max_keyframes < 1:
            raise SceneError(f"max_keyframes must be at least 1, got {max_keyframes}")
        self.model = model
        height, width = image_size if image_size is not None else model.config.image_size
        self.image_size = (int(height), int(width))
        model.check_size(self.image_size)
        self._cache = ViewCache.of(model.config, capacity, self.image_size, model.device, model.dtype)
        self._engine = make_engine(engine, model, self._cache, self.image_size)
        self._pager = Pager(self._engine, self._cache)
        self._encoded = EncodedViews(self._engine, self._cache, self._pager, frame, policy or FramePolicy())
        self._max_keyframes = max_keyframes
        self._detail_size = detail_size
        self._keyframes = KeyframeStore()
        self._next_id = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._keyframes)

    def __contains__(self, view: int) -> bool:
        return view in self._keyframes

    @property
    def capacity(self) -> int:
        return self._cache.capacity

    @property
    def frame(self) -> SceneFrame | None:
        """The world-to-model similarity; None before the first keyframe unless one was given."""
        return self._encoded.frame

    @property
    def views(self) -> list[int]:
        """Ids of all keyframes, oldest first."""
        with self._lock:
            return self._keyframes.ids.tolist()

    @property
    def poses(self) -> NDArray[np.float64]:
        """T_world_cam [n, 4, 4] of all keyframes, oldest first."""
        with self._lock:
            return self._keyframes.poses.copy()

    def keyframe(self, view: int) -> Keyframe:
        """Return what is stored of a view. Raises SceneError for an unknown id."""
        return look_up(self._keyframes, view)

    def insert(self, image: ImageLike, camera: Camera, stamp: float | None = None) -> int:
        """Add a view and return its id, an int that stays valid for the scene's life.

        image: uint8 RGB [camera.height, camera.width, 3], undistorted. stamp: seconds. Costs one encoder
        pass, whatever the number of views. Raises ImageError or CameraError.
        """
        return self.insert_many([(image, camera, stamp)])[0]

    def insert_many(self, items: Sequence[tuple[ImageLike, Camera, float | None]]) -> list[int]:
        """Add several views, the images of a rig say, as one batch of the encoder, and return their ids.

        items: (image, camera, stamp) each, as for `insert`, which is this with one item. A frame that follows the
        keyframes follows these in their order; what max_keyframes evicts goes afterwards. All or nothing: raises
        ImageError or CameraError for any of them, and none is in the scene then.
        """
        with self._lock:
            frame, first = self._encoded.frame, self._next_id
            prepared = [self._engine.prepare(image, camera) for image, camera, _ in items]
            views = list(range(first, first + len(prepared)))
            try:
                for number in range(len(prepared)):
                    self._encoded.choose_frame(
                        self._keyframes, [one.camera for one in prepared[: number + 1]]
                    )
                fit = slice(-self.capacity, None)  # what came earlier would lose its slot again
                self._encoded.encode(
                    views[fit], [one.camera for one in prepared[fit]], [one.image for one in prepared[fit]]
                )
                kept = [
                    Keyframe(one.keep(), one.camera, stamp, *self._picture(image, camera))
                    for one, (image, camera, stamp) in zip(prepared, items, strict=True)
                ]
            except BaseException:  # out of device memory, say
                self._pager.release(views)
                self._encoded.set_frame(frame)
                raise
            for view, keyframe in zip(views, kept, strict=True):
                self._keyframes.add(view, keyframe)
                self._next_id = view + 1
                if self._max_keyframes is not None and len(self._keyframes) > self._max_keyframes:
                    self.evict(self._keyframes.most_redundant())
            return views

    def replace(self, view: int, image: ImageLike, camera: Camera) -> None:
        """Give a view another image and camera; its id stays.

        Raises as `insert` does, and SceneError for an unknown id.
        """
        with self._lock:
            old = self.keyframe(view)
            prepared = self._engine.prepare(image, camera)
            try:
                self._encoded.encode([view], [prepared.camera], [prepared.image])
                kept = Keyframe(prepared.keep(), prepared.camera, old.stamp, *self._picture(image, camera))
            except BaseException:
                self._pager.release([view], stale=True)  # its slot may hold the new image
                raise
            self._pager.leave_others()
            self._keyframes.update(view, kept)

    def evict(self, view: int) -> None:
        """Forget a view. Raises SceneError for an unknown id."""
        with self._lock:
            self.keyframe(view)
            self._keyframes.remove(view)
            self._pager.release([view])

    def clear(self) -> None:
        """Forget all views, and the frame unless it was given. Ids are not used again."""
        with self._lock:
            self._keyframes.clear()
            self._pager.clear()
            if not self._encoded.fixed:
                self._encoded.set_frame(None)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write images, cameras, stamps and the frame to one file, atomically. See `load`."""
        write_scene(path, self.snapshot(), {"model": self.model.config.to_json()})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: EfficientLVSM,
        capacity: int = 64,
        *,
        max_keyframes: int | None = None,
        policy: FramePolicy | None = None,
        detail_size: int = DETAIL_SIZE,
    ) -> Scene:
        """Read a scene that `save` wrote, ids included. Any model will do: views are encoded when needed.

        Raises SceneFileError for a file that is missing, damaged, foreign or of another version, ValueError
        for an image size that is no multiple of the model's patch size.
        """
        stored = read_scene(path)
        scene = cls(
            model,
            capacity,
            stored.image_size,
            stored.frame if stored.fixed_frame else None,
            max_keyframes=max_keyframes,
            policy=policy,
            detail_size=detail_size,
        )
        scene.adopt(scene.unpack(stored))
        return scene

    def snapshot(self) -> StoredScene:
        """Return what `save` writes, in no time: nothing is copied, and later changes do not reach it."""
        with self._lock:
            encoded = self._encoded
            return StoredScene(
                self.image_size, encoded.frame, encoded.fixed, self._keyframes.items(), self._next_id
            )

    def unpack(self, stored: StoredScene) -> Unpacked:
        """Prepare what a file holds for `adopt`: the part that takes time. The scene goes on as it is.

        Raises SceneError for images of another size than this scene's. More than max_keyframes views: the
        most redundant ones are left out.
        """
        return unpack(stored, self.image_size, self._max_keyframes)

    def adopt(self, unpacked: Unpacked) -> None:
        """Hold exactly what was unpacked, ids included, from one moment to the next.

        Ids of views that are inserted later are new to this scene and to the stored one. A frame that was
        given to this scene stays.
        """
        with self._lock:
            self._keyframes = unpacked.keyframes
            self._pager.clear()
            if not self._encoded.fixed:
                self._encoded.set_frame(unpacked.frame)
            self._next_id = max(self._next_id, unpacked.next_id)

    def update_poses(self, poses: Mapping[int, ArrayLike]) -> None:
        """Move views, after a loop closure say: {id: T_world_cam 4x4}.

        Only the views that really moved are encoded again: by `encode_stale`, or when a render needs them.
        When all views move by one rigid motion, only the frame moves and nothing is encoded. Raises SceneError
        for an unknown id and CameraError for a pose that is none; no view has moved then.
        """
        with self._lock:
            moved = {}
            for view, pose in poses.items():
                keyframe = self.keyframe(view)
                pose = check_pose(pose, f"the new pose of view {view}")
                if not np.array_equal(pose, keyframe.camera.T_world_cam):
                    moved[view] = dataclasses.replace(keyframe, camera=keyframe.camera.at(pose))
            rigid = None
            if moved and len(moved) == len(self._keyframes):
                new = [moved[view].camera.T_world_cam for view in self._keyframes.ids]
                rigid = common_motion(self._keyframes.poses, np.stack(new))
            encoded = self._encoded
            if rigid is not None and encoded.frame is not None and not encoded.fixed:
                encoded.frame = encoded.frame.moved(rigid)  # what is encoded in it stays
                self._pager.leave_others()
            else:
                self._pager.release(moved, stale=True)
            self._keyframes.update_many(moved)
            if len(self._keyframes):
                self._encoded.choose_frame(self._keyframes)

    @property
    def stale(self) -> list[int]:
        """Views that lost their keys and values to `update_poses` or to a new frame, the newest first."""
        with self._lock:
            return self._pager.stale

    def encode_stale(self, limit: int = 1) -> int:
        """Encode up to `limit` of the stale views again, while there are free slots; return how many are left.

        For idle times: a render that needs a stale view would have to wait for it to be encoded.
        """
        with self._lock:
            if self._pager.stale and not self._pager.room:
                self._pager.forget_stale()
            views = self._pager.stale[: min(limit, self._pager.room)]
            found = [self._keyframes[view] for view in views]
            self._encoded.encode(views, [one.camera for one in found], [one.image for one in found])
            return len(self._pager.stale)

    def warm_up(
        self,
        sizes: Sequence[tuple[int, int]] | None = None,
        view_counts: Sequence[int] = (1, 2, 3, 4, 8),
        target_counts: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        """Prepare for requests of these kinds, so that none of them waits for kernels or graphs to be made.

        sizes: (height, width) of targets, pixels; None: the scene's own. view_counts: numbers of views used;
        of target_counts any combination is covered. Other requests work, too; see `capture_missing`. The scene
        stays as it is. Call it before the first request, and again after `capacity` changed.
        """
        with self._lock:
            for size in sizes or [self.image_size]:
                self._engine.warm_up(size, view_counts, target_counts)

    def capture_missing(self, limit: int = 1) -> int:
        """Prepare for up to `limit` kinds of requests that came unprepared; return how many are left.

        For idle times: takes some tens of milliseconds for each.
        """
        with self._lock:
            return self._engine.capture_missing(limit)

    def plan(self, cameras: Sequence[Camera], max_views: int | None = None) -> Plan:
        """Return which keyframes `render` would use for a request, and in which frame; see `render_async`.

        Raises as `render` does.
        """
        check_request(cameras, max_views)
        with self._lock:
            return self._encoded.plan(self._keyframes, cameras, max_views)[0]

    def render(
        self,
        cameras: Sequence[Camera],
        max_views: int | None = None,
        *,
        detail: bool = False,
        plan: Plan | None = None,
    ) -> Rendering:
        """Render the scene as the given cameras would see it.

        cameras: one or more, all of one size in pixels. max_views: use only the most useful keyframes for
        this request; None: as many as there are, `capacity` at most. plan: see `render_async`. Raises SceneError for
        an empty scene, no cameras, cameras of different sizes.

        detail: search for depth, and show the keyframes' own pixels where they agree with each other and with the
        network (elvsm_core.detail); the network renders at about its own size then, however large the cameras are.
        """
        if not detail:
            return self.render_async(cameras, max_views, plan).result()
        check_request(cameras, max_views)
        with self._lock:
            plan = plan or self.plan(cameras, max_views)
            used = [self.keyframe(view) for view in plan.views]
            small = network_cameras(cameras, self.image_size, self.model.config.patch_size)
            images = self.render_tensor(small, plan=plan)
        support = support_by([keyframe.camera for keyframe in used], cameras)()
        return detailed(images, [one.finest for one in used], cameras, support, list(plan.views))

    def render_async(
        self, cameras: Sequence[Camera], max_views: int | None = None, plan: Plan | None = None
    ) -> PendingRendering:
        """Begin what `render` does. On CUDA this returns when the work is queued, in a fraction of a millisecond.

        Whatever is changed in the scene after the call does not reach the rendering. One thread can begin
        renders and insert keyframes while others wait for results.

        plan: render with these keyframes, in this frame, instead of choosing for `cameras`: a part of a
        request, or several requests of equal plans, then gives what the whole, or each alone, would have
        given. Raises SceneError as well for a keyframe that was evicted meanwhile.
        """
        check_request(cameras, max_views)
        with self._lock:
            return self._encoded.begin(
                self._keyframes, cameras, max_views, self._engine.render, PendingRendering, plan
            )

    def render_tensor(
        self, cameras: Sequence[Camera], max_views: int | None = None, plan: Plan | None = None
    ) -> Tensor:
        """Render as `render_async` does, and return float32 [M, 3, H, W] in [0, 1] on the model's device."""
        check_request(cameras, max_views)
        with self._lock:
            return self._encoded.begin(
                self._keyframes,
                cameras,
                max_views,
                self._engine.render_tensor,
                lambda images, *_: images,
                plan,
            )

    def _picture(
        self, image: ImageLike, camera: Camera
    ) -> tuple[Tensor | None, tuple[float, float, float, float] | None]:
        """Return what is kept of an image for detail, and its fx, fy, cx, cy."""
        return keep_picture(image, camera, self._detail_size, self.image_size, self.model.device)
