"""RealEstate10K as pixelSplat's `.torch` chunks or as LVSM's folders of PNG: scenes, their frames decoded
on demand.

`python -m training.data.readers.re10k --benchmark PATH --workers N` measures how fast training samples come.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..store import DatasetError, PosedScene, Store, check_intrinsics
from .chunks import ChunkError, open_chunk

log = logging.getLogger(__name__)

SUMMARY = "RealEstate10K and DL3DV: pixelSplat's .torch chunks, or LVSM's list of scenes"
LIST_NAME = "full_list.txt"
INDEX_NAME = "index.json"


LONGEST_KEY = 200
"""Bytes of a scene's name that becomes that of a file."""


class ChunkStore:
    """pixelSplat's chunks: one `.torch` file or a folder of them, with or without index.json (key ->
    file)."""

    def __init__(self, path: Path) -> None:
        self.unreadable: dict[Path, str] = {}
        self.damaged: dict[str, str] = {}
        files = sorted(path.glob("*.torch")) if path.is_dir() else [path]
        index = path / INDEX_NAME
        if path.is_dir() and index.is_file():
            try:
                named = json.loads(index.read_text())
                self.files = {str(key): path / str(name) for key, name in named.items()}
            except (ValueError, AttributeError) as error:
                raise DatasetError(
                    f"{index} is not a JSON object {{scene: chunk}} ({error}): delete it"
                ) from error
        else:
            self.files = {}
            for file in files:
                try:
                    chunk = open_chunk(file)
                    self.files |= dict.fromkeys(chunk.scenes, file)
                    self._leave_out(chunk.damaged)
                except ChunkError as error:
                    self.unreadable[file] = str(error)
                    log.warning("chunk left out: %s", error)
        if not self.files:
            reasons = "; ".join((*self.unreadable.values(), *self.damaged.values()))
            raise DatasetError(f"no scene can be read from {path}" + (f": {reasons}" if reasons else ""))
        self.keys: Sequence[str] = sorted(self.files)

    def _leave_out(self, damaged: dict[str, str]) -> None:
        for key, reason in damaged.items():
            log.warning("scene left out: %s", reason)
            self.damaged[key] = reason

    def __len__(self) -> int:
        return len(self.keys)

    def scene(self, key: str) -> PosedScene:
        chunk = open_chunk(self.files[key])
        if key in chunk.damaged:
            raise DatasetError(chunk.damaged[key])
        if key not in chunk.scenes:
            raise DatasetError(f"{INDEX_NAME} says that {chunk.path} holds scene {key}, which it does not")
        w2c, intrinsics = parse_cameras(chunk.scenes[key].cameras, key)
        return PosedScene(key, w2c, intrinsics, True, _ChunkReader(self.files[key], key))


@dataclasses.dataclass(frozen=True)
class _ChunkReader:
    """Reads frames by path, so that a scene can be sent to another process."""

    path: Path
    key: str

    def __call__(self, frame: int) -> bytes:
        return open_chunk(self.path).read(self.key, frame)


def parse_cameras(cameras: ArrayLike, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split RealEstate10K's rows [N, 18] into w2c [N, 4, 4] and fx, fy, cx, cy [N, 4] relative to the
    image's size.

    Raises DatasetError for numbers that are not finite and for intrinsics that no camera has.
    """
    rows = np.asarray(cameras, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise DatasetError(f"scene {key} has cameras with NaN, or with focal lengths that are not positive")
    check_intrinsics(rows[:, :4], f"scene {key}")
    w2c = np.tile(np.eye(4), (len(rows), 1, 1))
    w2c[:, :3] = rows[:, 6:].reshape(-1, 3, 4)
    return w2c, rows[:, :4]


def pack_cameras(w2c: ArrayLike, relative_intrinsics: ArrayLike) -> NDArray[np.float32]:
    """Return RealEstate10K's rows [N, 18]: the inverse of `parse_cameras`."""
    poses = np.asarray(w2c, dtype=np.float64)[:, :3].reshape(-1, 12)
    rows = [np.asarray(relative_intrinsics, dtype=np.float64), np.zeros((len(poses), 2)), poses]
    return np.concatenate(rows, axis=1).astype(np.float32)


class FolderStore:
    """LVSM's layout: a list of paths of scene JSON files, whose frames are PNG files.

    Published lists and JSON files name absolute paths of the machine that wrote them. Where such a path
    does not exist, the same file is looked for beside the list: metadata/<scene>.json,
    images/<scene>/<file>.
    """

    def __init__(self, listing: Path) -> None:
        self.root = listing.parent
        lines = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
        self.paths = {Path(line).stem: Path(line) for line in lines}
        if not self.paths:
            raise DatasetError(f"{listing} lists no scenes")
        self.keys: Sequence[str] = sorted(self.paths)

    def __len__(self) -> int:
        return len(self.keys)

    def scene(self, key: str) -> PosedScene:
        path = self.paths[key]
        try:
            text = _read_first(self.root / path, self.root / "metadata" / path.name)
            if not text:
                raise DatasetError(
                    f"scene {key}: there is no {path}, nor metadata/{path.name} in {self.root}"
                )
            frames = json.loads(text)["frames"]
            images = [Path(frame["image_path"]) for frame in frames]
            w2c = np.array([frame["w2c"] for frame in frames], dtype=np.float64).reshape(-1, 4, 4)
            intrinsics = np.array([frame["fxfycxcy"] for frame in frames], dtype=np.float64).reshape(-1, 4)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(
                f"scene {key}: {path} is truncated or of another layout ({error!r})"
            ) from error
        if len(w2c) != len(frames) or not (np.isfinite(w2c).all() and np.isfinite(intrinsics).all()):
            raise DatasetError(f"scene {key}: {path} has cameras with NaN, or fewer of them than frames")
        if (intrinsics[:, :2] < 4).any():
            raise DatasetError(
                f"scene {key}: {path} has focal lengths of less than four pixels: fxfycxcy must be pixels, "
                f"not fractions"
            )
        places = tuple((self.root / image, self.root / "images" / key / image.name) for image in images)
        return PosedScene(key, w2c, intrinsics, False, _FolderReader(places))


@dataclasses.dataclass(frozen=True)
class _FolderReader:
    places: tuple[tuple[Path, Path], ...]

    def __call__(self, frame: int) -> bytes:
        return _read_first(*self.places[frame])


def _read_first(*paths: Path) -> bytes:
    """Return the content of the first of these files that exists, nothing when none does."""
    for path in paths:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            continue
    return b""


def file_name(key: str) -> str:
    """Return a scene's key as the name of a file or a folder. Raises DatasetError for one that leads elsewhere."""
    plain = key.isprintable() and not key.startswith(".") and not any(c in key for c in "/\\")
    if not (plain and 0 < len(key.encode(errors="replace")) <= LONGEST_KEY):
        raise DatasetError(
            f"the scene's name {key[:80]!r} is not a plain file name: nothing is written outside of the output folder"
        )
    return key


def detect(path: Path) -> bool:
    """Tell whether a path holds chunks or a list of scenes."""
    if path.is_dir():
        names = (LIST_NAME, INDEX_NAME)
        return any((path / name).is_file() for name in names) or any(path.glob("*.torch"))
    return path.is_file() and (path.suffix == ".torch" or _is_list(path))


def _is_list(path: Path) -> bool:
    """Tell whether a file begins with the path of a scene's JSON, whatever it is called."""
    with path.open("rb") as file:
        return file.readline(4096).strip().endswith(b".json")


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open RealEstate10K: a `.torch` file, a folder of them, a list file, or a folder that holds
    full_list.txt.

    Raises DatasetError for anything else, saying what was expected.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if (path / LIST_NAME).is_file():
            return FolderStore(path / LIST_NAME)
        if (path / INDEX_NAME).is_file() or any(path.glob("*.torch")):
            return ChunkStore(path)
        inside = sorted(p.name for p in path.iterdir() if p.is_dir() and any(p.glob("*.torch")))
        hint = f"; chunks are in {', '.join(inside)}: give one of these folders" if inside else ""
        raise DatasetError(f"{path} holds neither {LIST_NAME} nor .torch chunks{hint}")
    if not path.is_file():
        raise DatasetError(f"there is no dataset {path}")
    return ChunkStore(path) if path.suffix == ".torch" else FolderStore(path)


@dataclasses.dataclass(frozen=True)
class Throughput:
    """How fast training samples come: samples and decoded frames per second, and scenes that gave none, by reason."""

    samples: float
    frames: float
    skipped: dict[str, int]

    def __str__(self) -> str:
        reasons = ", ".join(f"{name} {n}" for name, n in self.skipped.items() if n) or "none"
        return f"{self.samples:.1f} samples/s ({self.frames:.0f} frames/s), skipped: {reasons}"


def benchmark(store: Store, workers: int, samples: int, batch: int, image_size: int) -> Throughput:
    """Draw training samples of eight views in `workers` processes, as a training does, and measure their rate.

    What the workers had ready when the measurement began is left out: their start is not what a long run waits for.
    """
    from torch.utils.data import DataLoader

    from ...sampling.samples import SKIPS, SampleConfig, StepSampler, TrainingSamples

    prefetch = 4 if workers else None
    ahead, counted = 2 * max(1, workers), max(1, samples // batch, 4 * workers)
    dataset = TrainingSamples(store, SampleConfig(image_size=image_size), seed=0)
    # More than is counted, so that the workers are as busy at the end as in the middle.
    sampler = StepSampler(steps=ahead + counted + workers * (prefetch or 0), batch=batch)
    loader = iter(DataLoader(dataset, batch_sampler=sampler, num_workers=workers, prefetch_factor=prefetch))
    skipped = collections.Counter[str]()
    for _ in range(ahead):
        next(loader)
    start = time.perf_counter()
    for _ in range(counted):
        skipped.update(dict(zip(SKIPS, next(loader)["skipped"].sum(0).tolist(), strict=True)))
    rate = counted * batch / (time.perf_counter() - start)
    return Throughput(rate, rate * dataset.config.views, dict(skipped))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: print how fast samples come."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data.readers.re10k", description="Measure the loader."
    )
    parser.add_argument("--benchmark", metavar="PATH", required=True, help="chunks or a list file")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=256)
    options = parser.parse_args(arguments)
    try:
        store = open_store(options.benchmark)
        rate = benchmark(store, options.workers, options.samples, options.batch, options.image_size)
    except ValueError as error:
        parser.error(str(error))
    print(f"{rate}; {options.workers} workers, {len(store)} scenes, squares of {options.image_size} pixels")


if __name__ == "__main__":
    main()
