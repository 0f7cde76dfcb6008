"""Folders that this program may delete: those that it made itself, which a marker in them says.

A folder is deleted when three things hold: its name is exactly the one that is asked for, it is no link, and it
holds a marker that this program wrote for a folder of this name and kind. Everything else raises ForeignFolderError
and stays as it is, whatever it is called. The rest of the repository deletes folders through this module only, and
writes files of fixed names, which replace others, only into folders that `claim_output` has marked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MARKER = ".elvsm-owned"
"""The file that marks a folder: JSON with the program's name, the folder's kind and its name."""
PROGRAM = "elvsm"
SUFFIX = ".part"
"""What the names of temporary folders end with: .NAME.abcdefgh.part, beside NAME."""
ATTEMPTS = 20
LONGEST_MARKER = 4096
"""Bytes that are read of a marker."""


class ForeignFolderError(OSError):
    """A folder that this program did not make and therefore neither deletes nor replaces."""


def is_owned(folder: Path, kind: str) -> bool:
    """Tell whether a folder carries this program's marker, for its present name and for this kind."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        handle = os.open(folder / MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            return bool(json.loads(file.read(LONGEST_MARKER)) == _content(folder, kind))
    except (OSError, ValueError):
        return False


def mark(folder: Path, kind: str) -> None:
    """Mark a folder that the caller has just made as one that may be deleted under its present name."""
    with open(folder / MARKER, "x", encoding="utf-8") as file:
        json.dump(_content(folder, kind), file)


def claim(folder: Path, kind: str) -> None:
    """Make a folder that may be deleted later; one that was made so before stays with what it holds.

    Raises ForeignFolderError for anything else of that name, but for an empty folder, which nobody misses.
    """
    if is_owned(folder, kind):
        return
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
    if folder.is_symlink() or not folder.is_dir():
        raise _foreign(folder)
    for entry in folder.iterdir():
        # A kill between making the marker and filling it leaves an empty one.
        if entry.name != MARKER or entry.is_symlink() or not entry.is_file() or entry.stat().st_size:
            raise _foreign(folder)
        entry.unlink()
    mark(folder, kind)


def claim_output(folder: Path, kind: str) -> None:
    """Make a folder for files whose names do not depend on the user, or go on with one that was made so before.

    folder: may be a link to one. Raises ForeignFolderError, which names something in the folder, when there is
    anything but what this program wrote for this kind.
    """
    folder = folder.resolve()
    try:
        claim(folder, kind)
    except ForeignFolderError as error:
        if not folder.is_dir():
            raise
        first = min((entry.name for entry in folder.iterdir() if entry.name != MARKER), default=MARKER)
        raise ForeignFolderError(
            f"{folder} holds {first!r} and no {MARKER} of this name for {kind}, so nothing is written there, where it "
            f"could replace your files: give a new or an empty folder; if an earlier version wrote these results, move "
            f"them away or delete them"
        ) from error


def remove(folder: Path, kind: str) -> None:
    """Delete a folder that `claim` or `mark` has marked, and everything in it. Nothing happens if there is none.

    Raises ForeignFolderError for what this program did not make, OSError when something cannot be deleted.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not is_owned(folder, kind):
        raise _foreign(folder)
    # The marker goes last: a folder that a kill left half deleted is still known.
    for entry in list(os.scandir(folder)):
        if entry.name == MARKER:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    os.unlink(folder / MARKER)
    folder.rmdir()


@contextlib.contextmanager
def temporary(path: Path, kind: str) -> Iterator[Path]:
    """Make a hidden folder beside `path`, in which what will be at `path` is prepared; it is deleted at the end.

    Those of this kind that killed programs left beside `path` are deleted before, whatever path they were for. Any
    number of threads and processes can prepare the same path at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path, kind)
    for attempt in range(ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=SUFFIX, dir=path.parent))
        try:
            marker = open(folder / MARKER, "x", encoding="utf-8")  # noqa: SIM115
            break
        except FileNotFoundError:  # somebody took it for one that a killed program left, empty as it was
            if attempt == ATTEMPTS - 1:
                raise
    with marker:
        fcntl.flock(marker, fcntl.LOCK_EX)  # whoever finds it unlocked knows that its program is dead
        json.dump(_content(folder, kind), marker)
        marker.flush()
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):  # what is left is deleted by the next one
                remove(folder, kind)


def _remove_leftovers(path: Path, kind: str) -> None:
    name = re.compile(rf"\.(.+)\.[a-z0-9_]{{8}}{re.escape(SUFFIX)}")
    for entry in list(os.scandir(path.parent)):
        found = name.fullmatch(entry.name)
        if found is None or not entry.is_dir(follow_symlinks=False):
            continue
        folder = Path(entry.path)
        with contextlib.suppress(OSError):
            if found[1] == path.name[:100] and not os.listdir(folder):
                folder.rmdir()  # killed before it was marked
            elif is_owned(folder, kind):
                with open(folder / MARKER, "rb") as marker:
                    fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(folder, kind)


def _content(folder: Path, kind: str) -> dict[str, str]:
    return {"program": PROGRAM, "kind": kind, "name": folder.absolute().name}


def _foreign(folder: Path) -> ForeignFolderError:
    return ForeignFolderError(
        f"{folder} was not made by this program (there is no {MARKER} of its own in it), so it is neither deleted nor "
        f"replaced: move it away, or choose another folder for the output"
    )
