"""The demo's own recording: a walk through a room that is drawn here, as a rosbag2."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from elvsm_core.files import owned
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.recordings.bag_reader import SECOND
from elvsm_ros.recordings.bag_writer import CameraBagWriter

BATCH = 4
"""Images that a thread draws at once: few, so that drawing can be interrupted."""
TILES = 96
"""Textures to choose from: one room shows a few dozen, and each takes its time to make."""
KIND = "drawn walk"
"""What the markers of drawn walks say."""
NAME = re.compile(r"walk_[0-9a-f]{12}")
"""`WalkSettings.key` of any settings."""
START = 1_700_000_000 * SECOND
"""Stamp of the first pose."""


@dataclasses.dataclass(frozen=True)
class WalkSettings:
    """seconds: length. rate: images per second, with three poses each. size: (height, width) pixels.

    speed: metres per second and turn: degrees per second, the most. fov: horizontal, degrees.
    """

    seed: int = 18
    seconds: float = 40.0
    rate: float = 10.0
    size: tuple[int, int] = (240, 320)
    speed: float = 0.45
    turn: float = 25.0
    fov: float = 70.0

    @property
    def frames(self) -> int:
        """Number of images."""
        return round(self.seconds * self.rate)

    @property
    def key(self) -> str:
        """A name for what these settings draw; it changes with the code that draws."""
        import elvsm_training

        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode())
        for source in (
            *sorted((Path(elvsm_training.__file__).parent / "procedural").glob("*.py")),
            Path(__file__),
        ):
            digest.update(source.read_bytes())
        return f"walk_{digest.hexdigest()[:12]}"


def forget_walks(folder: Path) -> None:
    """Remove walks that this program drew in a folder. What carries no marker of its own stays, whatever its name."""
    for old in folder.iterdir():
        if NAME.fullmatch(old.name) and owned.is_owned(old, KIND):
            owned.remove(old, KIND)


def draw_walk(path: Path, settings: WalkSettings, progress: Callable[[int, int], None]) -> None:
    """Draw a walk and write it as a rosbag2. progress: called with the number of images drawn, and of all.

    Poses are recorded three times as often as images, and never at the very moment of one: whoever needs an
    image's pose has to interpolate. The recording is marked as one that `forget_walks` removes.
    """
    import torch

    from elvsm_training.procedural import scenes

    count = settings.frames
    bank = scenes.make_texture_bank(TILES)
    # Six steps of the path per image: poses at the even ones, the image at the third.
    walk = scenes.walk(
        settings.seed,
        6 * count + 1,
        bank,
        size=settings.size,
        fov=settings.fov,
        step=settings.speed / settings.rate / 6,
        turn=settings.turn / settings.rate / 6,
    )
    poses = walk.c2w[0].double().numpy()
    fx, fy, cx, cy = (float(v) for v in walk.fxfycxcy[0, 0])
    camera = Intrinsics(fx, fy, cx, cy, settings.size[1], settings.size[0])
    step = SECOND / settings.rate / 6
    batches = [
        [6 * k + 3 for k in range(first, min(first + BATCH, count))] for first in range(0, count, BATCH)
    ]

    def draw(chosen: list[int]) -> np.ndarray:
        with torch.inference_mode():
            # A ray a pixel: the model sees these images at a fraction of their size.
            images, _ = scenes.render_views(
                walk.room, bank, walk.c2w[:, chosen], walk.fxfycxcy[:, chosen], walk.size, supersampling=1
            )
        return np.ascontiguousarray(images[0].permute(0, 2, 3, 1).numpy())

    # Several batches at a time with a thread each: one batch gains little from several.
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(os.cpu_count())
    done = 0
    try:
        with CameraBagWriter(path, owned_as=KIND) as bag:
            for chosen, images in zip(batches, pool.map(draw, batches), strict=True):
                for index, image in zip(chosen, images, strict=True):
                    for k in range(index - 3, index, 2):
                        bag.add_pose(START + round(k * step), poses[k])
                    bag.add_image(START + round(index * step), image, camera)
                    bag.add_pose(START + round((index + 1) * step), poses[index + 1])
                done += len(chosen)
                progress(done, count)
            bag.add_pose(START + round(6 * count * step), poses[6 * count])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
