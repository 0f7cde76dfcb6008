"""Posed pictures for tests of dataset formats: a ring of cameras that look inwards, and pictures with structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Return uint8 [H, W, 3] with structure at several scales and no sharp edge of one pixel."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def ring(count: int, radius: float = 2.0, turn: float = 120.0) -> np.ndarray:
    """Return c2w [N, 4, 4], OpenCV axes, of cameras on an arc of `turn` degrees that look at the origin."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for i, angle in enumerate(np.deg2rad(np.linspace(0, turn, count))):
        forward = np.array([np.sin(angle), 0.1, np.cos(angle)])
        forward /= np.linalg.norm(forward)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        poses[i, :3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
        poses[i, :3, 3] = -radius * forward
    return poses


def save(path: Path, image: np.ndarray, **options) -> None:
    """Write an image, and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
