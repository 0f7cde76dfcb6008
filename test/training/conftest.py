"""RealEstate10K in miniature: procedural walks, written in exactly the formats of the dataset."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

# For `miniature`, which is no test and in no package.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from training.data.conversion import chunk_entry, encode, write_chunk, write_index
from training.procedural.scenes import make_texture_bank, render_views, walk

FRAMES, SIZE = 32, (36, 64)
"""Frames of a walk, and (height, width) of an image: 16:9 as in the dataset, and few pixels."""


class MiniScene(NamedTuple):
    """key, images uint8 [N, H, W, 3], w2c [N, 4, 4] float64, relative fx, fy, cx, cy [N, 4]."""

    key: str
    images: np.ndarray
    w2c: np.ndarray
    relative: np.ndarray

    def entry(self, encoding: str = "jpeg") -> dict:
        """Return the scene as chunks hold it."""
        return chunk_entry(self.key, [encode(i, encoding) for i in self.images], self.w2c, self.relative)


@pytest.fixture(scope="session")
def mini_scenes() -> list[MiniScene]:
    bank, height, width = make_texture_bank(8, 32), *SIZE
    scenes = []
    for seed, key in enumerate(("5aca87f95a9412c6", "322261824c4a3003", "17d9303ee77c3a3d")):
        path = walk(seed, FRAMES, bank, size=SIZE)
        options = {"supersampling": 1, "shadows": False}
        images, _ = render_views(path.room, bank, path.c2w, path.fxfycxcy, SIZE, **options)
        w2c = np.linalg.inv(path.c2w[0].double().numpy())
        relative = path.fxfycxcy[0].double().numpy() / [width, height, width, height]
        scenes.append(MiniScene(key, images[0].permute(0, 2, 3, 1).numpy(), w2c, relative))
    return scenes


@pytest.fixture(scope="session")
def mini_re10k(mini_scenes: list[MiniScene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two chunks with index.json, PNG inside, so that nothing is lost. Don't write to it."""
    folder = tmp_path_factory.mktemp("re10k")
    entries = [scene.entry("png") for scene in mini_scenes]
    write_chunk(folder / "000000.torch", entries[:2])
    write_chunk(folder / "000001.torch", entries[2:])
    write_index(folder)
    return folder
