"""Images as they come from a camera, cut and resampled to what the model sees."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .cameras import Camera

ImageLike = NDArray[np.uint8] | Tensor


class ImageError(ValueError):
    """An image that cannot be used."""


def check_image(image: ImageLike, camera: Camera) -> None:
    """Raise ImageError unless the image is uint8 [H, W, 3] and agrees with its camera."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise ImageError(f"image must be uint8 RGB, got {image.dtype}: scale to 0..255 and convert")
    elif not isinstance(image, Tensor) or image.dtype != torch.uint8:
        raise ImageError(f"image must be a uint8 array or tensor, got {getattr(image, 'dtype', type(image))}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"image must have shape [height, width, 3] (RGB), got {list(image.shape)}")
    if tuple(image.shape[:2]) != camera.size:
        raise ImageError(
            f"image is {image.shape[1]}x{image.shape[0]} but its camera is calibrated for {camera.width}x"
            f"{camera.height}: image and CameraInfo do not belong together (binning, ROI, a resized stream?)"
        )


def as_tensor(image: ImageLike) -> Tensor:
    """Return an image as a tensor, which shares its memory where PyTorch can."""
    if isinstance(image, Tensor):
        return image
    return torch.from_numpy(image if image.flags.writeable and image.flags.c_contiguous else np.array(image))


def resize_and_crop(
    image: ImageLike, camera: Camera, size: tuple[int, int], device: torch.device | str = "cpu"
) -> tuple[Tensor, Camera]:
    """Cut the centre of an image to the aspect ratio of `size` and resample it, the intrinsics with it.

    image uint8 [h, w, 3]; size (H, W) pixels. Computed on `device`, with an antialiased bicubic filter.
    Returns a uint8 tensor [H, W, 3] on `device` and its camera. Raises ImageError where image and camera
    disagree.
    """
    check_image(image, camera)
    tensor = as_tensor(image).to(device)
    height, width = size
    if tensor.shape[:2] == (height, width):
        return tensor, camera
    scale = min(camera.height / height, camera.width / width)
    crop_h = min(camera.height, max(1, round(height * scale)))
    crop_w = min(camera.width, max(1, round(width * scale)))
    top, left = (camera.height - crop_h) // 2, (camera.width - crop_w) // 2
    crop = tensor[top : top + crop_h, left : left + crop_w].permute(2, 0, 1).unsqueeze(0).float()
    resized = F.interpolate(crop, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    out = to_uint8(resized[0] / 255).permute(1, 2, 0).contiguous()
    return out, camera.cropped(left, top, crop_w, crop_h).resized(width, height)


def to_uint8(image: Tensor) -> Tensor:
    """Round an image in [0, 1] of any shape to uint8."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)
