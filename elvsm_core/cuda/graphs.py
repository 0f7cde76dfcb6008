"""Streams, events and CUDA graphs behind one face; on a CPU everything runs where it is called."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..images import ImageLike
from . import ops

log = logging.getLogger(__name__)

try:
    from torch._C import _cuda_getCurrentStream as _get_stream
    from torch._C import _cuda_getDevice as _get_device
    from torch._C import _cuda_setStream as _set_stream
except ImportError:  # without CUDA, or with a PyTorch that calls them otherwise
    _set_stream = None  # type: ignore[assignment]


MOST_GRAPHS = 256
"""Kinds of work that graphs are kept for: clients may ask for any size, and each graph takes device memory."""


class Lane:
    """A stream of its own on a CUDA device. `with lane:` gives work to it; on a CPU that changes nothing."""

    def __init__(self, device: torch.device, priority: int = 0) -> None:
        cuda = device.type == "cuda"
        self.stream = torch.cuda.Stream(device, priority) if cuda else None
        if self.stream is not None:
            self._ids = (self.stream.stream_id, self.stream.device_index, self.stream.device_type)
        self._context: torch.cuda.StreamContext | None = None
        self._previous: tuple[int, int, int] | None = None

    def __enter__(self) -> Lane:
        if self.stream is None:
            return self
        if _set_stream is not None and _get_device() == self._ids[1]:
            # What torch.cuda.stream does then, in a tenth of the time.
            self._previous = _get_stream(self._ids[1])
            _set_stream(*self._ids)
        else:
            self._context = torch.cuda.stream(self.stream)
            self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            _set_stream(*self._previous)
            self._previous = None
        if self._context is not None:
            self._context.__exit__(kind, error, trace)
            self._context = None

    def follow(self) -> None:
        """Have work that is given from now on wait for what the caller's current stream was given."""
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))

    def lead(self, event: torch.cuda.Event | None) -> None:
        """Have what the caller's current stream is given from now on wait for an event."""
        if self.stream is not None and event is not None:
            torch.cuda.current_stream(self.stream.device).wait_event(event)

    def wait(self, event: torch.cuda.Event | None) -> None:
        """Have work that is given from now on wait for an event."""
        if self.stream is not None and event is not None:
            self.stream.wait_event(event)

    def record(self) -> torch.cuda.Event | None:
        """Return an event that happens when the work given so far is done; None on a CPU."""
        return None if self.stream is None else self.stream.record_event()


class Graphs:
    """Functions by key: captured ones are replayed, others called and remembered.

    A function reads and writes tensors that stay where they are. All of them run on one lane, one after the
    other, and share their workspace: what one returns has to be copied, on that lane, before the next runs.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._pool: Any = None
        self._captured: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor | None]] = {}
        self._missing: dict[Hashable, Callable[[], Tensor | None]] = {}
        self._failed = lane.stream is None

    def run(self, key: Hashable, function: Callable[..., Tensor | None], *given: Any) -> Tensor | None:
        """Run function(*given) on the lane, which the caller has entered, by its graph if there is one.

        The key says all that the arguments do.
        """
        captured = self._captured.get(key)
        if captured is not None:
            captured[0].replay()
            return captured[1]
        if not self._failed and len(self._captured) + len(self._missing) < MOST_GRAPHS:
            self._missing[key] = partial(function, *given)
        with torch.inference_mode():
            return function(*given)

    def capture(self, key: Hashable, function: Callable[[], Tensor | None]) -> None:
        """Make a graph of a function, which is called twice before. Without CUDA it is called once.

        Where the device cannot capture it, this is logged and functions go on to be called.
        """
        self._missing.pop(key, None)
        if key in self._captured:
            return
        with self._lane:
            function()  # kernels are compiled and chosen, and workspaces made, outside of the graph
            if self._failed or self._lane.stream is None:
                return
            function()
            self._lane.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            try:
                # Other threads go on using the device meanwhile.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    out = function()
                finally:
                    graph.capture_end()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._failed = True
                log.warning("CUDA graphs are not used, small renders take longer: %s", error)
                return
        self._captured[key] = (graph, out)

    @property
    def missing(self) -> int:
        """Number of keys that were run without a graph."""
        return len(self._missing)

    def capture_missing(self, limit: int) -> int:
        """Capture up to `limit` of the functions that were run without a graph; return how many are left."""
        for key, function in list(self._missing.items())[:limit]:
            self.capture(key, function)
        return self.missing

    def __len__(self) -> int:
        return len(self._captured)

    def clear(self) -> None:
        """Give up all graphs and their memory, once the work that was given is done."""
        if self._lane.stream is not None:
            self._lane.stream.synchronize()
        self._captured.clear()
        self._missing.clear()
        self._pool = None


def pinned(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return host memory that copies to and from the device without waiting; not to be kept in numbers."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def copy_to_host(source: ImageLike, target: NDArray[np.uint8]) -> None:
    """Copy an image to the host.

    Not by PyTorch where it is there already: its threads take longer to wake up than the copy takes.
    """
    np.copyto(target, source if isinstance(source, np.ndarray) else source.cpu().numpy())


class InputRing:
    """Numbers, float32 and int32, and images, uint8 of one shape, on their way to functions that a lane runs.

    `send` leaves them in memory that the device can read, and the function that is run next begins with
    `receive`, which fetches them: as a part of a graph that costs the calling thread nothing, where a copy of its
    own would take it longer than to launch the graph. After that, `mark` tells what to wait for before the memory
    is used again. All of this within `with inputs:`. Without Triton, `send` copies and `receive` does nothing.

    floats, ints, images: what was received, on the device. images[k] may be written to directly instead.
    """

    @torch.inference_mode(False)  # written to later, wherever that is
    def __init__(
        self,
        floats: int,
        ints: int,
        lane: Lane,
        device: torch.device,
        images: tuple[int, ...] = (0,),
        buffers: int = 16,
    ) -> None:
        self._lane = lane
        # Parts begin at multiples of 16 bytes, for which kernels are specialised. First the number of images.
        ends = np.cumsum([16, -(-4 * floats // 16) * 16, -(-4 * ints // 16) * 16])
        size = int(ends[2]) + math.prod(images)
        target = torch.zeros(-(-size // 16) * 16, dtype=torch.uint8, device=device)
        self._kernels = ops.kernels_for(target)
        self._target, self._numbers = target, int(ends[2])
        self.floats = target[16 : 16 + 4 * floats].view(torch.float32)
        self.ints = target[ends[1] : ends[1] + 4 * ints].view(torch.int32)
        self.images = target[ends[2] : size].view(images)
        self._host = pinned((buffers, len(target)), torch.uint8, device).zero_()
        self._turns = pinned((buffers,), torch.int64, device).zero_()
        self._taken = torch.zeros(2, dtype=torch.int64, device=device)
        parts = self._host.numpy()
        self._parts = [
            (
                entry[:4].view(np.int32),
                entry[16 : 16 + 4 * floats].view(np.float32),
                entry[ends[1] : ends[1] + 4 * ints].view(np.int32),
                entry[ends[2] : size].reshape(images),
            )
            for entry in parts
        ]
        self._turn = self._turns.numpy()
        self._half = buffers // 2
        self._events: list[torch.cuda.Event | None] = [None] * buffers
        self._sent = self._marked = 0

    def send(
        self, floats: NDArray[np.float32], ints: Sequence[int], images: Sequence[ImageLike] = ()
    ) -> None:
        """Write the first entries of each for the next function, which does not look at others.

        images: on the host. The caller has entered the lane.
        """
        at = self._sent % len(self._parts)
        if at % self._half == 0:  # wait for the last that was sent from this half, and so for all of it
            if self._sent - self._marked >= self._half:
                self.mark(self._lane.record())
            if (event := self._events[at + self._half - 1]) is not None:
                event.synchronize()
        count, host_floats, host_ints, host_images = self._parts[at]
        count[0] = len(images)
        host_floats[: floats.size] = floats.reshape(-1)
        host_ints[: len(ints)] = ints
        for image, place in zip(images, host_images, strict=False):
            copy_to_host(image, place)
        self._sent += 1
        if self._kernels is None:
            end = self._numbers + len(images) * math.prod(self.images.shape[1:])
            self._target[:end].copy_(self._host[at, :end], non_blocking=True)
        else:
            self._turn[at] = self._sent  # last: from now on this is the entry to receive

    def receive(self, images: int = 0) -> None:
        """Fetch what was sent and not yet received, the oldest of it; if nothing was, keep what is there.

        images: how many were sent, at most.
        """
        if self._kernels is not None:
            size = math.prod(self.images.shape[1:])
            self._kernels.receive(
                self._host, self._turns, self._taken, self._target, self._numbers, size, images
            )

    def mark(self, event: torch.cuda.Event | None) -> None:
        """Tell when the functions that were run since the last call have received what was sent for them."""
        for sent in range(max(self._marked, self._sent - len(self._parts)), self._sent):
            self._events[sent % len(self._parts)] = event
        self._marked = self._sent

    def __enter__(self) -> InputRing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what was sent and not received when a function could not be run: it is not for the next one."""
        if error is not None:
            with contextlib.suppress(RuntimeError):  # of a device that is lost; the first error says so
                if self._lane.stream is not None:
                    self._lane.stream.synchronize()
                self._taken[0] = self._sent
