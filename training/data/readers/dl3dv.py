"""DL3DV-10K's folders: nerfstudio's transforms.json with photos at several sizes, images_2 to images_16.

DL3DV as chunks in pixelSplat's layout is read by re10k.py.
"""

from __future__ import annotations

import functools
from pathlib import Path

from ..store import DatasetError, Scenes, Store
from .nerfstudio import FILE, scene_of

SUMMARY = "DL3DV-10K's folders: transforms.json with images_4, images_8 and the like"
ONE_SCENE = True
SIZES = ("images_8", "images_4", "images_2", "images_16", "images")
"""Folders of photos in the order in which they are taken: 480x270 is what a model of 256x256 needs."""


def _root(path: Path) -> Path | None:
    """Return the folder with the transforms.json of a scene."""
    for folder in (path, path / "nerfstudio"):
        if (folder / FILE).is_file() and any((folder / name).is_dir() for name in SIZES[:-1]):
            return folder
    return None


def detect(path: Path) -> bool:
    """Tell whether a folder is a scene of DL3DV-10K."""
    return path.is_dir() and _root(path) is not None


def open_store(path: Path, images: str = "") -> Store:
    """Open a scene of DL3DV-10K. images: folder of photos, such as images_4; empty: the first of SIZES that is there.

    Raises DatasetError.
    """
    root = _root(path)
    if root is None:
        raise DatasetError(
            f"{path} is no scene of DL3DV-10K: it lacks {FILE}, or a folder of photos such as images_8"
        )
    if images and not (root / images).is_dir():
        there = ", ".join(name for name in SIZES if (root / name).is_dir())
        raise DatasetError(f"{root} has no folder {images}; it has {there}")
    chosen = images or next(name for name in SIZES if (root / name).is_dir())
    key = path.absolute().name
    return Scenes({key: functools.partial(scene_of, key, root / FILE, chosen, True)})
