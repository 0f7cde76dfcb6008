"""Decompression of recordings that gives no more than was declared: a few kilobytes can stand for gigabytes.

rosbags and mcap take whatever comes out of a chunk or a message. Neither offers a limit, so the functions that they
call are exchanged (`install`) before a recording is opened.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lz4.frame
import rosbags.rosbag2.reader
import rosbags.rosbag2.storage_mcap

zstd: Any = rosbags.rosbag2.storage_mcap.zstd

MAX_CHUNK = 1 << 29
"""Bytes of a chunk of an mcap file, or of a compressed message: several uncompressed 8K images."""


MIN_FREE = 1 << 30
"""Bytes that stay free on the disk where a recording is unpacked that was compressed as a whole."""
MAX_RATIO = 200
"""Times its own size that such a file may take unpacked. Uncompressed images of a still scene shrink less."""
MIN_UNPACKED = 1 << 26
"""Bytes that such a file may take however small it is."""


class TooLargeError(ValueError):
    """A chunk or a message that is not decompressed, because of its size."""


def inflate(make: Callable[[], Any], data: bytes, declared: int) -> bytes:
    """Decompress data with decompressors that `make` makes. Raises TooLargeError for more than was declared."""
    if declared > MAX_CHUNK:
        raise TooLargeError(
            f"a chunk of {declared} bytes, where {MAX_CHUNK} are the most that is decompressed"
        )
    parts, left = [], declared + 1
    while data:
        machine = make()
        while not machine.eof:
            part = machine.decompress(data, left)
            data = b""
            parts.append(part)
            left -= len(part)
            if left <= 0:
                raise TooLargeError(f"a chunk that holds more than the {declared} bytes that it declares")
            if not part and machine.needs_input and not machine.eof:
                raise ValueError("compressed data that are cut off")
        data = machine.unused_data
    return b"".join(parts)


def _zstd(data: bytes, declared: int = MAX_CHUNK) -> bytes:
    return inflate(zstd.ZstdDecompressor, bytes(data), declared)


def _lz4(data: bytes, declared: int = MAX_CHUNK) -> bytes:
    return inflate(lz4.frame.LZ4FrameDecompressor, bytes(data), declared)


class _BoundedFile:
    """What is unpacked of a file, with an end to it: rosbags copies it to the folder for temporary files."""

    def __init__(self, file: Any, size: int):
        self._file, self._size = file, size
        self._most = max(MIN_UNPACKED, MAX_RATIO * size)
        self._done = 0

    def read(self, count: int = -1) -> bytes:
        data: bytes = self._file.read(count if count >= 0 else 1 << 20)
        self._done += len(data)
        if self._done > self._most:
            raise TooLargeError(
                f"a compressed file of {self._size} bytes that holds more than {self._most}, where {MAX_RATIO} times "
                f"its size are the most that is unpacked: if you trust it, unpack it with zstd -d"
            )
        folder = Path(tempfile.gettempdir())
        status = os.statvfs(folder)
        if data and status.f_bavail * status.f_frsize < MIN_FREE + len(data):
            raise TooLargeError(
                f"unpacking it would leave less than {MIN_FREE} bytes free in {folder}: set TMPDIR to a larger disk"
            )
        return data


@contextmanager
def _open(file: Any, mode: str) -> Iterator[_BoundedFile]:
    with zstd.open(file, mode) as unpacked:
        yield _BoundedFile(unpacked, os.fstat(file.fileno()).st_size)


def install() -> None:
    """Have rosbags and mcap decompress within bounds. May be called again."""
    rosbags.rosbag2.storage_mcap.DECOMPRESSORS.update(zstd=_zstd, lz4=_lz4)
    rosbags.rosbag2.reader.zstd = SimpleNamespace(open=_open, decompress=_zstd)  # type: ignore[assignment]
    try:
        import mcap.stream_reader
    except ModuleNotFoundError:  # only files that were cut off are read with it
        return
    mcap.stream_reader.zstandard = SimpleNamespace(decompress=_zstd)
    mcap.stream_reader.lz4 = SimpleNamespace(decompress=_lz4)
