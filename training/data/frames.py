"""RealEstate10K frames and poses as the published training and evaluation prepare them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image


def preprocess_frame(
    image: Image.Image,
    fxfycxcy: ArrayLike,
    image_size: int,
    patch_size: int = 8,
    square_crop: bool = True,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Resize a frame to a height of image_size pixels and crop its centre square, the intrinsics with it.

    fxfycxcy [4] pixels of `image`. The width follows the aspect ratio, rounded to whole patches; the filter
    is Lanczos; greyscale and alpha are converted to RGB. Returns uint8 [3, H, W] and fxfycxcy [4] float32.

    A portrait frame ends up smaller than image_size when cropped: that is what the published pipeline does.
    """
    image = image.convert("RGB")
    width, height = image.size
    new_height = image_size
    new_width = max(1, round(int(image_size / height * width) / patch_size)) * patch_size
    resized = np.asarray(image.resize((new_width, new_height), Image.Resampling.LANCZOS))
    fx, fy, cx, cy = np.asarray(fxfycxcy, dtype=np.float64)
    scale_x, scale_y = new_width / width, new_height / height
    fx, cx, fy, cy = fx * scale_x, cx * scale_x, fy * scale_y, cy * scale_y
    if square_crop:
        side = min(new_height, new_width)
        top, left = (new_height - side) // 2, (new_width - side) // 2
        resized = resized[top : top + side, left : left + side]
        cx, cy = cx - left, cy - top
    return np.ascontiguousarray(resized.transpose(2, 0, 1)), np.array([fx, fy, cx, cy], dtype=np.float32)


def c2w_from_w2c(w2c: ArrayLike) -> NDArray[np.float32]:
    """Invert world-to-camera poses [..., 4, 4] in float64, then round to float32. Raises numpy's LinAlgError."""
    return np.linalg.inv(np.asarray(w2c, dtype=np.float64)).astype(np.float32)
