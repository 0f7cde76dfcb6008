"""Files that are there as a whole or not at all, whenever the program is killed and whoever else writes them.

A file is written into a marked temporary folder beside its place (`owned.temporary`) and takes its name in one step,
after it is on the disk. What a killed program leaves is deleted by the next one that writes the same file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from . import owned

KIND = "unfinished file"


@contextlib.contextmanager
def replacing_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path of the same name, elsewhere, to write a file at; the file takes the place of `path` at the end.

    Folders are made as needed. When the block raises, or writes nothing there, the old file stays. Raises OSError.
    """
    path = Path(path)
    with owned.temporary(path, KIND) as folder:
        yield folder / path.name
        if (folder / path.name).exists():
            _sync(folder / path.name)
            os.replace(folder / path.name, path)
            _sync(path.parent)  # the name, too, is on the disk when this returns


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Give a binary file to write, which takes the place of `path` in one step; see `replacing_path`."""
    with replacing_path(path) as partial, open(partial, "wb") as file:
        yield file


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, atomically; see `replacing_path`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file in UTF-8, atomically; see `replacing_path`."""
    write_bytes(path, text.encode())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
