"""Random access into `.torch` files: where each frame's bytes lie, found without building a single tensor.

`torch.load` of a RealEstate10K chunk takes a third of a second even when it maps the file, because it makes
one tensor per frame, thousands of them, of which a training sample needs eight. A `.torch` file is a zip
archive of uncompressed records and a pickle that refers to them, so the places are read from the pickle
alone.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_DTYPES = {
    "ByteStorage": np.dtype("u1"),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class ChunkError(ValueError):
    """A chunk file that cannot be used, with the reason and what to do about it."""


class TensorPlace(NamedTuple):
    """Where a tensor's bytes lie: name of the record in the archive, dtype, first byte, shape."""

    record: str
    dtype: np.dtype[Any]
    start: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _place(
    storage: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> TensorPlace:
    dtype, record = storage
    expected = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    if any(size > 1 and s != e for size, s, e in zip(shape, stride, expected, strict=True)):
        raise pickle.UnpicklingError(f"a tensor of shape {list(shape)} is not contiguous")
    return TensorPlace(record, dtype, offset * dtype.itemsize, tuple(shape))


class _Places(pickle.Unpickler):
    """Unpickle containers, texts and numbers; tensors become places. Anything else is refused, no code is
    run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _place
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, record, *_ = pid
        return dtype, record


@dataclasses.dataclass(frozen=True)
class ChunkScene:
    """One scene of a chunk: frames [N, 3] int64 (header of the record, first byte in it, length), cameras
    [N, 18]."""

    key: str
    frames: NDArray[np.int64]
    cameras: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The scenes of one file, by key, in the file's order."""

    path: Path
    scenes: dict[str, ChunkScene]

    def read(self, key: str, frame: int) -> bytes:
        """Return the encoded image of a frame; empty bytes for a frame that is recorded as missing."""
        header, start, length = (int(x) for x in self.scenes[key].frames[frame])
        with self.path.open("rb") as file:
            file.seek(_data_offset(file, header) + start)
            data = file.read(length)
        if len(data) != length:
            raise ChunkError(f"{self.path} ends inside frame {frame} of scene {key}: copy the file again")
        return data


def open_chunk(path: Path) -> Chunk:
    """Read the scenes of a `.torch` file in pixelSplat's layout; the result is kept for the next call.

    The file is a list of {key, images: encoded JPEG byte tensors, cameras [N, 18]}. Raises ChunkError for a
    file that is missing, truncated or of another layout.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise ChunkError(f"there is no chunk {path}: {error.strerror}") from error
    return _open(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=512)
def _open(path: Path, _modified: int, _size: int) -> Chunk:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            records = {info.filename: info for info in archive.infolist()}
            pickled = next((name for name in records if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise ChunkError(f"{path} is a zip archive, but none that torch.save wrote")
            content = _Places(io.BytesIO(archive.read(pickled))).load()
            folder = pickled.removesuffix("data.pkl") + "data/"
            if not isinstance(content, list):
                raise ChunkError(f"{path} holds a {type(content).__name__}, not a list of scenes")
            scenes = [_scene(path, entry, file, records, folder) for entry in content]
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError, KeyError, struct.error) as error:
        raise ChunkError(
            f"{path} is truncated or no chunk of RealEstate10K ({error}): copy it again"
        ) from error
    return Chunk(path, {scene.key: scene for scene in scenes})


def _scene(
    path: Path, entry: Any, file: BinaryIO, records: dict[str, zipfile.ZipInfo], folder: str
) -> ChunkScene:
    missing = {"key", "images", "cameras"} - set(entry if isinstance(entry, dict) else ())
    if missing:
        raise ChunkError(f"{path} has a scene without {', '.join(sorted(missing))}: it is of another layout")
    key, images, cameras = entry["key"], entry["images"], entry["cameras"]
    if not isinstance(cameras, TensorPlace) or cameras.shape != (len(images), 18):
        raise ChunkError(
            f"{path}, scene {key}: {len(images)} images, cameras {list(getattr(cameras, 'shape', ()))}, "
            f"which should be [{len(images)}, 18]"
        )
    frames = np.zeros((len(images), 3), dtype=np.int64)
    for i, image in enumerate(images):
        if not isinstance(image, TensorPlace) or image.dtype != np.uint8:
            raise ChunkError(f"{path}, scene {key}: frame {i} is no tensor of encoded bytes")
        info = _stored(path, records[folder + image.record])
        frames[i] = info.header_offset, image.start, image.nbytes
    info = _stored(path, records[folder + cameras.record])
    file.seek(_data_offset(file, info.header_offset) + cameras.start)
    numbers = np.frombuffer(file.read(cameras.nbytes), dtype=cameras.dtype).reshape(cameras.shape)
    return ChunkScene(str(key), frames, numbers.astype(np.float32))


def _stored(path: Path, info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ChunkError(f"{path} is compressed: write it with torch.save, which does not compress")
    return info


def _data_offset(file: BinaryIO, header: int) -> int:
    """Return where a record's bytes start: after the local header, whose length the directory does not
    tell."""
    file.seek(header)
    name, extra = struct.unpack("<26xHH", file.read(30))
    return header + 30 + int(name) + int(extra)
