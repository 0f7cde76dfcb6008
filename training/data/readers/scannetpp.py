"""ScanNet++'s DSLR photos: fisheye as they were taken, or undistorted by its toolkit, in metres.

https://kaldir.vc.in.tum.de/scannetpp/documentation. <scene>/dslr/nerfstudio/transforms.json names photos in
resized_images; the toolkit's transforms_undistorted.json names those in resized_undistorted_images. Depths are those
that the toolkit renders, render_depth/<name>.png in millimetres.
"""

from __future__ import annotations

import functools
from pathlib import Path

from ..store import DatasetError, PosedScene, Scenes, Store
from .nerfstudio import frames_of, load, read_scene

SUMMARY = "ScanNet++'s scenes: DSLR photos, fisheye or undistorted"
ONE_SCENE = True
FORMS = (
    ("nerfstudio/transforms_undistorted.json", ("resized_undistorted_images", "undistorted_images")),
    ("nerfstudio/transforms.json", ("resized_images", "original_images")),
)
"""A file of cameras, and the folders that its photos may lie in."""


def _form(path: Path) -> tuple[Path, Path] | None:
    """Return the file of cameras and the folder of photos of a scene."""
    for dslr in (path / "dslr", path):
        for file, folders in FORMS:
            found = next((dslr / folder for folder in folders if (dslr / folder).is_dir()), None)
            if found is not None and (dslr / file).is_file():
                return dslr / file, found
    return None


def detect(path: Path) -> bool:
    """Tell whether a folder is a scene of ScanNet++."""
    return path.is_dir() and _form(path) is not None


def open_store(path: Path, test_frames: bool = True) -> Store:
    """Open a scene of ScanNet++. test_frames: the photos that are held out for its benchmark, too.

    Raises DatasetError.
    """
    form = _form(path)
    if form is None:
        raise DatasetError(
            f"{path} is no scene of ScanNet++: it needs dslr/nerfstudio/transforms.json and dslr/resized_images"
        )
    key = path.absolute().name
    return Scenes({key: functools.partial(_scene, key, *form, test_frames)})


def _scene(key: str, file: Path, photos: Path, test_frames: bool) -> PosedScene:
    content = load(file)
    frames = frames_of(file, content)
    if test_frames and content.get("test_frames"):
        frames = frames_of(file, {"frames": [*frames, *content["test_frames"]]})
    good = [frame for frame in frames if not frame.get("is_bad")]
    notes = (
        [f"{len(frames) - len(good)} photos are marked as bad and left out"]
        if len(good) < len(frames)
        else []
    )
    if not good:
        raise DatasetError(f"scene {key}: all photos of {file} are marked as bad")
    depths = [photos.parent / "render_depth" / f"{Path(frame['file_path']).stem}.png" for frame in good]
    known = any(depth.is_file() for depth in depths)
    return read_scene(
        key, file, content, good, str(photos.absolute()), False, True, 0.001,
        depths if known else [None] * len(good), notes,
    )  # fmt: skip
