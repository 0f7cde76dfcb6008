"""Videos that every browser plays: H.264 in MP4, written by the ffmpeg that comes with imageio-ffmpeg."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from elvsm_core.files.atomic import replacing_path

RGB = NDArray[np.uint8]


def write_video(path: str | Path, frames: Iterable[RGB], rate: float) -> int:
    """Write uint8 RGB frames [H, W, 3] of one size, both sides even, at `rate` frames per second.

    The file appears when it is complete; without any frame there is none. Returns the number of frames.
    Raises ValueError when sizes differ or are odd, OSError when ffmpeg fails.
    """
    path = Path(path)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return 0
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"frames are {width}x{height} pixels, but H.264 in this form needs even sides")
    with replacing_path(path) as partial:
        return _encode(partial, itertools.chain([first], frames), first, rate)


def _encode(path: Path, frames: Iterable[RGB], first: RGB, rate: float) -> int:
    height, width = first.shape[:2]
    # +faststart: the index comes first, so that a browser starts to play at once.
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=rate,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-crf", "21", "-preset", "medium", "-movflags", "+faststart"],
    )
    count = 0
    try:
        writer.send(None)
        for frame in frames:
            if frame.shape != first.shape or frame.dtype != np.uint8:
                raise ValueError(
                    f"frame {count} is {frame.shape} {frame.dtype}, the first one {first.shape} uint8"
                )
            writer.send(np.ascontiguousarray(frame))
            count += 1
    finally:
        writer.close()
    return count
