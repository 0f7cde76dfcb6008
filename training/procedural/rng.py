"""Random numbers for batches of rooms: the same on every device for a seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Dice:
    """Uniform random numbers for B rooms, cut off one block that was drawn on the CPU."""

    def __init__(
        self, batch: int, generator: torch.Generator, device: torch.device | str, columns: int = 12288
    ) -> None:
        block = torch.rand(batch, columns, generator=generator)
        if torch.device(device).type == "cuda":
            block = block.pin_memory()  # otherwise the copy waits for everything that is queued on the GPU
        self.block = block.to(device, non_blocking=True)
        self.used = 0

    def __call__(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return numbers in [low, high), [B, *shape]."""
        count = math.prod(shape)
        if self.used + count > self.block.shape[1]:
            raise RuntimeError(
                f"a room needs more than {self.block.shape[1]} random numbers: enlarge the block"
            )
        u = self.block[:, self.used : self.used + count].reshape(-1, *shape)
        self.used += count
        return low + (high - low) * u
