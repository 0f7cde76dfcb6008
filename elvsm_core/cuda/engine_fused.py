"""The engine for CUDA: fused kernels, a CUDA graph for every kind of work, insertion beside rendering."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cache import ViewCache
from ..cameras import Camera
from ..engine import Engine, Pending, Prepared, batches, log, some_camera
from ..images import ImageLike, as_tensor, check_image, resize_and_crop
from ..model import EfficientLVSM
from . import ops
from .fused import FusedModel, Tuning
from .graphs import Graphs, InputRing, Lane, copy_to_host, pinned


class FusedEngine(Engine):
    """Encode on one stream and render on another; calls return when the work is queued.

    A slot is overwritten only after the renders that read it, and read only after it was written, so every
    render shows the slots as they were when it was asked for. On a CPU the same code runs without streams.
    """

    name = "fused"

    def __init__(
        self,
        model: EfficientLVSM,
        cache: ViewCache,
        image_size: tuple[int, int],
        tuning: Tuning | None = None,
    ) -> None:
        super().__init__(model, cache, image_size)
        if model.config.bf16_rays:
            raise ValueError("the fused engine computes exact rays only; use engine='eager' with bf16_rays")
        device = model.device
        self._cuda = device.type == "cuda"
        self._network = FusedModel(model, tuning)
        self._encoding, self._rendering = Lane(device, priority=-1), Lane(device)
        self._encoder, self._decoder = Graphs(self._encoding), Graphs(self._rendering)
        images = (self.batch, *image_size, 3)
        self._views = InputRing(16 * self.batch, self.batch, self._encoding, device, images, buffers=4)
        self._request = InputRing(16 * self.batch, cache.capacity, self._rendering, device)
        self._sum = torch.zeros((), dtype=torch.float32, device=device)  # of the logits painted last
        self._forget_events()
        for lane in (self._encoding, self._rendering):
            lane.follow()  # all that was made here

    def _forget_events(self) -> None:
        self._encoded = 0
        self._written: dict[int, tuple[int, torch.cuda.Event]] = {}
        self._read: dict[int, torch.cuda.Event] = {}

    def prepare(self, image: ImageLike, camera: Camera) -> Prepared:
        check_image(image, camera)
        if camera.size == self.image_size:
            return Prepared(image, camera)
        if not self._cuda:
            return super().prepare(image, camera)
        on_device = _on_device(image)
        if on_device:
            self._encoding.follow()
        with self._encoding as lane, torch.inference_mode():
            given = image
            if not on_device:
                given = pinned(tuple(image.shape), torch.uint8, self.model.device)
                copy_to_host(image, given.numpy())
            resized, resized_camera = resize_and_crop(given, camera, self.image_size, self.model.device)
            host = pinned(tuple(resized.shape), torch.uint8, self.model.device)
            host.copy_(resized, non_blocking=True)
            return Prepared(resized, resized_camera, host, lane.record())

    def encode(self, images: Sequence[ImageLike], cameras: NDArray[np.float32], slots: Sequence[int]) -> None:
        on_host = not any(map(_on_device, images))
        if not on_host:
            self._encoding.follow()  # they may come from the caller's stream
        if len(images) == 1:
            self._encode_batch(images, cameras, slots, on_host)
            return
        start = 0
        for count, computed in batches(len(images), self.batch if self._cuda else 1, self._cuda):
            # The last view is computed more than once where that makes it a number that was captured.
            rows = [start + min(i, count - 1) for i in range(computed)]
            self._encode_batch(
                [images[row] for row in rows], cameras[rows], [slots[row] for row in rows], on_host
            )
            start += count

    def _encode_batch(
        self,
        images: Sequence[ImageLike],
        cameras: NDArray[np.float32],
        slots: Sequence[int],
        on_host: bool,
    ) -> None:
        copied = None
        with self._encoding as lane, self._views:
            self._views.send(cameras, slots, images if on_host else ())
            if not on_host:
                for image, place in zip(images, self._views.images, strict=False):
                    place.copy_(as_tensor(image))
                copied = lane.record()
            for slot in slots:
                lane.wait(self._read.pop(slot, None))
            self._encoder.run(len(images), self._encode, len(images))
            self._encoded += 1
            event = lane.record()
            self._views.mark(event)
        self._encoding.lead(copied)  # the images are the caller's again
        if event is not None:
            self._written.update(dict.fromkeys(slots, (self._encoded, event)))

    def _encode(self, count: int) -> None:
        self._views.receive(count)
        cameras = self._views.floats[: 16 * count].view(count, 16)
        self._network.encode(self._views.images[:count], cameras, self.cache.store, self._views.ints[:count])

    def render(self, slots: Sequence[int], cameras: NDArray[np.float32], size: tuple[int, int]) -> Pending:
        images, start, parts = None, 0, list(batches(len(cameras), self.batch, self._cuda))
        with self._rendering as lane, self._request:
            self._wait_for(slots)
            for part, (count, computed) in enumerate(parts):
                self._set(cameras[start : start + count], slots)
                key = self._key(slots, computed, size)
                painted = self._decoder.run(key, self._paint, *key)
                assert painted is not None
                if images is None:  # once the device has something to do
                    images = pinned((len(cameras), *size, 3), torch.uint8, self.model.device)
                    sums = pinned((len(parts),), torch.float32, self.model.device)
                images[start : start + count].copy_(painted[:count], non_blocking=True)
                sums[part].copy_(self._sum, non_blocking=True)
                start += count
            event = lane.record()
            self._request.mark(event)
        assert images is not None
        self._reading(slots, event)
        return Pending(images, event, sums)

    @torch.inference_mode()
    def render_tensor(
        self, slots: Sequence[int], cameras: NDArray[np.float32], size: tuple[int, int]
    ) -> Tensor:
        parts, padded = [], self.padded(size)
        with self._rendering as lane, self._request:
            self._wait_for(slots)
            for start in range(0, len(cameras), self.batch):
                chunk = cameras[start : start + self.batch]
                self._set(chunk, slots)
                logits = self._decode(*self._key(slots, len(chunk), size)[:3], padded)
                parts.append(ops.pixels(logits, len(chunk), padded, self.model.config.patch_size))
            images = torch.cat(parts)[:, :, : size[0], : size[1]]
            event = lane.record()
            self._request.mark(event)
        self._reading(slots, event)
        self._rendering.lead(event)
        if event is not None:
            images.record_stream(torch.cuda.current_stream(self.model.device))
        return images

    def _wait_for(self, slots: Sequence[int]) -> None:
        """Have renders wait until these slots are written; encodings end in the order they began in."""
        written = [self._written[slot] for slot in slots if slot in self._written]
        if not written:
            return
        last, event = max(written, key=lambda entry: entry[0])
        if event.query():
            self._written = {slot: entry for slot, entry in self._written.items() if entry[0] > last}
        else:
            self._rendering.wait(event)

    def _reading(self, slots: Sequence[int], event: torch.cuda.Event | None) -> None:
        if event is not None:
            self._read.update(dict.fromkeys(slots, event))

    def _set(self, cameras: NDArray[np.float32], slots: Sequence[int]) -> None:
        self._request.send(cameras, slots)

    def _key(
        self, slots: Sequence[int], targets: int, size: tuple[int, int]
    ) -> tuple[int, bool, int, tuple[int, int]]:
        """Return what makes a kind of request: views, whether they lie in the first slots, targets, size."""
        return len(slots), list(slots) == list(range(len(slots))), targets, size

    def _decode(self, views: int, direct: bool, targets: int, padded: tuple[int, int]) -> Tensor:
        self._request.receive()
        cameras = self._request.floats[: 16 * targets].view(targets, 16)
        return self._network.decode(cameras, padded, self.cache.store, self._request.ints[:views], direct)

    def _paint(self, views: int, direct: bool, targets: int, size: tuple[int, int]) -> Tensor:
        padded = self.padded(size)
        logits = self._decode(views, direct, targets, padded)
        # One kernel tells of NaN in any of them, where a picture in uint8 would just be black.
        torch.sum(logits, tuple(range(logits.ndim)), dtype=torch.float32, out=self._sum)
        return ops.paint(logits, targets, padded, size, self.model.config.patch_size)

    def warm_up(
        self, size: tuple[int, int], view_counts: Sequence[int], target_counts: Sequence[int]
    ) -> None:
        views = sorted({min(n, self.cache.capacity) for n in view_counts}, reverse=True)
        kinds = {computed for n in target_counts for _, computed in batches(n, self.batch, True)}
        with torch.inference_mode():
            self._warm_up_encoder()
            with self._rendering:
                self._set(np.stack([some_camera(size)] * self.batch), range(self.cache.capacity))
            for count in views:
                for key in ((count, direct, n, size) for n in sorted(kinds) for direct in (False, True)):
                    self._decoder.capture(key, partial(self._paint, *key))
        log.info("%d CUDA graphs captured", len(self._encoder) + len(self._decoder))

    def _warm_up_encoder(self) -> None:
        """Prepare for all numbers of views that are encoded at once, in a slot that is free."""
        if not self.cache.free:
            return
        slot = self.cache.take()
        try:
            count = 1
            while count <= (self.batch if self._cuda else 1):
                with self._encoding, self._views:
                    self._views.send(np.stack([some_camera(self.image_size)] * count), [slot] * count)
                self._encoder.capture(count, partial(self._encode, count))
                count *= 2
        finally:
            self.cache.evict(slot)

    @torch.inference_mode()
    def capture_missing(self, limit: int) -> int:
        # The encoder runs on what it ran on last, and writes what is there already.
        left = self._encoder.capture_missing(limit)
        return left + self._decoder.capture_missing(limit)

    def release_memory(self) -> None:
        self._encoder.clear()
        self._decoder.clear()
        self._forget_events()
        super().release_memory()


def _on_device(image: ImageLike) -> bool:
    return isinstance(image, Tensor) and image.is_cuda
