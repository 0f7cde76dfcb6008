"""The processes of a training, and the clock that they share."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def rank() -> int:
    """Return this process's number in its group, 0 where there is none."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """Return the number of processes in the group, 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Clock:
    """The run's progress in [0, 1], the same on all ranks: rank 0's clock is passed on every few steps.

    minutes: length of the run, over all restarts (0: no limit); steps: the same in steps. A number in the file
    `minutes` of the run's folder replaces the setting while the training runs: a machine that is leased until some
    moment may turn out to have more time left, or less. While the folder holds a file `pause`, the training rests and
    leaves its GPUs idle; a file `paused` says that it does. That time does not count.
    """

    def __init__(self, minutes: float, steps: int, out: str, seconds: float = 0.0, every: int = 10) -> None:
        """seconds: what earlier parts of the run took."""
        self.minutes, self.steps, self.every = minutes, steps, every
        self.file = Path(out) / "minutes"
        self.pause, self.paused = Path(out) / "pause", Path(out) / "paused"
        self.start = time.monotonic() - seconds
        self.elapsed, self.share = seconds, 0.0
        self.group = dist.new_group(backend="gloo") if world() > 1 else None

    def update(self, step: int) -> float:
        """Return the progress at a step; `elapsed` (seconds) and it are then the same on all ranks."""
        if step % self.every == 0:
            if rank() == 0 and self.file.exists():
                with contextlib.suppress(ValueError, OSError):
                    self.minutes = max(0.01, float(self.file.read_text()))
            elapsed = time.monotonic() - self.start
            share = elapsed / (60 * self.minutes) if self.minutes else 0.0
            rest = rank() == 0 and self.pause.exists()
            value = torch.tensor([elapsed, share, rest], dtype=torch.float64)
            if self.group is not None:
                dist.broadcast(value, 0, group=self.group)
            self.elapsed, self.share, waits = value.tolist()
            if waits:
                self._rest()
        return min(1.0, max(self.share, step / self.steps if self.steps else 0.0))

    def _rest(self) -> None:
        start = time.monotonic()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # no collective is left half done on a GPU that others want to use
        if self.group is not None:
            dist.barrier(self.group)
        if rank() == 0:
            logging.getLogger("training").info("paused until %s is removed", self.pause)
            self.paused.touch()
            while self.pause.exists():
                time.sleep(0.1)
            self.paused.unlink(missing_ok=True)
        if self.group is not None:
            dist.barrier(self.group)
        self.start += time.monotonic() - start

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * world()
        dist.all_gather_object(values, value, group=self.group)
        return values
