"""Samples of RealEstate10K for training and evaluation, prepared as the published pipeline does.

Everything that is drawn follows from a seed and the sample's number alone: any number of processes, on any
number of machines, at any time after a restart, draws the same samples.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from elvsm_core import CameraError, normalize_poses

from ..data.frames import c2w_from_w2c, preprocess_frame
from ..data.readers.chunks import ChunkError
from ..data.store import DatasetError, FrameError, PosedScene, Store
from .views import ViewSelectionError, evaluation_views, training_views

SKIPS = ("damaged scene", "too few frames", "damaged frame", "poses coincide", "other size")
"""Why a scene was passed over for another, in the order of a sample's "skipped"."""
MAX_ATTEMPTS = 1000


class _Skip(Exception):
    """A scene that gives no sample."""


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """What a sample consists of.

    inputs, targets: numbers of views. image_size: height, pixels; frames are cropped to a square, or, where
    image_width is given, left as wide as they come and passed over where that is another width.
    target_has_input: draw targets from all views of the sample, inputs included, rather than the last ones.
    dynamic_inputs: numbers of inputs to choose from, one choice for `batch` consecutive samples.
    shuffle_inputs: permute the inputs. scale_factor: of the poses' normalisation.

    Raises DatasetError for numbers that do not fit together.
    """

    inputs: int = 2
    targets: int = 6
    image_size: int = 256
    image_width: int | None = None
    patch_size: int = 8
    target_has_input: bool = True
    dynamic_inputs: tuple[int, ...] = ()
    batch: int = 1
    shuffle_inputs: bool = False
    scale_factor: float = 1.35

    def __post_init__(self) -> None:
        if min(self.inputs, self.targets, self.image_size, self.patch_size, self.batch) < 1:
            raise DatasetError("inputs, targets, image_size, patch_size and batch must be at least 1")
        for size in (self.image_size, self.image_width or self.patch_size):
            if size % self.patch_size:
                raise DatasetError(f"an image of {size} pixels is not made of patches of {self.patch_size}")
        most = max((self.inputs, *self.dynamic_inputs))
        if min((1, *self.dynamic_inputs)) < 1 or most > self.views:
            raise DatasetError(f"dynamic_inputs {self.dynamic_inputs} must lie in 1 to {self.views}")
        if not self.target_has_input and most + self.targets > self.views:
            raise DatasetError(
                f"{most} inputs and {self.targets} targets need more than {self.views} views: "
                f"set target_has_input"
            )

    @property
    def views(self) -> int:
        """The number of views drawn for a sample."""
        return self.inputs + self.targets

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of all images, pixels."""
        return self.image_size, self.image_width or self.image_size


def _load(scene: PosedScene, views: Sequence[int], config: SampleConfig) -> dict[str, Tensor]:
    """Decode and preprocess frames; poses are normalised over all of them together."""
    try:
        poses = c2w_from_w2c(scene.w2c[list(views)])
    except np.linalg.LinAlgError as error:
        raise DatasetError(f"scene {scene.key} has poses that cannot be inverted") from error
    except IndexError as error:
        raise DatasetError(f"scene {scene.key} has {len(scene)} frames, not all of {list(views)}") from error
    # Equal centres leave rounding errors, which the normalisation would blow up to the size of a scene.
    centres = poses[:, :3, 3]
    if np.ptp(centres, axis=0).max() <= 1e-6 * max(1.0, np.abs(centres).max()):
        raise _Skip(SKIPS[3])
    prepared = {}
    for index in sorted(set(views)):
        frame = scene.frame(index)
        prepared[index] = preprocess_frame(
            frame.image,
            frame.fxfycxcy,
            config.image_size,
            config.patch_size,
            square_crop=config.image_width is None,
        )
        if prepared[index][0].shape[1:] != config.size:
            raise _Skip(SKIPS[4])
    try:
        c2w = normalize_poses(torch.from_numpy(poses), config.scale_factor)
    except CameraError as error:
        raise _Skip(SKIPS[3]) from error
    return {
        "image": torch.from_numpy(np.stack([prepared[index][0] for index in views])),
        "fxfycxcy": torch.from_numpy(np.stack([prepared[index][1] for index in views])),
        "c2w": c2w,
    }


def _sample(
    views: dict[str, Tensor], frames: Sequence[int], inputs: Sequence[int], targets: Sequence[int]
) -> dict[str, Tensor]:
    parts = {"input": list(inputs), "target": list(targets)}
    sample = {
        f"{part}_{name}": value[chosen] for part, chosen in parts.items() for name, value in views.items()
    }
    return sample | {f"{part}_frame": torch.tensor([frames[i] for i in c]) for part, c in parts.items()}


class TrainingSamples(Dataset[dict[str, Any]]):
    """Training samples by number: the first len(store) are the first epoch, a permutation of the scenes.

    A sample: input_image uint8 [I, 3, H, W], input_c2w [I, 4, 4] float32 normalised, input_fxfycxcy [I, 4]
    pixels, input_frame [I]; the same for target; scene: its number in store.keys; skipped int64
    [len(SKIPS)]: how many scenes were passed over for this sample, and why. The next scene is then drawn
    from all, by the same seed.
    """

    def __init__(self, store: Store, config: SampleConfig, seed: int) -> None:
        if config.views < 3:
            raise DatasetError("a training sample has at least three views: two ends and one between them")
        self.store, self.config, self.seed = store, config, seed
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.store)

    def scene_number(self, number: int) -> int:
        """Return the scene that is tried first for a sample."""
        epoch, position = divmod(number, len(self.store))
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.store))
            self._order = epoch, order
        return int(self._order[1][position])

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return sample `number`, any number from 0. Raises DatasetError when no scene gives a sample."""
        rng = random.Random(f"elvsm {self.seed} {number}")
        skipped = dict.fromkeys(SKIPS, 0)
        chosen = self.scene_number(number)
        for _ in range(MAX_ATTEMPTS):
            try:
                sample = self._draw(self.store.keys[chosen], number, rng)
            except _Skip as reason:
                skipped[str(reason)] += 1
            except FrameError:
                skipped["damaged frame"] += 1
            except (DatasetError, ChunkError):
                skipped["damaged scene"] += 1
            else:
                counts = torch.tensor(list(skipped.values()))
                return {**sample, "scene": chosen, "skipped": counts}
            chosen = rng.randrange(len(self.store))
        reasons = ", ".join(f"{name} {n}" for name, n in skipped.items() if n)
        raise DatasetError(f"none of {MAX_ATTEMPTS} scenes drawn gives a training sample: {reasons}")

    def _draw(self, key: str, number: int, rng: random.Random) -> dict[str, Tensor]:
        config, scene = self.config, self.store.scene(key)
        frames = training_views(len(scene), config.views, rng)
        if frames is None:
            raise _Skip(SKIPS[1])
        count = config.inputs
        if config.dynamic_inputs:
            group = random.Random(f"elvsm {self.seed} inputs {number // config.batch}")
            count = group.choice(config.dynamic_inputs)
        inputs = list(range(count))
        if config.shuffle_inputs:
            rng.shuffle(inputs)
        everything = range(config.views)
        targets = (
            rng.sample(everything, config.targets)
            if config.target_has_input
            else everything[-config.targets :]
        )
        return _sample(_load(scene, frames, config), frames, inputs, targets)


class StepSampler:
    """Batches of sample numbers for one rank, from any step on: a batch sampler for torch's DataLoader.

    Step s takes samples s * world * batch onwards; rank r the r-th `batch` of them. Two runs that stop and
    go on at any step, also with another number of ranks and the same global batch, see every sample once.
    """

    def __init__(self, steps: int, batch: int, first_step: int = 0, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world or batch < 1:
            raise DatasetError(f"rank {rank} of {world} with batches of {batch} is not possible")
        self.steps, self.batch, self.first_step, self.rank, self.world = steps, batch, first_step, rank, world

    def __len__(self) -> int:
        return max(0, self.steps - self.first_step)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            start = (step * self.world + self.rank) * self.batch
            yield list(range(start, start + self.batch))


def read_index(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the evaluation index, scene -> null or {context, target}. Raises DatasetError when it is not
    there."""
    try:
        index = json.loads(Path(path).expanduser().read_text())
    except OSError as error:
        raise DatasetError(
            f"there is no evaluation index {path} ({error.strerror}): it comes with pixelSplat as "
            f"assets/evaluation_index_re10k.json. Evaluating other views would give figures that mean nothing"
        ) from error
    except ValueError as error:
        raise DatasetError(f"the evaluation index {path} is not JSON ({error}): copy it again") from error
    if not isinstance(index, dict):
        raise DatasetError(f"the evaluation index {path} is not an object {{scene: views}}")
    return index


class EvaluationSamples(Dataset[dict[str, Any]]):
    """The samples that an evaluation index lists, by position in `keys`.

    `dropped` names the scenes left out: "null" entries, and those "missing" from the store. A sample is as
    in TrainingSamples without skipped, and scene is its key; a scene that cannot be read gives {scene,
    error: text} instead, because an evaluation must report it rather than stop or take other views.
    """

    def __init__(self, store: Store, index: Mapping[str, Any], config: SampleConfig) -> None:
        self.store, self.index, self.config = store, index, config
        present = set(store.keys)
        self.dropped = {
            "null": sorted(key for key, entry in index.items() if entry is None),
            "missing": sorted(
                key for key, entry in index.items() if entry is not None and key not in present
            ),
        }
        self.keys = sorted(key for key, entry in index.items() if entry is not None and key in present)
        if not self.keys:
            raise DatasetError(
                "no scene of the evaluation index is in the dataset: is it the training split?"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int) -> dict[str, Any]:
        key, config = self.keys[position], self.config
        try:
            inputs, targets = evaluation_views(self.index[key], config.inputs, config.targets)
            frames = [*inputs, *targets]
            views = _load(self.store.scene(key), frames, config)
        except _Skip as reason:
            return {"scene": key, "error": str(reason)}
        except (DatasetError, ChunkError, ViewSelectionError) as error:
            return {"scene": key, "error": str(error)}
        split = range(len(inputs)), range(len(inputs), len(frames))
        return {**_sample(views, frames, *split), "scene": key}
