"""Which frames of a RealEstate10K sequence are inputs and which are targets."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

MIN_FRAME_DISTANCE = 25
MAX_FRAME_DISTANCE = 192


class ViewSelectionError(ValueError):
    """A sequence or an index entry that the asked views cannot be taken from."""


def evaluation_views(
    entry: Mapping[str, Sequence[int]] | None, inputs: int, targets: int
) -> tuple[list[int], list[int]]:
    """Return the input and the target frames of one entry of the evaluation index.

    entry {"context": [a, b], "target": [...]}. One input is a; two are a and b; more are spread evenly from
    a to b (rounded half to even). Targets are the first `targets` of the entry's. The entry is not changed.
    Raises ViewSelectionError for a null entry (the published evaluation leaves such scenes out), or when it
    lists fewer targets than asked for.
    """
    if entry is None:
        raise ViewSelectionError("the evaluation index has no views for this scene: leave it out")
    context, listed = list(entry["context"]), list(entry["target"])
    if inputs < 1 or targets < 1:
        raise ViewSelectionError(f"at least one input and one target are needed, got {inputs} and {targets}")
    if len(listed) < targets:
        raise ViewSelectionError(f"the index lists {len(listed)} targets, {targets} asked for")
    first, last = context[0], context[-1]
    if inputs == 1:
        chosen = [first]
    elif inputs == 2:
        chosen = [first, last]
    else:
        chosen = [int(i) for i in np.rint(np.linspace(first, last, inputs))]
        chosen[0], chosen[-1] = first, last
    return chosen, listed[:targets]


def training_views(frames: int, views: int, rng: random.Random) -> list[int] | None:
    """Draw the frames of one training sample: the two ends of a stretch, then frames between them, unsorted.

    frames: length of the sequence. The ends are 25 to 192 frames apart. Returns None for a sequence that is
    too short; another one is to be drawn then.
    """
    shortest = max(MIN_FRAME_DISTANCE, views)
    longest = min(frames - 1, MAX_FRAME_DISTANCE)
    if frames < views or longest <= shortest:
        return None
    distance = rng.randint(shortest, longest)
    start = rng.randint(0, frames - distance - 1)
    between = rng.sample(range(start + 1, start + distance), views - 2)
    return [start, start + distance, *between]
