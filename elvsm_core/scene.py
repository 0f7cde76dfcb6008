"""A scene: keyframes on the host, keys and values of some of them on the device, renders from anywhere."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from . import keyframes
from .cache import ViewCache
from .cameras import Camera, check_pose, stack_cameras
from .frame import FramePolicy, SceneFrame
from .images import ImageLike, resize_and_crop, to_uint8
from .model import EfficientLVSM, KeysValues
from .persistence import Keyframe, StoredScene, read_scene, write_scene
from .store import KeyframeStore

RENDER_BATCH = 8
"""Targets decoded at once; more only cost memory."""
ASIDE_VIEWS = 16
"""Most views whose encoding is kept for requests outside of the scene's frame."""
SHORTLIST = 64
"""Keyframes that are looked at closely when the most useful ones for a request are chosen."""


class SceneError(ValueError):
    """A request that a scene cannot serve as it is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rendering:
    """Rendered views.

    images: uint8 [M, H, W, 3]. support: float32 [M] in [0, 1], the share of each target's field of view that
    the used keyframes look into (0: the picture is invention). views: ids of the keyframes used.
    """

    images: NDArray[np.uint8]
    support: NDArray[np.float32]
    views: list[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Unpacked:
    """A stored scene, ready to be adopted once. next_id: the first id that it never used."""

    keyframes: KeyframeStore
    frame: SceneFrame | None
    next_id: int


class Scene:
    """Keep posed images of one static scene and render it from other poses.

    model: an EfficientLVSM in eval mode; its device and dtype are the scene's.
    capacity: slots for encoded views on the device, allocated here, and the most that one render uses.
    image_size: (height, width) pixels that images are cropped and resampled to; None: the model's own.
    frame: a SceneFrame that stays; None: one that is chosen from the first keyframes, and anew (`policy`)
    when the camera has left the range that the model knows.
    max_keyframes: images kept on the host; when there are more, the most redundant one is evicted. None: all.

    Keyframes without a slot are encoded again when a render needs them, which gives the same numbers.
    All methods may be called from several threads; each sees the scene as another one left it. A method that
    raises leaves the scene as it was.
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
    ) -> None:
        if max_keyframes is not None and max_keyframes < 1:
            raise SceneError(f"max_keyframes must be at least 1, got {max_keyframes}")
        self.model = model
        height, width = image_size if image_size is not None else model.config.image_size
        self.image_size = (int(height), int(width))
        model.check_size(self.image_size)
        config = model.config
        self._cache = ViewCache(
            config.layers,
            capacity,
            config.tokens(self.image_size),
            config.heads,
            config.head_dim,
            device=model.device,
            dtype=model.dtype,
        )
        self._fixed_frame = frame is not None
        self._frame = frame
        self._policy = policy or FramePolicy()
        self._max_keyframes = max_keyframes
        self._keyframes = KeyframeStore()
        self._slots: dict[int, int] = {}  # least recently used first
        self._aside: tuple[tuple, KeysValues] | None = None
        self._next_id = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._keyframes)

    @property
    def capacity(self) -> int:
        return self._cache.capacity

    @property
    def frame(self) -> SceneFrame | None:
        """The world-to-model similarity; None before the first keyframe unless one was given."""
        return self._frame

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
        try:
            return self._keyframes[view]
        except KeyError:
            raise SceneError(f"there is no view {view} in this scene: evicted, or of another scene") from None

    def insert(self, image: ImageLike, camera: Camera, stamp: float | None = None) -> int:
        """Add a view and return its id, an int that stays valid for the scene's life.

        image: uint8 RGB [camera.height, camera.width, 3], undistorted. stamp: seconds. Costs one encoder
        pass, whatever the number of views. Raises ImageError or CameraError.
        """
        with self._lock:
            view = self._next_id
            self._keyframes.add(view, self._prepare(image, camera, stamp))
            try:
                self._update_frame()
                self._encode(view, self._keyframes[view])
            except BaseException:  # out of device memory, say
                self._keyframes.remove(view)
                raise
            self._next_id += 1
            if self._max_keyframes is not None and len(self._keyframes) > self._max_keyframes:
                self.evict(self._keyframes.most_redundant())
            return view

    def replace(self, view: int, image: ImageLike, camera: Camera) -> None:
        """Give a view another image and camera; its id stays.

        Raises as `insert` does, and SceneError for an unknown id.
        """
        with self._lock:
            old = self.keyframe(view)
            new = self._prepare(image, camera, old.stamp)
            self._encode(view, new)
            self._keyframes.update(view, new)

    def evict(self, view: int) -> None:
        """Forget a view. Raises SceneError for an unknown id."""
        with self._lock:
            self.keyframe(view)
            self._keyframes.remove(view)
            self._release(view)

    def clear(self) -> None:
        """Forget all views, and the frame unless it was given. Ids are not used again."""
        with self._lock:
            self._keyframes.clear()
            self._slots.clear()
            self._cache.clear()
            self._aside = None
            if not self._fixed_frame:
                self._frame = None

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
        )
        scene.adopt(scene.unpack(stored))
        return scene

    def snapshot(self) -> StoredScene:
        """Return what `save` writes, in no time: nothing is copied, and later changes do not reach it."""
        with self._lock:
            return StoredScene(
                self.image_size, self._frame, self._fixed_frame, self._keyframes.items(), self._next_id
            )

    def unpack(self, stored: StoredScene) -> Unpacked:
        """Prepare what a file holds for `adopt`: the part that takes time. The scene goes on as it is.

        Raises SceneError for images of another size than this scene's. More than max_keyframes views: the
        most redundant ones are left out.
        """
        if stored.image_size != self.image_size:
            (height, width), (own_height, own_width) = stored.image_size, self.image_size
            raise SceneError(
                f"the images of the stored scene have {width}x{height} pixels and this scene's have "
                f"{own_width}x{own_height}: make a scene with image_size ({height}, {width})"
            )
        store = KeyframeStore()
        for view, keyframe in stored.views.items():
            store.add(view, keyframe)
        while self._max_keyframes is not None and len(store) > self._max_keyframes:
            store.remove(store.most_redundant())
        return Unpacked(store, stored.frame, stored.next_id)

    def adopt(self, unpacked: Unpacked) -> None:
        """Hold exactly what was unpacked, ids included, from one moment to the next.

        Ids of views that are inserted later are new to this scene and to the stored one. A frame that was
        given to this scene stays.
        """
        with self._lock:
            self._keyframes = unpacked.keyframes
            self._slots.clear()
            self._cache.clear()
            self._aside = None
            if not self._fixed_frame:
                self._frame = unpacked.frame
            self._next_id = max(self._next_id, unpacked.next_id)

    def update_poses(self, poses: Mapping[int, ArrayLike]) -> None:
        """Move views, after a loop closure say: {id: T_world_cam 4x4}.

        Only the views that really moved are encoded again, when a render next needs them. When all views move
        by one rigid motion, only the frame moves and nothing is encoded. Raises SceneError for an unknown id
        and CameraError for a pose that is none; no view has moved then.
        """
        with self._lock:
            moved = {}
            for view, pose in poses.items():
                keyframe = self.keyframe(view)
                pose = check_pose(pose, f"the new pose of view {view}")
                if not np.array_equal(pose, keyframe.camera.T_world_cam):
                    moved[view] = dataclasses.replace(keyframe, camera=keyframe.camera.at(pose))
            rigid = self._common_motion(moved)
            if rigid is not None and self._frame is not None and not self._fixed_frame:
                self._frame = self._frame.moved(rigid)
            else:
                for view in moved:
                    self._release(view)
            for view, keyframe in moved.items():
                self._keyframes.update(view, keyframe)
            if len(self._keyframes):
                self._update_frame()

    def _common_motion(self, moved: Mapping[int, Keyframe]) -> NDArray[np.float64] | None:
        """Return T_new_old if all views of the scene moved by it, to a micrometre and a microradian."""
        if not moved or len(moved) != len(self._keyframes):
            return None
        old = self._keyframes.poses
        new = np.stack([moved[view].camera.T_world_cam for view in self._keyframes.ids])
        T_new_old = new[0] @ np.linalg.inv(old[0])
        return T_new_old if np.allclose(T_new_old @ old, new, rtol=0, atol=1e-6) else None

    @torch.inference_mode()
    def render(self, cameras: Sequence[Camera], max_views: int | None = None) -> Rendering:
        """Render the scene as the given cameras would see it.

        cameras: one or more, all of one size in pixels. max_views: use only the most useful keyframes for
        this request; None: as many as there are, `capacity` at most. Raises SceneError for an empty scene, no
        cameras, cameras of different sizes.
        """
        with self._lock:
            tensor, seen, views = self._render(cameras, max_views)
            images = to_uint8(tensor).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return Rendering(images, keyframes.support(seen), views)

    @torch.inference_mode()
    def render_tensor(self, cameras: Sequence[Camera], max_views: int | None = None) -> Tensor:
        """Render as `render` does, and return float32 [M, 3, H, W] in [0, 1] on the model's device."""
        with self._lock:
            return self._render(cameras, max_views)[0]

    def _render(
        self, cameras: Sequence[Camera], max_views: int | None
    ) -> tuple[Tensor, NDArray[np.float64], list[int]]:
        if not cameras:
            raise SceneError("no camera to render: ask for at least one view")
        if not len(self._keyframes):
            raise SceneError("the scene is empty: insert a keyframe before asking for a render")
        if max_views is not None and max_views < 1:
            raise SceneError(f"max_views must be at least 1, got {max_views}; None uses all views")
        if any(camera.size != cameras[0].size for camera in cameras):
            raise SceneError("all cameras of one request must have the same size: split the request")
        store, limit = self._keyframes, min(self.capacity, max_views or self.capacity)
        rows = keyframes.shortlist(cameras, store.poses, max(SHORTLIST, limit))
        seen = keyframes.visibilities(cameras, store.poses[rows], store.fxfycxcy[rows], self.image_size)
        # In order of age, so that the sums run in the order of a fresh scene with these views.
        chosen = sorted(keyframes.select(seen, limit)) if len(rows) > limit else slice(None)
        ids, seen = store.ids[rows][chosen].tolist(), seen[chosen]
        frame, keys_values = self._keys_values(ids, cameras)
        parts = [
            self._decode(keys_values, frame, cameras[start : start + RENDER_BATCH])
            for start in range(0, len(cameras), RENDER_BATCH)
        ]
        return torch.cat(parts), seen, ids

    def _keys_values(self, ids: list[int], cameras: Sequence[Camera]) -> tuple[SceneFrame, KeysValues]:
        """Return the frame to render in, and the keys and values of views in it."""
        assert self._frame is not None
        targets = np.stack([camera.T_world_cam for camera in cameras])
        if not self._fixed_frame and self._frame.extent(targets) > self._policy.limit:
            # Not where the robot is now: these views get a frame of their own for this request.
            used = [self._keyframes[view] for view in ids]
            frame = self._policy.frame_for(np.stack([k.camera.T_world_cam for k in used]), targets)
            return frame, self._encoded_aside(used, frame)
        for view in ids:
            if view in self._slots:
                self._slots[view] = self._slots.pop(view)
        for view in ids:
            if view not in self._slots:
                self._encode(view, self._keyframes[view])
        return self._frame, self._cache.select([self._slots[view] for view in ids])

    def _encoded_aside(self, used: list[Keyframe], frame: SceneFrame) -> KeysValues:
        """Encode views in a frame that is not the scene's; the last few are kept for the next such request."""
        key = (tuple(used), frame.scale, frame.T_world_anchor.tobytes())
        if self._aside is not None and self._aside[0] == key:
            return self._aside[1]
        layers = zip(*(self._encoded(keyframe, frame) for keyframe in used), strict=True)
        joined = [
            (torch.cat([k for k, _ in layer], 1), torch.cat([v for _, v in layer], 1)) for layer in layers
        ]
        self._aside = (key, joined) if len(used) <= ASIDE_VIEWS else None
        return joined

    def _decode(self, keys_values: KeysValues, frame: SceneFrame, cameras: Sequence[Camera]) -> Tensor:
        height, width = cameras[0].size
        patch = self.model.config.patch_size
        padded = (-(-height // patch) * patch, -(-width // patch) * patch)
        poses, fxfycxcy = stack_cameras(list(cameras))
        c2w = torch.from_numpy(frame.to_model(poses)).to(self.model.device)
        images = self.model.decode(
            keys_values, c2w.unsqueeze(0), torch.from_numpy(fxfycxcy).to(c2w.device).unsqueeze(0), padded
        )
        return images[0, :, :, :height, :width]

    def _prepare(self, image: ImageLike, camera: Camera, stamp: float | None) -> Keyframe:
        resized, resized_camera = resize_and_crop(image, camera, self.image_size, self.model.device)
        return Keyframe(resized.cpu().clone(), resized_camera, stamp)

    def _update_frame(self) -> None:
        if self._fixed_frame:
            return
        frame = self._policy.next_frame(self._frame, self._keyframes.poses)
        if frame is not self._frame:
            # What is in the slots belongs to the old frame; renders encode what they need again.
            self._frame = frame
            self._slots.clear()
            self._cache.clear()

    @torch.inference_mode()
    def _encoded(self, keyframe: Keyframe, frame: SceneFrame) -> KeysValues:
        device = self.model.device
        image = keyframe.image.to(device).permute(2, 0, 1).unsqueeze(0).float() / 255
        c2w = torch.from_numpy(frame.to_model(keyframe.camera.T_world_cam[None])).to(device)
        return self.model.encode_views(image, c2w, torch.tensor([keyframe.camera.fxfycxcy], device=device))

    def _encode(self, view: int, keyframe: Keyframe) -> None:
        """Put a view's keys and values into a slot, its own or the least recently used one."""
        assert self._frame is not None
        encoded = self._encoded(keyframe, self._frame)
        if view in self._slots:
            self._cache.replace(self._slots[view], encoded)
            return
        if not self._cache.free:
            self._release(next(iter(self._slots)))
        self._slots[view] = self._cache.insert(encoded)

    def _release(self, view: int) -> None:
        slot = self._slots.pop(view, None)
        if slot is not None:
            self._cache.evict(slot)
