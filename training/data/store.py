"""What every dataset is to training, evaluation and conversion: a store of scenes, whose frames are decoded on demand.

formats.py opens stores by what lies at a path. A format is one module; docs/datasets.md shows one in twenty lines.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from elvsm_core.limits import check_pixels

ROTATION_TOLERANCE = 0.01
"""Largest deviation of RᵀR from identity: files round to a few digits, mistakes are larger."""
FOCAL_RANGE = (0.03, 40.0)
"""Focal lengths that a camera can have, in sizes of its image: 173 degrees and 1.4 degrees across."""
SIZE_TOLERANCE = 1.5
"""Pixels by which an image that was resized may differ from the exact aspect of its camera."""


class DatasetError(ValueError):
    """A dataset, or a scene of it, that cannot be used, with the reason and what to do about it."""


class FrameError(DatasetError):
    """A frame that is missing or does not decode. The frames after it keep their indices."""


class PosedFrame(NamedTuple):
    """An image with fxfycxcy [4] float64, pixels of that image, and w2c [4, 4] float64."""

    image: Image.Image
    fxfycxcy: NDArray[np.float64]
    w2c: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class PosedScene:
    """One camera path or set of photos: poses and intrinsics of all frames, and a way to their encoded images.

    w2c [N, 4, 4] float64 world-to-camera, OpenCV axes. intrinsics [N, 4] fx, fy, cx, cy: pixels, or
    fractions of the image's width and height where `relative`; the centre of the first pixel is at (0.5, 0.5).
    encoded(i) returns a frame's JPEG or PNG bytes without lens distortion, none if it is missing.

    What not every source knows: sizes [N, 2] (width, height), pixels that the intrinsics are for; an image of another
    size is taken for a resized one. depth(i): float32 [h, w] along z in units of the poses, 0 where unknown, or None.
    distance(): [N], how far away what a frame sees lies typically. stamps [N] int64, nanoseconds. names: of the
    frames' files. ordered: frames follow each other along a path. metric: the poses' unit is a metre. notes: what was
    left out when the scene was read.
    """

    key: str
    w2c: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    relative: bool
    encoded: Callable[[int], bytes]
    sizes: NDArray[np.int64] | None = None
    depth: Callable[[int], NDArray[np.float32] | None] | None = None
    distance: Callable[[], NDArray[np.float64]] | None = None
    stamps: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    ordered: bool = True
    metric: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.w2c)

    def name(self, frame: int) -> str:
        """Return what a person calls a frame."""
        return self.names[frame] if self.names else f"frame {frame}"

    def pixels(self, frame: int, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return fxfycxcy of a frame in pixels, for an image of size (width, height).

        Raises FrameError for an image of another aspect than its camera.
        """
        scale: ArrayLike = (1, 1, 1, 1)
        if self.relative:
            scale = (*size, *size)
        elif self.sizes is not None and tuple(self.sizes[frame]) != tuple(size):
            width, height = (int(v) for v in self.sizes[frame])
            if abs(size[0] - size[1] * width / height) > SIZE_TOLERANCE:
                raise FrameError(
                    f"scene {self.key}, {self.name(frame)}: the image is {size[0]}x{size[1]} but its camera is for "
                    f"{width}x{height}: was it turned or cropped? Give it intrinsics of its own"
                )
            scale = (size[0] / width, size[1] / height) * 2
        return self.intrinsics[frame] * np.array(scale, dtype=np.float64)

    def frame(self, index: int) -> PosedFrame:
        """Decode a frame. Raises FrameError for one that is missing or damaged, DatasetError for one past
        the end."""
        if not 0 <= index < len(self):
            raise DatasetError(f"scene {self.key} has {len(self)} frames, there is no frame {index}")
        image = decode(self.encoded(index), f"frame {index} of scene {self.key}")
        return PosedFrame(image, self.pixels(index, image.size), self.w2c[index])


class Store(Protocol):
    """Scenes by key. `keys` is sorted, so that numbers of scenes mean the same on every machine.

    A store may have `damaged`: scenes that it knows of and cannot use, key -> reason.
    """

    keys: Sequence[str]

    def __len__(self) -> int: ...

    def scene(self, key: str) -> PosedScene:
        """Return a scene without decoding anything. Raises DatasetError or ChunkError for a damaged one."""
        ...


class Scenes:
    """A store of scenes that are opened when they are asked for.

    openers: key -> what makes the scene. damaged: scenes that cannot be opened, key -> reason. The scenes that were
    used last are kept, because reading their cameras takes longer than decoding a few frames.
    """

    KEPT = 64

    def __init__(
        self, openers: dict[str, Callable[[], PosedScene]], damaged: dict[str, str] | None = None
    ) -> None:
        self._openers, self.damaged = openers, damaged or {}
        self._recent: dict[str, PosedScene] = {}
        self.keys: Sequence[str] = sorted(openers)

    def __len__(self) -> int:
        return len(self.keys)

    def scene(self, key: str) -> PosedScene:
        if key not in self._openers:
            raise DatasetError(f"there is no scene {key!r}; the first of {len(self)} is {self.keys[0]!r}")
        scene = self._recent.pop(key, None)
        if scene is None:
            scene = self._openers[key]()
        self._recent[key] = scene
        while len(self._recent) > self.KEPT:
            del self._recent[next(iter(self._recent))]
        return scene


def decode(data: bytes, name: str) -> Image.Image:
    """Decode a JPEG or PNG. Raises FrameError naming the frame."""
    if not data:
        raise FrameError(f"{name} is missing")
    try:
        image = Image.open(io.BytesIO(data))
        check_pixels(*image.size)
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FrameError(f"{name} does not decode: {error}") from error
    return image


def usable_poses(c2w: NDArray[np.float64], where: str) -> NDArray[np.bool_]:
    """Return which poses [N, 4, 4] are finite. Raises DatasetError where a finite one is no rigid motion.

    NaN is what trackers write where they were lost: such frames are left out. A mirrored or scaled pose is a mistake
    about the format, and others are wrong for the same reason.
    """
    finite = np.isfinite(c2w).all((1, 2))
    rotations = c2w[finite, :3, :3]
    off = np.abs(rotations.swapaxes(1, 2) @ rotations - np.eye(3)).max((1, 2), initial=0)
    wrong = (off > ROTATION_TOLERANCE) | (np.linalg.det(rotations) < 0)
    if wrong.any():
        frame = int(np.flatnonzero(finite)[np.flatnonzero(wrong)[0]])
        raise DatasetError(
            f"{where}: the pose of frame {frame} is no rotation with a translation (it is scaled or mirrored): "
            f"write camera-to-world poses with orthonormal rotations"
        )
    return finite


def check_intrinsics(relative: NDArray[np.float64], where: str) -> None:
    """Raise DatasetError for intrinsics [N, 4] in fractions of the image's size that no camera has.

    It is nearly always pixels that were taken for fractions, or the reverse.
    """
    if not len(relative):
        return
    if not np.isfinite(relative).all() or (relative[:, :2] <= 0).any():
        raise DatasetError(f"{where} has cameras with NaN, or with focal lengths that are not positive")
    low, high = FOCAL_RANGE
    focal, centre = relative[:, :2], relative[:, 2:]
    bad = ((focal < low) | (focal > high)).any(1) | ((centre < -0.5) | (centre > 1.5)).any(1)
    if not bad.any():
        return
    frame = int(np.flatnonzero(bad)[0])
    values = ", ".join(f"{v:.4g}" for v in relative[frame])
    hint = "check the image size that the intrinsics are for"
    if focal[frame].min() > high or centre[frame].max() > 1.5:
        hint = "they seem to be pixels where fractions of width and height are meant, or of a larger image"
    elif focal[frame].max() < low:
        hint = "they seem to be fractions of width and height where pixels are meant"
    raise DatasetError(
        f"{where}, frame {frame}: fx, fy, cx, cy are {values} of the image's width and height, which no camera has: "
        f"{hint}"
    )
