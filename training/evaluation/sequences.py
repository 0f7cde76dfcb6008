"""A posed image sequence in memory, which renders are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


class DataError(ValueError):
    """Data that cannot be evaluated on."""


@dataclass(frozen=True)
class Frames:
    """A posed image sequence: images uint8 [F, 3, H, W], c2w [F, 4, 4] OpenCV metres, fxfycxcy [F, 4] pixels."""

    images: Tensor
    c2w: Tensor
    fxfycxcy: Tensor
