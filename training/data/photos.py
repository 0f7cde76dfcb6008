"""Frames that are files: found where they lie, undistorted once, and kept so; depths beside them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elvsm_core.files.atomic import write_bytes
from elvsm_core.files.hub import cache_folder
from elvsm_core.limits import check_pixels

from .readers.undistort import Lens
from .store import DatasetError, FrameError, decode

log = logging.getLogger(__name__)

VERSION = 1
"""Of how photos are undistorted: raised when that changes, so that nothing old is taken from the cache."""


@dataclasses.dataclass(frozen=True)
class Photos:
    """Reads frames by path, so that a scene can be sent to another process. lenses: of each frame, None for pinholes.

    cache: folder of undistorted photos, None for the usual one.
    """

    paths: tuple[Path, ...]
    lenses: tuple[Lens | None, ...] | None = None
    cache: Path | None = None

    def __call__(self, frame: int) -> bytes:
        path = self.paths[frame]
        try:
            lens = self.lenses[frame] if self.lenses else None
            return path.read_bytes() if lens is None else undistorted(path, lens, self.cache)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise FrameError(f"{path} cannot be read: {error.strerror}") from error


def undistorted(path: Path, lens: Lens, cache: Path | None = None) -> bytes:
    """Return a photo without distortion as PNG, from the cache where it was made before.

    Raises FrameError for a photo that does not decode or is of another aspect than the lens is for, and
    FileNotFoundError. A cache that cannot be written is done without, with one warning.
    """
    state = path.stat()
    identity = (VERSION, str(path.absolute()), state.st_mtime_ns, state.st_size, dataclasses.astuple(lens))
    name = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    folder = cache if cache is not None else undistorted_folder()
    kept = folder / name[:2] / f"{name}.png"
    try:
        return kept.read_bytes()
    except OSError:
        pass
    image = decode(path.read_bytes(), str(path))
    if abs(image.width - image.height * lens.width / lens.height) > 1.5:
        raise FrameError(
            f"{path} is {image.width}x{image.height} but its camera is for {lens.width}x{lens.height}: was it turned "
            f"or cropped? Give it intrinsics of its own"
        )
    pixels = lens.scaled(*image.size).undistort(np.asarray(image.convert("RGB")))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    try:
        write_bytes(kept, stream.getvalue())
    except OSError as error:
        _warn(
            f"undistorted photos cannot be kept in {folder} ({error.strerror}): every epoch undistorts them anew"
        )
    return stream.getvalue()


def undistorted_folder() -> Path:
    """Return where undistorted photos are kept: beside the weights that were downloaded (ELVSM_CACHE)."""
    return cache_folder() / "undistorted"


@functools.cache
def _warn(text: str) -> None:
    log.warning("%s", text)


@dataclasses.dataclass(frozen=True)
class Depths:
    """Reads depths by path: 16-bit PNG of `unit` metres a step, or .npy of metres. No path: no depth."""

    paths: tuple[Path | None, ...]
    unit: float = 0.001
    lenses: tuple[Lens | None, ...] | None = None

    def __call__(self, frame: int) -> NDArray[np.float32] | None:
        path = self.paths[frame]
        if path is None or not path.is_file():
            return None
        try:
            if path.suffix == ".npy":
                depth = np.load(path, allow_pickle=False).astype(np.float32).squeeze()
            else:
                with Image.open(path) as image:
                    check_pixels(*image.size)
                    depth = np.asarray(image).astype(np.float32) * np.float32(self.unit)
        except (OSError, SyntaxError, ValueError) as error:
            raise FrameError(f"{path} does not decode: {error}") from error
        if depth.ndim != 2:
            raise FrameError(f"{path} has the shape {list(depth.shape)}: a depth is one number a pixel")
        depth[~np.isfinite(depth) | (depth < 0)] = 0
        lens = self.lenses[frame] if self.lenses else None
        return (
            depth
            if lens is None
            else lens.scaled(depth.shape[1], depth.shape[0]).undistort(depth, nearest=True)
        )


def undistorted_intrinsics(
    intrinsics: NDArray[np.float64], lenses: tuple[Lens | None, ...]
) -> NDArray[np.float64]:
    """Return fx, fy, cx, cy [N, 4] with those of undistorted photos where frames have a lens."""
    out = intrinsics.copy()
    for i, lens in enumerate(lenses):
        if lens is not None:
            out[i] = lens.pinhole
    return out


def read_text(path: Path) -> str:
    """Return the content of a text file. Raises DatasetError naming it."""
    try:
        return path.read_text()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not a text file: {error}") from error


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts names as people do: frame_9 before frame_10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
