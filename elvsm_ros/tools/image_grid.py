"""Pictures side by side with words beside them, as arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from elvsm_ros.conversions import RGB

INK, DIM, PAPER = (17, 20, 26), (160, 170, 188), (255, 255, 255)


@functools.cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def enlarged(rgb: RGB, height: int, width: int) -> RGB:
    """Resample uint8 RGB [H, W, 3] smoothly to height x width pixels."""
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))


def row(images: Sequence[RGB], captions: Sequence[tuple[str, str]], height: int, gap: int = 8) -> RGB:
    """Put images of one size beside each other, with a caption (words, a figure at the right) below each.

    images: uint8 RGB, resampled to `height` pixels. Returns uint8 RGB with even sides, as videos need it.
    """
    line = 34
    width = 2 * round(images[0].shape[1] / images[0].shape[0] * height / 2)
    canvas = Image.new("RGB", (len(images) * (width + gap) - gap, height + height % 2 + line), INK)
    draw = ImageDraw.Draw(canvas)
    for k, (image, (words, figure)) in enumerate(zip(images, captions, strict=True)):
        left = k * (width + gap)
        canvas.paste(Image.fromarray(enlarged(image, height, width)), (left, 0))
        draw.text((left + 10, height + line / 2), words, PAPER, _font(17), anchor="lm")
        draw.text((left + width - 10, height + line / 2), figure, DIM, _font(17), anchor="rm")
    return np.asarray(canvas)


def table(rows: Sequence[tuple[str, Sequence[RGB], Sequence[str]]], side: int, gap: int = 6) -> RGB:
    """Put images into a table: each row has a title at its left, and images with a note in the corner.

    side: height of an image, pixels. Returns uint8 RGB.
    """
    margin, pad = 112, 10
    first = rows[0][1]
    width = round(first[0].shape[1] / first[0].shape[0] * side)
    size = (margin + len(first) * (width + gap) - gap + pad, 2 * pad + len(rows) * (side + gap) - gap)
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for r, (title, images, notes) in enumerate(rows):
        top = pad + r * (side + gap)
        draw.multiline_text((pad, top + side / 2), title, INK, _font(16), anchor="lm", spacing=4)
        for k, (image, note) in enumerate(zip(images, notes, strict=True)):
            left = margin + k * (width + gap)
            canvas.paste(Image.fromarray(enlarged(image, side, width)), (left, top))
            if note:
                box = draw.textbbox((left + width - 6, top + side - 5), note, _font(14), anchor="rb")
                draw.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), INK)
                draw.text((left + width - 6, top + side - 5), note, PAPER, _font(14), anchor="rb")
    return np.asarray(canvas)
