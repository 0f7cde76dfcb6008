"""Write scenes of RealEstate10K as recordings, one rosbag2 each: elvsm_re10k_to_bag.

elvsm_re10k_to_bag re10k/test bags --index evaluation_index_re10k.json

The node and the published evaluation then look at the same scenes. Frame i has the stamp 1 s + i / rate, also where
frames before it are missing; images are copied as they are, poses and intrinsics are the dataset's. Its unit of length
is that of a reconstruction, not a metre, and differs from scene to scene: see --scale.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elvsm_training.data.conversion import encode
from elvsm_training.data.formats import open_store
from elvsm_training.data.readers.chunks import ChunkError
from elvsm_training.data.readers.re10k import file_name
from elvsm_training.data.store import DatasetError, FrameError, PosedScene, Store, decode
from elvsm_training.sampling.samples import read_index

SECOND = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class ConversionSettings:
    """How scenes are written. rate: frames per second. scale: metres to a unit of the dataset's lengths."""

    rate: float = 10.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rate", "scale"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise DatasetError(f"{name} must be a positive number, got {getattr(self, name)}")

    def stamp(self, frame: int) -> int:
        """Return a frame's stamp, nanoseconds."""
        return SECOND + round(frame * SECOND / self.rate)


def poses(scene: PosedScene, scale: float = 1.0) -> NDArray[np.float64]:
    """Return T_world_cam [N, 4, 4] of a scene's optical frames, rotations made exactly orthonormal.

    The dataset rounds them. Raises DatasetError for poses that are no rigid motion at all.
    """
    u, values, vt = np.linalg.svd(scene.w2c[:, :3, :3])
    if np.abs(values - 1).max() > 0.01 or (np.linalg.det(u @ vt) < 0).any():
        raise DatasetError(f"scene {scene.key} has poses that are no rotations with a translation")
    rotations = (u @ vt).swapaxes(1, 2)
    T = np.tile(np.eye(4), (len(scene), 1, 1))
    T[:, :3, :3] = rotations
    T[:, :3, 3] = -scale * np.einsum("nij,nj->ni", rotations, scene.w2c[:, :3, 3])
    return T


def write_bag(
    scene: PosedScene, path: Path, settings: ConversionSettings, frames: Collection[int] | None = None
) -> list[int]:
    """Write a scene, or some of its frames, as a rosbag2 (mcap); returns the frames that are missing or damaged.

    The folder `path` appears when it is complete. Poses of missing frames are written. Raises DatasetError where no
    frame decodes or a frame is asked for that the scene does not have, FileExistsError, and OSError for a full disk.
    """
    from elvsm_ros.conversions import Intrinsics
    from elvsm_ros.recordings.bag_writer import CameraBagWriter

    wanted = range(len(scene)) if frames is None else sorted(frames)
    if not wanted or wanted[0] < 0 or wanted[-1] >= len(scene):
        raise DatasetError(f"scene {scene.key} has {len(scene)} frames, not all that were asked for")
    T_world_cam, missing = poses(scene, settings.scale), []
    with CameraBagWriter(path) as bag:
        for frame in wanted:
            stamp = settings.stamp(frame)
            bag.add_pose(stamp, T_world_cam[frame])
            data = scene.encoded(frame)
            try:
                image = decode(data, f"frame {frame} of scene {scene.key}")
            except FrameError:
                missing.append(frame)
                continue
            fx, fy, cx, cy = scene.pixels(frame, image.size).tolist()
            encoding = (image.format or "").lower()
            if encoding not in ("jpeg", "png") or image.mode != "RGB":
                data, encoding = encode(image.convert("RGB"), "png"), "png"
            bag.add_encoded(stamp, data, encoding, Intrinsics(fx, fy, cx, cy, *image.size))
        if len(missing) == len(wanted):
            raise DatasetError(f"none of the frames of scene {scene.key} decodes")
    return missing


def span(entry: Mapping[str, Any]) -> range:
    """Return the frames from the first to the last that an entry of the evaluation index names."""
    named = [*entry["context"], *entry["target"]]
    return range(min(named), max(named) + 1)


def chosen(store: Store, index: Mapping[str, Any] | None, scenes: Sequence[str]) -> dict[str, range | None]:
    """Return which scenes are written and which frames of each, None for all.

    index: the evaluation index; scenes: names, none for all. Raises DatasetError for names that are not there.
    """
    unknown = [name for name in scenes if name not in set(store.keys)]
    if unknown:
        raise DatasetError(
            f"there is no scene {unknown[0]}; there are {len(store)}, {store.keys[0]} for example"
        )
    names = scenes or store.keys
    if index is None:
        return dict.fromkeys(names)
    found = {name: span(index[name]) for name in names if index.get(name) is not None}
    if not found:
        raise DatasetError("no scene of the evaluation index is in the dataset: is it the training split?")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="elvsm_re10k_to_bag",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", help="RealEstate10K: .torch chunks (a file or a folder), or a list file or its folder")
    add("out", type=Path, help="folder for the bags, one folder each; those that are there stay as they are")
    add("--scenes", nargs="*", default=[], metavar="NAME", help="only these scenes")
    add(
        "--index",
        help="evaluation index: only its scenes, and only the frames from its first to its last view",
    )
    add("--rate", type=float, default=10.0, help="frames per second (10)")
    add(
        "--scale",
        type=float,
        default=1.0,
        help="metres to a unit of length (1); keyframes are chosen by metres",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0, 1 where scenes failed, 2 for data or options that cannot be used."""
    args = _parser().parse_args(arguments)
    # Before rclpy is imported: the ROS packages of PyPI take the virtual environment as their prefix.
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    try:
        settings = ConversionSettings(args.rate, args.scale)
        index = None if args.index is None else read_index(args.index)
        store = open_store(args.source)
        todo = chosen(store, index, args.scenes)
        failed = _write_all(store, args.out, settings, todo)
    except (DatasetError, ChunkError) as error:
        print(f"elvsm_re10k_to_bag: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk
        print(
            f"elvsm_re10k_to_bag: {error}; bags that are there are complete, the same command goes on",
            file=sys.stderr,
        )
        return 2
    return 1 if failed else 0


def _write_all(
    store: Store, out: Path, settings: ConversionSettings, todo: Mapping[str, range | None]
) -> int:
    from rich.console import Console
    from rich.progress import track

    console, written, kept, failed = Console(stderr=True), 0, 0, 0

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for name in track(list(todo), "scenes", console=console, disable=not console.is_terminal):
        try:
            path = out / file_name(name)
            if path.exists():
                kept += 1
                continue
            missing = write_bag(store.scene(name), path, settings, todo[name])
        except (DatasetError, ChunkError) as error:
            say(f"{name} failed: {error}")
            failed += 1
            continue
        written += 1
        if missing:
            say(f"{name}: frames {missing} are missing or damaged, their poses are written")
    print(f"{written} bags written to {out}, {kept} were there, {failed} scenes failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
