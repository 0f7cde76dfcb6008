"""Which datasets can be read, and what a path holds: the one place where stores are opened.

A format is a module with `SUMMARY`, `detect(path) -> bool` and `open_store(path, **options) -> Store`. Packages add one
with an entry point of the group `elvsm.datasets`; a file of somebody's own is named by its path in place of a name.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .store import DatasetError, PosedScene, Scenes, Store

log = logging.getLogger(__name__)

AUTO = "auto"
GROUP = "elvsm.datasets"
"""Entry points of this group add formats: name -> module."""
BUILT_IN = ("scannetpp", "dl3dv", "re10k", "nerfstudio", "colmap", "tum", "cameras")
"""Modules beside this one, in the order in which a path is offered to them: the most particular first."""
DEPTH = 3
"""Levels of folders below a path in which scenes are looked for: DL3DV's lie at 1K/<scene>/nerfstudio."""
MOST_FOLDERS = 200_000


def _quiet(stage: str, done: int, total: int) -> None:
    del stage, done, total


on_progress: Callable[[str, int, int], None] = _quiet
"""What formats call while they read for long: name of the stage, how much is done, and of how much."""


def names() -> list[str]:
    """Return the names of all formats, built-in ones first."""
    return [*BUILT_IN, *sorted(set(_entry_points()) - set(BUILT_IN))]


@functools.cache
def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def find_format(name: str) -> ModuleType:
    """Return the module of a format. name: of a format, or the path of a Python file.

    Raises DatasetError for a name that is unknown, naming the nearest, and for a module that cannot be used.
    """
    if name in BUILT_IN:
        return importlib.import_module(f".readers.{name}", __package__)
    if name.endswith(".py"):
        return _checked(_load_file(Path(name).expanduser()), name)
    if name not in _entry_points():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
        raise DatasetError(
            f"unknown dataset format {name!r}: {hint} A file of your own is named by its path, x.py"
        )
    point = _entry_points()[name]
    try:
        return _checked(point.load(), name)
    except DatasetError:
        raise
    except Exception as error:  # whatever somebody's package does when it is imported
        raise DatasetError(
            f"the dataset format {name!r} ({point.value}) cannot be imported: {error}"
        ) from error


def _load_file(path: Path) -> ModuleType:
    # By its path, so that two files of one name do not meet, and worker processes can unpickle what is in it.
    name = f"elvsm_dataset_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DatasetError(f"there is no file {path} with a dataset format")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise DatasetError(f"the dataset format {path} cannot be imported: {error}") from error
    return module


def _checked(module: Any, name: str) -> Any:
    missing = [part for part in ("detect", "open_store") if not callable(getattr(module, part, None))]
    if missing:
        raise DatasetError(f"the dataset format {name} has no function {' and no '.join(missing)}")
    return module


def detect(path: Path) -> str | None:
    """Return the name of the format of what lies at a path, None where no format knows it.

    A format of somebody else's that fails is passed over with a warning.
    """
    for name in names():
        try:
            if find_format(name).detect(path):
                return name
        except PermissionError as error:
            raise DatasetError(f"{path} may not be read: {error.strerror}") from error
        except Exception as error:
            if name in BUILT_IN:
                raise
            log.warning("dataset format %s was passed over: %s", name, error)
    return None


def open_store(
    path: str | os.PathLike[str], store: str = AUTO, options: Mapping[str, Any] | None = None
) -> Store:
    """Open a dataset: one that a format knows, or a folder of folders with scenes that a format knows.

    store: name of the format, the path of a Python file that defines one, or "auto". options: keyword arguments of the
    format's open_store. Raises DatasetError for a path that holds nothing known, and for unknown names.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DatasetError(f"there is no dataset {path}")
    name = store if store != AUTO else detect(path)
    if name is not None and (store == AUTO or path.is_file() or find_format(name).detect(path)):
        return _open(path, name, options or {})
    found = dict(_below(path, name)) if path.is_dir() else {}
    if not found:
        wanted = f"what {name} reads" if name else f"a dataset of any known format ({', '.join(names())})"
        raise DatasetError(f"{path} is not {wanted}, and holds no folder that is{_hint(path)}")
    return _collection(path, found, options or {})


def _open(path: Path, name: str, options: Mapping[str, Any]) -> Store:
    function = find_format(name).open_store
    known = [
        p.name
        for p in list(inspect.signature(function).parameters.values())[1:]
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            raise DatasetError(f"dataset format {name} has no option {option!r}: {hint}")
    try:
        opened: Store = function(path, **options)
    except OSError as error:
        if error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
        ):  # of what is written meanwhile: not a fault of the data
            raise
        raise DatasetError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    return opened


def _below(path: Path, name: str | None) -> Iterator[tuple[Path, str]]:
    """Yield the folders below a path that a format knows, with the format's name; not those inside of them."""
    level, seen = [path], 0
    for _ in range(DEPTH):
        following = []
        for folder in level:
            for child in _folders(folder):
                seen += 1
                if seen > MOST_FOLDERS:
                    raise DatasetError(
                        f"{path} has more than {MOST_FOLDERS} folders: give the folder of the dataset"
                    )
                kind = detect(child) if name is None else (name if find_format(name).detect(child) else None)
                if kind is not None:
                    yield child, kind
                else:
                    following.append(child)
        level = following


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))
    except PermissionError as error:
        raise DatasetError(f"{path} may not be read: {error.strerror}") from error


def _collection(root: Path, found: Mapping[Path, str], options: Mapping[str, Any]) -> Store:
    """Return a store of the scenes of several folders. Those of one scene each are opened when they are asked for."""
    openers: dict[str, Callable[[], PosedScene]] = {}
    damaged: dict[str, str] = {}
    for path, name in found.items():
        prefix = path.relative_to(root).as_posix()
        if getattr(find_format(name), "ONE_SCENE", False):
            openers[prefix] = functools.partial(_only_scene, path, name, options, prefix)
            continue
        try:
            store = _open(path, name, options)
        except ValueError as error:
            log.warning("left out: %s", error)
            damaged[prefix] = str(error)
            continue
        for key in store.keys:
            # A format that calls its scenes after the folder, or after the folder and a number.
            own = f"{key}/".startswith(f"{path.name}/")
            full = prefix + key.removeprefix(path.name) if own else f"{prefix}/{key}"
            openers[full] = functools.partial(_scene_of, store, key, full)
        damaged |= {f"{prefix}/{key}": why for key, why in getattr(store, "damaged", {}).items()}
    if not openers:
        raise DatasetError(f"no scene can be read from {root}: {next(iter(damaged.values()))}")
    return Scenes(openers, damaged)


def _only_scene(path: Path, name: str, options: Mapping[str, Any], key: str) -> PosedScene:
    store = _open(path, name, options)
    return _scene_of(store, store.keys[0], key)


def _scene_of(store: Store, key: str, name: str) -> PosedScene:
    return dataclasses.replace(store.scene(key), key=name)


def _hint(path: Path) -> str:
    """Say what a folder lacks that looks like one of a dataset."""
    if path.is_file():
        return ""
    for file, missing in {
        "images": "a model: COLMAP's cameras, images and points3D (.bin or .txt), transforms.json or cameras.json",
        "rgb": "rgb.txt and groundtruth.txt (TUM RGB-D), or poses of another format",
    }.items():
        if (path / file).is_dir():
            return f"; it has {file}/ but lacks {missing}"
    return ""
