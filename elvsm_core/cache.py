"""Keys and values of views in slots that are allocated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import ModelConfig


class CacheFullError(RuntimeError):
    """No free slot is left."""


class ViewCache:
    """A fixed number of slots, each holding the keys and values of one view for every layer.

    Knows nothing of the model: a view is `layers` pairs of tensors [tokens, heads, head_dim]. Memory is
    allocated at construction, and anew by `resize` only: 2 · layers · capacity · tokens · heads · head_dim numbers.
    Raises ValueError for a capacity below one view.
    """

    def __init__(
        self,
        layers: int,
        capacity: int,
        tokens: int,
        heads: int,
        head_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least one view, got {capacity}")
        # Tokens before heads: neighbouring slots then form one key sequence without a copy.
        self._store = torch.zeros((layers, 2, capacity, tokens, heads, head_dim), device=device, dtype=dtype)
        self.clear()

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        capacity: int,
        image_size: tuple[int, int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> ViewCache:
        """Return a cache for a model of a configuration and views of image_size (height, width)."""
        tokens = config.tokens(image_size)
        return cls(config.layers, capacity, tokens, config.heads, config.head_dim, device, dtype)

    @staticmethod
    def view_nbytes(layers: int, tokens: int, heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Return the memory of one slot, bytes."""
        return 2 * layers * tokens * heads * head_dim * dtype.itemsize

    @property
    def capacity(self) -> int:
        """Number of slots, free or not."""
        return self._store.shape[2]

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    @property
    def nbytes(self) -> int:
        """Memory of all slots, bytes."""
        return self._store.nbytes

    @property
    def store(self) -> Tensor:
        """All keys (0) and values (1): [layers, 2, capacity, tokens, heads, head_dim]."""
        return self._store

    def take(self) -> int:
        """Take a slot without writing it; `store` is open to whoever fills it. Raises CacheFullError."""
        if not self._free:
            raise CacheFullError(f"all {self.capacity} slots are taken: evict a view first")
        return self._free.pop()

    def resize(self, capacity: int) -> None:
        """Free all slots and allocate `capacity` new ones; the old memory is given back before."""
        layers, _, _, *view = self._store.shape
        device, dtype = self._store.device, self._store.dtype
        self._store = torch.empty(layers, 2, 0, *view, device=device, dtype=dtype)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        self._store = torch.zeros(layers, 2, capacity, *view, device=device, dtype=dtype)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # other streams write to it next
        self.clear()

    def insert(self, keys_values: Sequence[tuple[Tensor, Tensor]]) -> int:
        """Write one view, per layer keys and values [1, tokens, heads, head_dim], and return its slot.

        Raises CacheFullError when no slot is free.
        """
        slot = self.take()
        try:
            self.replace(slot, keys_values)
        except BaseException:
            self.evict(slot)
            raise
        return slot

    def replace(self, slot: int, keys_values: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Overwrite a slot with one view, as `insert` takes it. Raises ValueError for another number of layers."""
        if len(keys_values) != self._store.shape[0]:
            raise ValueError(f"expected {self._store.shape[0]} layers, got {len(keys_values)}")
        for layer, (k, v) in enumerate(keys_values):
            self._store[layer, 0, slot].copy_(k[0])
            self._store[layer, 1, slot].copy_(v[0])

    def evict(self, slot: int) -> None:
        """Free a slot. Raises ValueError for one that holds no view."""
        if slot in self._free or not 0 <= slot < self.capacity:
            raise ValueError(f"slot {slot} holds no view")
        self._free.append(slot)
        # The lowest free slot is handed out next, so that a scene fills its slots in order.
        self._free.sort(reverse=True)

    def clear(self) -> None:
        """Free all slots."""
        self._free = list(range(self.capacity - 1, -1, -1))

    def select(self, slots: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return per layer the keys and values [1, len(slots) · tokens, heads, head_dim] of one or more slots.

        They stand in the order asked for. Consecutive slots are a view of the store; any other selection is copied.
        """
        first, count = slots[0], len(slots)
        if list(slots) == list(range(first, first + count)):
            picked = self._store[:, :, first : first + count]
        else:
            index = torch.tensor(slots, device=self._store.device)
            picked = self._store.index_select(2, index)
        return [(kv[0].flatten(0, 1).unsqueeze(0), kv[1].flatten(0, 1).unsqueeze(0)) for kv in picked]
