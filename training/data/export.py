"""Write scenes as folders of images with a file of cameras: cameras.json, nerfstudio's transforms.json, COLMAP's text.

One folder for each scene: images/, depth/ where depths are known (16-bit PNG of a thousandth of the poses' unit), and
the file of cameras, which comes last: a scene that has one is complete. Frames that do not decode are left out.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elvsm_core.files.atomic import write_bytes

from .conversion import Progress, Report, damaged_scenes, encode
from .readers.chunks import ChunkError
from .readers.nerfstudio import GRAPHICS
from .readers.re10k import file_name
from .store import DatasetError, FrameError, PosedScene, Store, decode

DONE = "elvsm_export.json"
"""What was written of a scene, for the check when a conversion is resumed."""
DEPTH_STEP = 0.001
MOST_DEPTH = 65535


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """A frame that was written: names of its files, c2w [4, 4], fxfycxcy [4] pixels of its image, (width, height)."""

    file: str
    depth: str | None
    c2w: NDArray[np.float64]
    fxfycxcy: NDArray[np.float64]
    size: tuple[int, int]
    stamp: int | None


def cameras_json(scene: PosedScene, frames: Sequence[Written]) -> dict[str, bytes]:
    """Return cameras.json, as data/cameras.py reads it."""
    rows: list[dict[str, Any]] = []
    for f in frames:
        fx, fy, cx, cy = f.fxfycxcy.tolist()
        row: dict[str, Any] = {"file": f.file, "c2w": f.c2w.tolist(), "w": f.size[0], "h": f.size[1]}
        row |= {"fx": fx, "fy": fy, "cx": cx, "cy": cy}
        row |= {"depth": f.depth} if f.depth else {}
        row |= {"stamp": f.stamp / 1e9} if f.stamp is not None else {}
        rows.append(row)
    content = {"convention": "opencv cam-to-world 4x4", "metric": scene.metric, "frames": rows}
    return {"cameras.json": json.dumps(content).encode()}


def transforms_json(scene: PosedScene, frames: Sequence[Written]) -> dict[str, bytes]:
    """Return nerfstudio's transforms.json, intrinsics with each frame."""
    rows = []
    for f in frames:
        fx, fy, cx, cy = f.fxfycxcy.tolist()
        row = {"file_path": f"images/{f.file}", "transform_matrix": (f.c2w @ GRAPHICS).tolist()}
        row |= {"w": f.size[0], "h": f.size[1], "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
        rows.append(row | ({"depth_file_path": f"depth/{f.depth}"} if f.depth else {}))
    content = {"camera_model": "PINHOLE", "depth_unit_scale_factor": DEPTH_STEP, "frames": rows}
    return {"transforms.json": json.dumps(content).encode()}


def colmap_text(scene: PosedScene, frames: Sequence[Written]) -> dict[str, bytes]:
    """Return COLMAP's text model without points: for triangulation, or for tools that read poses from it."""
    from scipy.spatial.transform import Rotation

    known: dict[tuple[float, ...], int] = {}
    cameras, images = (
        ["# cameras: CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"],
        ["# images: ID, Q, T, CAMERA_ID, NAME"],
    )
    for number, f in enumerate(frames, start=1):
        values = (*f.size, *f.fxfycxcy.tolist())
        if values not in known:
            known[values] = len(known) + 1
            cameras.append(
                f"{known[values]} PINHOLE {f.size[0]} {f.size[1]} " + " ".join(map(repr, values[2:]))
            )
        w2c = np.linalg.inv(f.c2w)
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat().tolist()
        pose = " ".join(map(repr, (w, x, y, z, *w2c[:3, 3].tolist())))
        images += [f"{number} {pose} {known[values]} {f.file}", ""]
    texts = {"cameras.txt": cameras, "images.txt": images, "points3D.txt": ["# points3D: none"]}
    return {f"sparse/0/{name}": ("\n".join(lines) + "\n").encode() for name, lines in texts.items()}


WRITERS: dict[str, Callable[[PosedScene, Sequence[Written]], dict[str, bytes]]] = {
    "cameras": cameras_json,
    "nerfstudio": transforms_json,
    "colmap": colmap_text,
}


def to_files(store: Store, out: Path, form: str, workers: int, progress: Progress) -> Report:
    """Write every scene of a store as a folder below `out`, in one of the forms of WRITERS.

    Images that are JPEG or PNG are copied byte by byte. A scene that is there with the same poses, complete and intact,
    is kept. A scene that cannot be read, or of which no frame decodes, is reported as failed. OSError (a full disk)
    ends the conversion; the same call resumes it.
    """
    report, out = Report(failed=damaged_scenes(store)), out.absolute()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for key in progress(store.keys, "scenes"):
            try:
                folder, scene = out / file_name(key), store.scene(key)
                missing = _finished(scene, folder, form)
                if missing is None:
                    missing = _write(scene, folder, form, pool)
                    report.written.append(key)
                else:
                    report.kept.append(key)
                if missing:
                    report.missing[key] = missing
            except (DatasetError, ChunkError) as error:
                report.failed[key] = str(error)
    return report


def _write(scene: PosedScene, folder: Path, form: str, pool: ThreadPoolExecutor) -> list[int]:
    frames = list(pool.map(lambda i: _write_frame(scene, i, folder), range(len(scene))))
    there = [frame for frame in frames if frame is not None]
    missing = [i for i, frame in enumerate(frames) if frame is None]
    if not there:
        raise DatasetError("none of its frames decodes")
    for name, data in WRITERS[form](scene, there).items():
        write_bytes(folder / name, data)
    facts = {"form": form, "missing": missing, "w2c": scene.w2c.tolist(), "files": [f.file for f in there]}
    write_bytes(folder / DONE, json.dumps(facts).encode())
    return missing


def _write_frame(scene: PosedScene, index: int, folder: Path) -> Written | None:
    data = scene.encoded(index)
    try:
        image = decode(data, scene.name(index))
        fxfycxcy = scene.pixels(index, image.size)
    except FrameError:
        return None
    encoding = (image.format or "").lower()
    if encoding not in ("jpeg", "png"):
        data, encoding = encode(image), "jpeg"
    file = f"{index:05d}.{'jpg' if encoding == 'jpeg' else 'png'}"
    write_bytes(folder / "images" / file, data)
    try:
        depth = scene.depth(index) if scene.depth is not None else None
    except FrameError:
        depth = None
    name = None
    if depth is not None:
        name = f"{index:05d}.png"
        steps = np.clip(np.rint(depth / DEPTH_STEP), 0, MOST_DEPTH).astype(np.uint16)
        stream = io.BytesIO()
        Image.fromarray(steps).save(stream, "PNG")
        write_bytes(folder / "depth" / name, stream.getvalue())
    stamp = None if scene.stamps is None else int(scene.stamps[index])
    return Written(file, name, np.linalg.inv(scene.w2c[index]), fxfycxcy, image.size, stamp)


def _finished(scene: PosedScene, folder: Path, form: str) -> list[int] | None:
    """Return the missing frames of a scene that is written completely and intact, None for any other."""
    try:
        facts = json.loads((folder / DONE).read_text())
        if facts["form"] != form or not np.array_equal(np.array(facts["w2c"]), scene.w2c):
            return None
        for file in facts["files"]:
            with Image.open(folder / "images" / file) as image:
                image.verify()
        missing = [int(i) for i in facts["missing"]]
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return None
    return missing


# What a store is seen through ---------------------------------------------------------------------------


class FlatKeys:
    """A store whose keys can be names of files: a / in them becomes _."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = {key.replace("/", "_"): key for key in store.keys}
        if len(self._keys) < len(store):
            self._keys = {key.replace("_", "__").replace("/", "_"): key for key in store.keys}
        self.keys = sorted(self._keys)
        self.damaged = damaged_scenes(store)

    def __len__(self) -> int:
        return len(self.keys)

    def scene(self, key: str) -> PosedScene:
        return dataclasses.replace(self._store.scene(self._keys[key]), key=key)


class Smaller:
    """A store whose images have a height of at most so many pixels. Lanczos; JPEG of quality 95."""

    def __init__(self, store: Store, height: int) -> None:
        if height < 8:
            raise DatasetError(f"a height of {height} pixels is too small")
        self._store, self._height = store, height
        self.keys = store.keys
        self.damaged = damaged_scenes(store)

    def __len__(self) -> int:
        return len(self.keys)

    def scene(self, key: str) -> PosedScene:
        scene = self._store.scene(key)
        intrinsics = scene.intrinsics
        if not scene.relative:
            sizes = scene.sizes if scene.sizes is not None else _sizes(scene)
            intrinsics = intrinsics / np.tile(sizes.astype(np.float64), 2)
        return dataclasses.replace(
            scene, encoded=_Shrunk(scene, self._height), intrinsics=intrinsics, relative=True, sizes=None
        )


@dataclasses.dataclass(frozen=True)
class _Shrunk:
    scene: PosedScene
    height: int

    def __call__(self, index: int) -> bytes:
        data = self.scene.encoded(index)
        try:
            image = decode(data, self.scene.name(index))
            self.scene.pixels(
                index, image.size
            )  # here, because the camera's own size is not known any more later
        except FrameError:
            return b""
        if image.height <= self.height:
            return data
        width = max(1, round(image.width * self.height / image.height))
        return encode(image.convert("RGB").resize((width, self.height), Image.Resampling.LANCZOS))


def _sizes(scene: PosedScene) -> NDArray[np.int64]:
    """Return the sizes [N, 2] of a scene's images; those of the first for images that do not decode."""
    sizes: list[tuple[int, int] | None] = []
    for index in range(len(scene)):
        try:
            with Image.open(io.BytesIO(scene.encoded(index))) as image:
                sizes.append(image.size)
        except (OSError, SyntaxError, ValueError):
            sizes.append(None)
    known = next((size for size in sizes if size), None)
    if known is None:
        raise DatasetError(f"scene {scene.key}: none of its frames decodes")
    return np.array([size or known for size in sizes], dtype=np.int64)
