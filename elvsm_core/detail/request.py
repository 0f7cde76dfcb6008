"""What a scene does for renders with detail: the pictures that it keeps, and a request from end to end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import keyframes
from ..cameras import Camera, patched_size
from ..images import ImageLike, resize_and_crop, to_uint8
from ..rendering import Rendering
from .settings import DetailSettings
from .stage import add_detail
from .warp import View

DETAIL_SIZE = 640
"""Longer side, pixels, of the pictures that a scene keeps unless it is told otherwise."""

Lens = tuple[float, float, float, float]
"""fx, fy, cx, cy, pixels."""


def keep_picture(
    image: ImageLike, camera: Camera, longest: int, own: tuple[int, int], device: torch.device
) -> tuple[Tensor | None, Lens | None]:
    """Return a copy of an image on the host, its longer side `longest` pixels at most, and fx, fy, cx, cy of it.

    own: size of the image that is kept anyway; None, None where the copy would show no more than that.
    """
    scale = min(1.0, longest / max(camera.size))
    height, width = (max(1, round(side * scale)) for side in camera.size)
    if longest == 0 or (height, width) == own or (height <= own[0] and width <= own[1]):
        return None, None
    small, lens = resize_and_crop(image, camera, (height, width), device if scale < 1 else "cpu")
    # Memory of its own: the caller may write to the image later.
    return small.cpu() if small.device.type != "cpu" else small.clone(), lens.fxfycxcy


def network_cameras(cameras: Sequence[Camera], native: tuple[int, int], patch: int) -> list[Camera]:
    """Return cameras that see the same at about the model's own number of pixels; see `patched_size`."""
    height, width = size = cameras[0].size
    scale = math.sqrt(native[0] * native[1] / (height * width))
    h, w = patched_size(size, scale, native, patch)
    return [camera.resized(w, h) for camera in cameras] if (h, w) != size else list(cameras)


def detailed(
    renders: Tensor,
    pictures: Sequence[tuple[Tensor, Camera]],
    cameras: Sequence[Camera],
    support: NDArray[np.float32],
    views: list[int],
    settings: DetailSettings | None = None,
) -> Rendering:
    """Return the rendering of cameras from the network's pictures of them and the keyframes used.

    renders [M, 3, h, w] in [0, 1], on the device that computes. pictures: of the keyframes with the ids `views`. Each
    target uses those that are most useful for it alone, `settings.max_views` at most.
    """
    settings = settings or DetailSettings()
    stored = keyframes.Views.of([camera for _, camera in pictures])
    answers = []
    for render, camera in zip(renders, cameras, strict=True):
        rows = keyframes.most_useful(keyframes.Targets.of([camera]), stored, settings.max_views)
        chosen = [pictures[row] for row in rows]
        stack = _stack([picture for picture, _ in chosen], renders.device)
        sources = [_view(one).resized((int(stack.shape[-2]), int(stack.shape[-1]))) for _, one in chosen]
        answers.append(add_detail(stack, sources, _view(camera), render.float(), settings))
    return Rendering(
        torch.stack([to_uint8(one.image).permute(1, 2, 0) for one in answers]).contiguous().cpu().numpy(),
        support,
        views,
        torch.stack([one.depth for one in answers]).cpu().numpy(),
        torch.stack([one.confidence for one in answers]).cpu().numpy(),
    )


def _view(camera: Camera) -> View:
    return View(camera.fxfycxcy, camera.T_world_cam, camera.size)


def _stack(pictures: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return pictures [h, w, 3] as [V, 3, H, W] in [0, 1], all of the largest one's size."""
    size = max((tuple(picture.shape[:2]) for picture in pictures), key=lambda size: (size[0] * size[1], size))
    same = []
    for picture in pictures:
        image = picture.to(device, non_blocking=True).permute(2, 0, 1).float() / 255
        if tuple(image.shape[1:]) != size:
            image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
        same.append(image)
    return torch.stack(same)
