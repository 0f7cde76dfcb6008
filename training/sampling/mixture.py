"""Walks of several views out of any datasets, mixed by weight: what drawn rooms are, made of footage.

Everything that is drawn follows from a seed and the sample's number alone, as in samples.py.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

import elvsm_core as ec

from ..data.formats import open_store
from ..data.readers.chunks import ChunkError
from ..data.store import DatasetError, FrameError, PosedScene, Store
from ..settings import StoreSettings
from .overlap import overlaps, relative_intrinsics, typical_distances
from .samples import MAX_ATTEMPTS, SKIPS

NOMINAL = 1.0
"""Metres that the farthest view of a walk lies from their middle, where the unit of a dataset is no metre."""
TRIES = 4
"""Frames around which overlapping views are looked for before a scene is given up."""


class Skip(Exception):
    """A scene that gives no walk; the text is one of SKIPS."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A dataset of a mixture, with what the settings say of it."""

    store: Store
    settings: StoreSettings


def open_entries(settings: Sequence[StoreSettings]) -> list[Entry]:
    """Open the datasets of a mixture. Raises DatasetError, naming the entry."""
    entries = []
    for number, entry in enumerate(settings):
        try:
            store = open_store(entry.path, entry.store, entry.options)
        except (DatasetError, ChunkError) as error:
            raise DatasetError(f"data.stores[{number}]: {error}") from error
        if not len(store):
            raise DatasetError(f"data.stores[{number}]: {entry.path} has no scenes")
        entries.append(Entry(store, entry))
    return entries


def choose_by_gap(frames: int, views: int, gap: tuple[int, int], rng: random.Random) -> list[int] | None:
    """Draw the frames of a walk, in order: two ends `gap` frames apart, and frames between them.

    A sequence that is shorter than the least gap is taken whole; None for one with fewer frames than views.
    """
    if frames < views:
        return None
    longest = max(views - 1, min(frames - 1, gap[1]))
    distance = rng.randint(min(longest, max(views - 1, gap[0])), longest)
    start = rng.randint(0, frames - distance - 1)
    between = rng.sample(range(start + 1, start + distance), views - 2)
    return [start, *sorted(between), start + distance]


def choose_by_overlap(
    scene: PosedScene, views: int, share: tuple[float, float], rng: random.Random
) -> list[int] | None:
    """Draw the frames of a walk: one frame, and others whose frusta overlap with its by a share within limits.

    They are put into the order of the direction in which they are spread most, so that some lie between others.
    Returns None where no frame that was tried has enough such neighbours.
    """
    if len(scene) < views:
        return None
    relative, distances = relative_intrinsics(scene), typical_distances(scene)
    for _ in range(TRIES):
        frame = rng.randrange(len(scene))
        shares = overlaps(scene.w2c, relative, distances, frame)
        shares[frame] = -1
        near = np.flatnonzero((shares >= share[0]) & (shares <= share[1])).tolist()
        if len(near) >= views - 1:
            chosen = [frame, *rng.sample(near, views - 1)]
            centres = np.linalg.inv(scene.w2c[chosen])[:, :3, 3]
            centred = centres - centres.mean(0)
            along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
            return [chosen[i] for i in np.argsort(along)]
    return None


class WalkSamples(Dataset[dict[str, Any]]):
    """Walks by number, each of `views` images of `size` (height, width), from the datasets of a mixture by weight.

    A walk: images uint8 [V, 3, H, W]; c2w [V, 4, 4] float32, metres from the middle of the walk; fxfycxcy [V, 4]
    pixels; depth float32 [V, H, W] in metres, 0 where unknown, with `depth`; entry: number of the dataset; metric;
    skipped int64 [len(SKIPS)]: how many scenes were passed over for this walk, and why.
    """

    def __init__(
        self, entries: Sequence[Entry], views: int, size: tuple[int, int], seed: int, depth: bool = False
    ) -> None:
        if views < 2:
            raise DatasetError(f"a walk has at least two views, got {views}")
        self.entries, self.views, self.size, self.seed, self.depth = list(entries), views, size, seed, depth

    def __len__(self) -> int:
        return sum(len(entry.store) for entry in self.entries)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return walk `number`, any number from 0. Raises DatasetError when no scene gives one."""
        rng = random.Random(f"elvsm walk {self.seed} {number}")
        skipped = dict.fromkeys(SKIPS, 0)
        weights = [entry.settings.weight for entry in self.entries]
        chosen = rng.choices(range(len(self.entries)), weights)[0]
        entry = self.entries[chosen]
        for _ in range(MAX_ATTEMPTS):
            try:
                walk = self._draw(entry, rng)
            except Skip as reason:
                skipped[str(reason)] += 1
            except FrameError:
                skipped["damaged frame"] += 1
            except (DatasetError, ChunkError):
                skipped["damaged scene"] += 1
            else:
                return {**walk, "entry": chosen, "skipped": torch.tensor(list(skipped.values()))}
        reasons = ", ".join(f"{name} {n}" for name, n in skipped.items() if n)
        raise DatasetError(
            f"none of {MAX_ATTEMPTS} scenes drawn from {entry.settings.path} gives a walk of {self.views} views: "
            f"{reasons}; elvsm_dataset inspect says more"
        )

    def _draw(self, entry: Entry, rng: random.Random) -> dict[str, Any]:
        settings = entry.settings
        scene = entry.store.scene(entry.store.keys[rng.randrange(len(entry.store))])
        way = settings.views if settings.views != "auto" else ("gap" if scene.ordered else "overlap")
        if way == "gap":
            frames = choose_by_gap(len(scene), self.views, settings.gap, rng)
        else:
            frames = choose_by_overlap(scene, self.views, settings.overlap, rng)
        if frames is None:
            raise Skip("too few frames")
        metric = scene.metric if settings.scale == "auto" else settings.scale == "metric"
        poses, scale = placed(scene.w2c[frames], metric)
        parts = [self._view(scene, frame, pose) for frame, pose in zip(frames, poses, strict=True)]
        walk: dict[str, Any] = {
            "images": torch.stack([image for image, _, _ in parts]),
            "c2w": torch.from_numpy(poses.astype(np.float32)),
            "fxfycxcy": torch.tensor([k for _, k, _ in parts], dtype=torch.float32),
            "metric": metric,
        }
        if self.depth:
            walk["depth"] = torch.from_numpy(np.stack([depth * np.float32(scale) for _, _, depth in parts]))
        return walk

    def _view(
        self, scene: PosedScene, frame: int, pose: NDArray[np.float64]
    ) -> tuple[torch.Tensor, tuple[float, float, float, float], NDArray[np.float32]]:
        image, fxfycxcy, _ = scene.frame(frame)
        pixels = np.asarray(image.convert("RGB"))
        camera = ec.Camera(*fxfycxcy, image.width, image.height, pose)
        resized, fitted = ec.resize_and_crop(pixels, camera, self.size)
        found = scene.depth(frame) if self.depth and scene.depth is not None else None
        depth = (
            np.zeros(self.size, dtype=np.float32)
            if found is None
            else fit_depth(found, image.size, self.size)
        )
        return resized.permute(2, 0, 1), fitted.fxfycxcy, depth


def placed(w2c: NDArray[np.float64], metric: bool) -> tuple[NDArray[np.float64], float]:
    """Return c2w [V, 4, 4] of a walk around the middle of its views, and the factor on lengths.

    Rotations are made exactly orthonormal, because files round them. metric: the factor is 1; elsewhere it makes the
    farthest view NOMINAL metres away. Raises Skip where all views have one centre.
    """
    u, _, vt = np.linalg.svd(w2c[:, :3, :3])
    rotations = (u @ vt).swapaxes(1, 2)
    centres = -np.einsum("nij,nj->ni", rotations, w2c[:, :3, 3])
    largest = np.abs(centres).max()
    centres = centres - centres.mean(0)
    extent = np.linalg.norm(centres, axis=1).max()
    if not extent > 1e-9 * max(1.0, largest):
        raise Skip("poses coincide")
    scale = 1.0 if metric else NOMINAL / extent
    out = np.tile(np.eye(4), (len(w2c), 1, 1))
    out[:, :3, :3], out[:, :3, 3] = rotations, centres * scale
    return out, float(scale)


def fit_depth(
    depth: NDArray[np.float32], image: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Cut and resample a depth as elvsm_core.resize_and_crop does its image; no two depths are mixed.

    image: (width, height) of the image, which the depth covers at any resolution. size: (height, width) of the result.
    """
    (width, height), (h, w) = image, size
    scale = min(height / h, width / w)
    crop_h, crop_w = min(height, max(1, round(h * scale))), min(width, max(1, round(w * scale)))
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    rows = (top + (np.arange(h) + 0.5) * crop_h / h) * depth.shape[0] / height
    columns = (left + (np.arange(w) + 0.5) * crop_w / w) * depth.shape[1] / width
    return depth[np.ix_(rows.astype(int), columns.astype(int))]
