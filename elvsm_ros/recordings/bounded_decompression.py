"""Decompression of recordings that gives no more than was declared: a few kilobytes can stand for gigabytes.

rosbags and mcap take whatever comes out of a chunk or a message. Neither offers a limit, so the functions that they
call are exchanged (`install`) before a recording is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lz4.frame
import rosbags.rosbag2.reader
import rosbags.rosbag2.storage_mcap

zstd: Any = rosbags.rosbag2.storage_mcap.zstd

MAX_CHUNK = 1 << 29
"""Bytes of a chunk of an mcap file, or of a compressed message: several uncompressed 8K images."""


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


def install() -> None:
    """Have rosbags and mcap decompress within bounds. May be called again."""
    rosbags.rosbag2.storage_mcap.DECOMPRESSORS.update(zstd=_zstd, lz4=_lz4)
    rosbags.rosbag2.reader.zstd = SimpleNamespace(open=zstd.open, decompress=_zstd)  # type: ignore[assignment]
    try:
        import mcap.stream_reader
    except ModuleNotFoundError:  # only files that were cut off are read with it
        return
    mcap.stream_reader.zstandard = SimpleNamespace(decompress=_zstd)
    mcap.stream_reader.lz4 = SimpleNamespace(decompress=_lz4)
