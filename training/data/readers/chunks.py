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
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "BoolStorage": np.dtype("?"),
    "HalfStorage": np.dtype("<f2"),
}
_NUMPY_SCALARS = {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}


class ChunkError(ValueError):
    """A chunk file that cannot be used, with the reason and what to do about it."""


class TensorPlace(NamedTuple):
    """Where a tensor's elements lie: its record in the archive, dtype, first byte, shape, strides in elements."""

    record: str
    dtype: np.dtype[Any]
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Whether the elements follow each other in the order of the indices."""
        expected = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        return all(n <= 1 or s == e for n, s, e in zip(self.shape, self.stride, expected, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes from the first element to the end of the last."""
        if 0 in self.shape:
            return 0
        last = sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize

    def array(self, data: bytes) -> NDArray[Any]:
        """Return the tensor whose `nbytes` bytes these are."""
        strides = [s * self.dtype.itemsize for s in self.stride]
        return np.ndarray(self.shape, self.dtype, data, strides=strides)


class _Unneeded:
    """Stands for what a chunk holds beside tensors, texts and numbers: it takes whatever pickle does to it."""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    extend = add = append


class _Dtype(_Unneeded):
    """A numpy dtype by its name: unpickling a real one would run numpy's code on whatever the file says."""


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """Return the Python number or text that a numpy scalar stands for."""
    name = dtype.arguments[0] if isinstance(dtype, _Dtype) and dtype.arguments else ""
    if (
        not isinstance(name, str)
        or name[:1] not in ("U", "S", "i", "u", "f", "b")
        or not isinstance(data, bytes)
    ):
        return _Unneeded()
    try:
        return np.frombuffer(data, np.dtype(name), 1)[0].item()
    except (TypeError, ValueError):
        return _Unneeded()


def _place(storage: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    dtype, record = storage
    if not isinstance(dtype, np.dtype):  # a kind of number that nothing here is made of
        return _Unneeded()
    return TensorPlace(record, dtype, offset * dtype.itemsize, tuple(shape), tuple(stride))


def _latin_1(text: Any, *_: Any) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else b""


def _parameter(data: Any, *_: Any) -> Any:
    return data


class _Places(pickle.Unpickler):
    """Unpickle containers, texts and numbers; tensors become places. No code of the file's choice is run: whatever
    else it names becomes a stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _place
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in _NUMPY_SCALARS:
            return _scalar
        if (module, name) == ("numpy", "dtype"):
            return _Dtype
        if (module, name) == ("_codecs", "encode"):  # how pickle's older protocols write bytes
            return _latin_1
        return _Unneeded

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
    """The scenes of one file, by key, in the file's order. damaged: those that cannot be used, key -> reason."""

    path: Path
    scenes: dict[str, ChunkScene]
    damaged: dict[str, str] = dataclasses.field(default_factory=dict)

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

    The file is a list of {key, images: encoded JPEG byte tensors, cameras [N, 18]}; whatever else the dictionaries
    hold is ignored. A scene that cannot be used is left out of `scenes` and named in `damaged`. Raises ChunkError for
    a file that is missing, truncated or of another layout.
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
            scenes, damaged = {}, {}
            for number, entry in enumerate(content):
                try:
                    scene = _scene(path, number, entry, file, records, folder)
                    scenes[scene.key] = scene
                except (ChunkError, KeyError, ValueError, TypeError) as error:
                    reason = (
                        f"it names a record {error} that the file lacks"
                        if isinstance(error, KeyError)
                        else error
                    )
                    name = _name(entry, number)
                    text = str(reason)
                    damaged[name] = text if text.startswith(str(path)) else f"{path}, scene {name}: {text}"
            if content and not scenes:
                first = next(iter(damaged.values()))
                others = f"; none of its {len(content)} scenes is usable" if len(content) > 1 else ""
                raise ChunkError(first + others)
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError, KeyError, struct.error) as error:
        raise ChunkError(
            f"{path} is truncated or no chunk of RealEstate10K ({error}): copy it again"
        ) from error
    return Chunk(path, scenes, damaged)


def _name(entry: Any, number: int) -> str:
    """Return the key of a scene; its number in the file where it has none that is a text."""
    key = entry.get("key") if isinstance(entry, dict) else None
    if isinstance(key, _Unneeded) and key.arguments and all(isinstance(a, str) for a in key.arguments):
        key = "/".join(key.arguments)  # a path
    return str(key) if isinstance(key, str | int) else f"number {number}"


def _scene(
    path: Path, number: int, entry: Any, file: BinaryIO, records: dict[str, zipfile.ZipInfo], folder: str
) -> ChunkScene:
    missing = {"key", "images", "cameras"} - set(entry if isinstance(entry, dict) else ())
    if missing:
        raise ChunkError(f"{path} has a scene without {', '.join(sorted(missing))}: it is of another layout")
    key, images, cameras = _name(entry, number), entry["images"], entry["cameras"]
    if not isinstance(cameras, TensorPlace) or cameras.shape != (len(images), 18):
        raise ChunkError(
            f"{path}, scene {key}: {len(images)} images, cameras {list(getattr(cameras, 'shape', ()))}, "
            f"which should be [{len(images)}, 18]"
        )
    frames = np.zeros((len(images), 3), dtype=np.int64)
    for i, image in enumerate(images):
        if not isinstance(image, TensorPlace) or image.dtype != np.uint8 or not image.contiguous:
            raise ChunkError(f"{path}, scene {key}: frame {i} is no tensor of encoded bytes")
        info = _stored(path, records[folder + image.record])
        frames[i] = info.header_offset, image.start, image.nbytes
    info = _stored(path, records[folder + cameras.record])
    file.seek(_data_offset(file, info.header_offset) + cameras.start)
    numbers = cameras.array(file.read(cameras.nbytes))
    return ChunkScene(key, frames, numbers.astype(np.float32))


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
