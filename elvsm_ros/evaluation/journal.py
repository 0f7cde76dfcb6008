"""What an evaluation has measured so far, on disk: after a kill it goes on from there.

A record per render, each in a file of its own that appears when it is complete. The records belong to one set of
inputs, told by a key; records of other inputs are thrown away.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from elvsm_core.files import owned
from elvsm_ros.conversions import RGB

NO_PICTURE = np.zeros((0, 0, 3), np.uint8)
KIND = "unfinished evaluation"
"""What the marker of a journal's folder says."""
VERSION = 1
"""Of the records: goes up when what is measured, or how, changes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """A render, uint8 RGB [H, W, 3], and what was measured of it."""

    image: RGB
    values: dict[str, Any]


class Journal:
    """Keep records in a folder, until somebody removes it. key: what the records depend on, as JSON has it.

    `found` is the number of records that were there already. Raises ForeignFolderError for a folder that is not one of
    a journal, and OSError.
    """

    def __init__(self, folder: Path, key: dict[str, Any]):
        self._folder = folder
        text = json.dumps({"version": VERSION, **key}, indent=1, sort_keys=True)
        file = folder / "key.json"
        owned.claim(folder, KIND)
        if not (file.is_file() and file.read_text() == text):
            owned.remove(folder, KIND)
            owned.claim(folder, KIND)
            file.write_text(text)
        self.found = sum(1 for _ in folder.glob("*.npz"))

    def get(self, name: str) -> Record | None:
        """Return a record, or None when there is none that can be read."""
        try:
            with np.load(self._folder / f"{name}.npz") as stored:
                return Record(stored["image"], json.loads(str(stored["values"])))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def put(self, name: str, record: Record) -> None:
        """Write a record."""
        partial = self._folder / f".{name}.part"
        with partial.open("wb") as file:
            np.savez(file, image=record.image, values=json.dumps(record.values))
        os.replace(partial, self._folder / f"{name}.npz")


def fingerprint(path: Path) -> list[list[Any]]:
    """Return name, size and time of change (ns) of a file, or of every file in a folder."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def digest(*paths: Path) -> str:
    """Return the SHA-256 of files, one after the other."""
    hasher = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    return hasher.hexdigest()


def code(*packages: ModuleType) -> str:
    """Return the SHA-256 of all Python files of some packages: with other code, other figures."""
    folders = [Path(str(package.__file__)).parent for package in packages]
    return digest(*(file for folder in folders for file in sorted(folder.rglob("*.py"))))
