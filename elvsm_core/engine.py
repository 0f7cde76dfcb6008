"""What a scene has done on the device: encode an image into a slot, render targets from some slots."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .cache import ViewCache
from .cameras import Camera, CameraError
from .cuda.graphs import copy_to_host
from .frame import SceneFrame
from .images import ImageLike, as_tensor, resize_and_crop, to_uint8
from .model import EfficientLVSM

log = logging.getLogger(__name__)

RENDER_BATCH = 8
"""Targets decoded at once; more only cost memory."""

FARTHEST = 1e15
"""Largest coordinate, focal length and slope of a ray: the model sums squares of what it makes of them in float32."""


class NotFiniteError(ValueError):
    """Numbers that overflowed, or NaN, where keys, values or a picture should be."""


def camera_numbers(cameras: Sequence[Camera], frame: SceneFrame) -> NDArray[np.float32]:
    """Return [n, 16]: the upper three rows of camera-to-model, then fx, fy, cx, cy in pixels.

    Raises CameraError for a camera whose rays the model cannot compute with.
    """
    rows = []
    for camera in cameras:
        fx, fy, cx, cy = camera.fxfycxcy
        row = frame.pose_to_model(camera.T_world_cam)
        # In plain Python, as in `pose_to_model`. A sum, because NaN gets lost in a maximum.
        farthest = abs(row[3]) + abs(row[7]) + abs(row[11]) + fx + fy
        steepest = (abs(cx) + camera.width) / fx + (abs(cy) + camera.height) / fy
        if not (farthest <= FARTHEST and steepest <= FARTHEST):
            x, y, z = camera.T_world_cam[:3, 3]
            raise CameraError(
                f"a camera at ({x:.3g}, {y:.3g}, {z:.3g}) m with fx {fx:.3g}, fy {fy:.3g}, cx {cx:.3g}, cy {cy:.3g} "
                f"has rays that float32 cannot hold: check the pose and the calibration (CameraInfo.k)"
            )
        rows.append([*row, fx, fy, cx, cy])
    return np.array(rows, dtype=np.float32)


class Pending:
    """Images on their way from the device. sums: of all that was computed, by batch, to see whether it is finite."""

    def __init__(
        self, images: Tensor, event: torch.cuda.Event | None = None, sums: Tensor | None = None
    ) -> None:
        self._images, self._event, self._sums = images, event, sums

    def done(self) -> bool:
        """Tell whether `wait` would return at once."""
        return self._event is None or self._event.query()

    def wait(self) -> NDArray[np.uint8]:
        """Return uint8 [M, H, W, 3] when they have arrived. Any thread may wait, without a lock.

        Raises NotFiniteError rather than return a picture with NaN in it, which would be black.
        """
        if self._event is not None:
            self._event.synchronize()
        if self._sums is not None and not np.isfinite(self._sums.numpy()).all():
            raise NotFiniteError(
                "the picture has NaN in it: the model's weights, or keys and values of a keyframe that it was made "
                "from; render without that keyframe, or load other weights"
            )
        return self._images.numpy()


class Prepared:
    """An image at the scene's size, for `Engine.encode`, and its camera.

    host: the image on the host, once `event` has happened; None: `image` itself, wherever it is.
    """

    def __init__(
        self,
        image: ImageLike,
        camera: Camera,
        host: Tensor | None = None,
        event: torch.cuda.Event | None = None,
    ) -> None:
        self.image, self.camera = image, camera
        self._host, self._event = image if host is None else host, event

    def keep(self) -> Tensor:
        """Return a copy, memory of its own on the host: best made while the device encodes the image."""
        if self._event is not None:
            self._event.synchronize()
        copy = np.empty(tuple(self.image.shape), dtype=np.uint8)
        copy_to_host(self._host, copy)
        with torch.inference_mode(False):  # it may be written to later, wherever that is
            return torch.from_numpy(copy)


class Engine:
    """Run `model` as it is, on any device. One thread at a time calls its methods.

    batch: most targets decoded, and most views encoded, at once, a power of two; may be lowered at any time.
    """

    name = "eager"

    def __init__(self, model: EfficientLVSM, cache: ViewCache, image_size: tuple[int, int]) -> None:
        self.model, self.cache, self.image_size = model, cache, image_size
        self.batch = RENDER_BATCH

    def prepare(self, image: ImageLike, camera: Camera) -> Prepared:
        """Cut and resample an image to the scene's size. Raises ImageError."""
        resized, resized_camera = resize_and_crop(image, camera, self.image_size, self.model.device)
        return Prepared(resized, resized_camera)

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageLike], cameras: NDArray[np.float32], slots: Sequence[int]) -> None:
        """Encode images, uint8 [H, W, 3] on host or device, seen by cameras [n, 16], into slots.

        Each by itself: what else is encoded makes no difference. When it raises, the slots may hold anything. Raises
        NotFiniteError where that can be told without a wait.
        """
        device = self.model.device
        for image, camera, slot in zip(images, cameras, slots, strict=True):
            pixels = as_tensor(image).to(device).permute(2, 0, 1).unsqueeze(0).float() / 255
            c2w, fxfycxcy = unpack_cameras(camera[None], device)
            keys_values = self.model.encode_views(pixels, c2w, fxfycxcy)
            # Elsewhere that would take a wait for the device: there, renders tell (`Pending`).
            if device.type == "cpu" and not all(bool(x.isfinite().all()) for kv in keys_values for x in kv):
                raise NotFiniteError(
                    "keys and values of the image have NaN in them: load other weights, these overflow or are damaged"
                )
            self.cache.replace(slot, keys_values)

    def render(self, slots: Sequence[int], cameras: NDArray[np.float32], size: tuple[int, int]) -> Pending:
        """Render targets cameras [M, 16] of size (height, width) pixels from the views in slots."""
        images = self.render_tensor(slots, cameras, size)
        sums = images.sum(dtype=torch.float32)
        return Pending(to_uint8(images).permute(0, 2, 3, 1).contiguous().cpu(), sums=sums.cpu())

    @torch.inference_mode()
    def render_tensor(
        self, slots: Sequence[int], cameras: NDArray[np.float32], size: tuple[int, int]
    ) -> Tensor:
        """Render as `render` does, float32 [M, 3, H, W] in [0, 1], for the current stream to go on with."""
        c2w, fxfycxcy = unpack_cameras(cameras, self.model.device)
        keys_values, padded = self.cache.select(slots), self.padded(size)
        parts = [
            self.model.decode(
                keys_values,
                c2w[start : start + self.batch].unsqueeze(0),
                fxfycxcy[start : start + self.batch].unsqueeze(0),
                padded,
            )[0]
            for start in range(0, len(cameras), self.batch)
        ]
        return torch.cat(parts)[:, :, : size[0], : size[1]]

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size made of whole patches that covers `size`."""
        patch = self.model.config.patch_size
        return -(-size[0] // patch) * patch, -(-size[1] // patch) * patch

    def warm_up(
        self, size: tuple[int, int], view_counts: Sequence[int], target_counts: Sequence[int]
    ) -> None:
        """Get ready to encode, and to render these numbers of targets from these numbers of views."""
        camera = some_camera(self.image_size)
        slot = self.cache.take() if self.cache.free else None
        if slot is not None:
            try:
                self.encode([torch.zeros(*self.image_size, 3, dtype=torch.uint8)], camera[None], [slot])
            finally:
                self.cache.evict(slot)
        self.render([0], np.stack([camera]), size).wait()

    def capture_missing(self, limit: int) -> int:
        """Prepare for up to `limit` kinds of requests that came unprepared; return how many are left."""
        return 0

    def release_memory(self) -> None:
        """Give back device memory that only makes things faster."""
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()


def batches(count: int, limit: int, padding: bool) -> Iterator[tuple[int, int]]:
    """Cut `count` targets into batches of `limit` at most; yields (targets in it, targets to compute).

    With padding, computed numbers are powers of two, so that a few kinds of batches serve all requests; one
    target more is computed where that saves a batch.
    """
    while count > 0:
        if not padding:
            yield min(count, limit), min(count, limit)
            count -= limit
            continue
        size = limit
        while size > count + 1 or (size > count and size <= 2):
            size //= 2
        yield min(count, size), size
        count -= size


def unpack_cameras(cameras: NDArray[np.float32], device: torch.device) -> tuple[Tensor, Tensor]:
    numbers = torch.from_numpy(cameras).to(device)
    c2w = torch.eye(4, device=device).repeat(len(cameras), 1, 1)
    c2w[:, :3] = numbers[:, :12].unflatten(1, (3, 4))
    return c2w, numbers[:, 12:]


def some_camera(size: tuple[int, int]) -> NDArray[np.float32]:
    height, width = size
    return camera_numbers([Camera(width, width, width / 2, height / 2, width, height, np.eye(4))],
                          SceneFrame(np.eye(4), 1.0))[0]  # fmt: skip
