"""Convert any dataset to pixelSplat's chunks or to LVSM's folders of PNG.

`elvsm_dataset convert SOURCE OUT --to folders` or `--to chunks`; data/export.py writes other formats. What is complete
in OUT is kept, after a check. A frame that does not decode keeps its place and is recorded as missing, so that the
frames after it stay the ones that an evaluation index means.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from elvsm_core.files.atomic import write_bytes

from .readers.chunks import ChunkError, open_chunk
from .readers.re10k import INDEX_NAME, LIST_NAME, file_name, pack_cameras
from .store import DatasetError, FrameError, PosedScene, Store, decode

CHUNK_BYTES = 100_000_000
"""Size at which pixelSplat starts a new chunk."""
JPEG_QUALITY = 95

Progress = Callable[[Iterable[str], str], Iterable[str]]


@dataclasses.dataclass
class Report:
    """What a conversion did: keys of scenes, and for scenes with frames that are missing, which."""

    written: list[str] = dataclasses.field(default_factory=list)
    kept: list[str] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{len(self.written)} scenes written, {len(self.kept)} were there, {len(self.failed)} failed"
        ]
        lines += [f"  {key}: frames {frames} are missing" for key, frames in sorted(self.missing.items())]
        lines += [f"  {key} failed: {reason}" for key, reason in sorted(self.failed.items())]
        return "\n".join(lines)


def damaged_scenes(store: Store) -> dict[str, str]:
    """Return the scenes that a store knows of and cannot use, with the reasons."""
    return dict(getattr(store, "damaged", {}))


def _quiet(keys: Iterable[str], description: str) -> Iterable[str]:
    del description
    return keys


def encode(image: Image.Image | NDArray[np.uint8], encoding: str = "jpeg") -> bytes:
    """Encode an image (uint8 [H, W, 3] or Pillow's) as "jpeg" (quality 95, colours at full resolution) or
    "png"."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    if encoding == "jpeg":
        picture.convert("RGB").save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    elif encoding == "png":
        picture.save(stream, "PNG", compress_level=3)
    else:
        raise DatasetError(f"unknown encoding {encoding!r}: use 'jpeg' or 'png'")
    return stream.getvalue()


def chunk_entry(
    key: str, images: Sequence[bytes], w2c: ArrayLike, relative_intrinsics: ArrayLike
) -> dict[str, Any]:
    """Return one scene as pixelSplat's chunks hold it.

    images: encoded, no bytes for a frame that is missing; w2c [N, 4, 4]; relative_intrinsics [N, 4] fx, fy,
    cx, cy as fractions of the image's width and height.
    """
    return {
        "url": "",
        "timestamps": torch.arange(len(images)),
        "cameras": torch.from_numpy(pack_cameras(w2c, relative_intrinsics)),
        "images": [
            torch.frombuffer(bytearray(i), dtype=torch.uint8) if i else _NOTHING.clone() for i in images
        ],
        "key": key,
    }


_NOTHING = torch.zeros(0, dtype=torch.uint8)


def write_chunk(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write a chunk, a list of `chunk_entry`, atomically."""
    stream = io.BytesIO()
    torch.save(list(entries), stream)
    write_bytes(path, stream.getvalue())


def write_index(folder: Path) -> dict[str, str]:
    """Write index.json (scene -> file) for the chunks in a folder, and return it."""
    index = {key: file.name for file in sorted(folder.glob("*.torch")) for key in open_chunk(file).scenes}
    write_bytes(folder / INDEX_NAME, json.dumps(index, indent=0).encode())
    return index


def to_folders(store: Store, out: Path, workers: int = 1, progress: Progress = _quiet) -> Report:
    """Write every scene as images/<scene>/<frame>.png and metadata/<scene>.json, and the list of all.

    A scene's JSON comes last, so a scene that has one is complete; it is kept when its cameras are those of
    the source and every PNG passes its checksums. Frames that do not decode have an entry with "missing":
    true and no file. A scene that cannot be read, or of which no frame decodes, is reported as failed.
    OSError (a full disk) ends the conversion; the next one goes on.
    """
    report, out = Report(failed=damaged_scenes(store)), out.absolute()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for key in progress(store.keys, "scenes"):
            try:
                target = out / "metadata" / f"{file_name(key)}.json"
                scene = store.scene(key)
                missing = _finished(scene, target, pool)
                if missing is None:
                    missing = _write_folder(scene, out, pool)
                    report.written.append(key)
                else:
                    report.kept.append(key)
                if missing:
                    report.missing[key] = missing
            except (DatasetError, ChunkError) as error:
                report.failed[key] = str(error)
    done = sorted({*report.written, *report.kept})
    lines = [str(out / "metadata" / f"{key}.json") for key in done]
    write_bytes(out / LIST_NAME, "".join(f"{line}\n" for line in lines).encode())
    return report


def _png(out: Path, key: str, frame: int) -> Path:
    return out / "images" / key / f"{frame:05d}.png"


def _write_folder(scene: PosedScene, out: Path, pool: ThreadPoolExecutor) -> list[int]:
    def write(frame: int) -> tuple[int, int] | None:
        try:
            image = scene.frame(frame).image
        except FrameError:
            return None
        write_bytes(_png(out, scene.key, frame), encode(image, "png"))
        return image.size

    sizes = list(pool.map(write, range(len(scene))))
    known = next((size for size in sizes if size), None)
    if known is None:
        raise DatasetError("none of its frames decodes")
    frames = []
    for i, size in enumerate(sizes):
        entry = {
            "image_path": str(_png(out, scene.key, i)),
            "fxfycxcy": scene.pixels(i, size or known).tolist(),
            "w2c": scene.w2c[i].tolist(),
        }
        frames.append(entry if size else entry | {"missing": True})
    content = {"scene_name": scene.key, "frames": frames}
    write_bytes(out / "metadata" / f"{scene.key}.json", json.dumps(content).encode())
    return [i for i, size in enumerate(sizes) if size is None]


def _finished(scene: PosedScene, metadata: Path, pool: ThreadPoolExecutor) -> list[int] | None:
    """Return the missing frames of a scene that is written completely and correctly, None for any other."""
    try:
        frames = json.loads(metadata.read_text())["frames"]
        w2c = np.array([frame["w2c"] for frame in frames])
        missing = [i for i, frame in enumerate(frames) if frame.get("missing")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if w2c.shape != scene.w2c.shape or not np.array_equal(w2c, scene.w2c):
        return None

    def intact(frame: int) -> bool:
        try:
            with Image.open(_png(metadata.parents[1], scene.key, frame)) as image:
                pixels = scene.pixels(frame, image.size)
                image.verify()
        except (OSError, SyntaxError, ValueError):
            return False
        return bool(np.allclose(pixels, frames[frame]["fxfycxcy"], rtol=1e-9))

    def decodes(frame: int) -> bool:
        try:
            scene.frame(frame)
        except FrameError:
            return False
        return True

    there = [i for i in range(len(frames)) if i not in set(missing)]
    if any(pool.map(decodes, missing)):  # the source was repaired
        return None
    return missing if all(pool.map(intact, there)) else None


def _put_aside(file: Path) -> None:
    """Rename a damaged chunk that a conversion wrote; nothing that is there is replaced, and other files stay."""
    if not re.fullmatch(r"\d{6}\.torch", file.name):
        raise DatasetError(f"{file} cannot be read and was not written by this program: move it away")
    number = 0
    while (aside := file.with_name(f"{file.name}.damaged{number or ''}")).exists():
        number += 1
    file.rename(aside)


def to_chunks(
    store: Store,
    out: Path,
    encoding: str = "jpeg",
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress = _quiet,
) -> Report:
    """Write every scene into chunks of about chunk_bytes, 000000.torch onwards, and index.json.

    Images that are in `encoding` already are copied byte by byte, others are encoded. Scenes that a chunk
    in `out` holds with the same cameras, complete, are kept; the scenes of a damaged chunk, which is
    renamed, are written again. Frames and errors as in `to_folders`: a frame that does not decode becomes
    one of no bytes.
    """
    report, out = Report(failed=damaged_scenes(store)), out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    present: dict[str, Path] = {}
    for file in sorted(out.glob("*.torch")):
        try:
            present |= dict.fromkeys(open_chunk(file).scenes, file)
        except ChunkError:
            _put_aside(file)
    names = _free_names(out)
    pending: list[dict[str, Any]] = []
    size = 0

    def flush() -> None:
        nonlocal pending, size
        if pending:
            write_chunk(next(names), pending)
            report.written += [entry["key"] for entry in pending]
        pending, size = [], 0

    for key in progress(store.keys, "scenes"):
        try:
            scene = store.scene(key)
            if key in present:
                missing = _same(scene, present[key])
                if missing is None:
                    raise DatasetError(
                        f"{present[key].name} holds another scene of this name: delete that chunk"
                    )
                report.kept.append(key)
            else:
                entry, missing = _encode_scene(scene, encoding)
                pending.append(entry)
                size += sum(len(image) for image in entry["images"])
            if missing:
                report.missing[key] = missing
        except (DatasetError, ChunkError) as error:
            report.failed[key] = str(error)
        if size >= chunk_bytes:
            flush()
    flush()
    write_index(out)
    return report


def _free_names(folder: Path) -> Iterator[Path]:
    number = 0
    while True:
        path = folder / f"{number:06d}.torch"
        if not path.exists():
            yield path
        number += 1


def _same(scene: PosedScene, file: Path) -> list[int] | None:
    """Return the missing frames of the scene as a chunk holds it, None when the chunk's has other cameras."""
    written = open_chunk(file).scenes[scene.key]
    expected = scene.w2c[:, :3].reshape(len(scene), 12).astype(np.float32)
    if written.cameras.shape[0] != len(scene) or not np.array_equal(written.cameras[:, 6:], expected):
        return None
    return [int(i) for i in np.flatnonzero(written.frames[:, 2] == 0)]


def _encode_scene(scene: PosedScene, encoding: str) -> tuple[dict[str, Any], list[int]]:
    images, intrinsics, missing = [], np.zeros((len(scene), 4)), []
    for i in range(len(scene)):
        data = scene.encoded(i)
        try:
            image = decode(data, f"frame {i} of scene {scene.key}")
        except FrameError:
            missing.append(i)
            images.append(b"")
            continue
        width, height = image.size
        intrinsics[i] = scene.pixels(i, image.size) / (width, height, width, height)
        images.append(data if (image.format or "").lower() == encoding else encode(image, encoding))
    if len(missing) == len(scene):
        raise DatasetError("none of its frames decodes")
    # The cameras of missing frames have to be written, too: the nearest frame's intrinsics.
    good = np.setdiff1d(np.arange(len(scene)), missing)
    for i in missing:
        intrinsics[i] = scene.intrinsics[i] if scene.relative else intrinsics[good[np.abs(good - i).argmin()]]
    return chunk_entry(scene.key, images, scene.w2c, intrinsics), missing
