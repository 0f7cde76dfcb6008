"""Limits of what is decoded, for all that reads images."""

MAX_PIXELS = 1 << 25
"""Of an image: 8K video. Decoded it takes 100 MB, and twice that meanwhile."""


class TooLargeError(ValueError):
    """An image that is not decoded, because of its size."""


def check_pixels(width: int, height: int) -> None:
    """Raise TooLargeError for an image of more than MAX_PIXELS: to be called with its header, before it is decoded."""
    if width * height > MAX_PIXELS:
        raise TooLargeError(
            f"image has {width}x{height} pixels, and {MAX_PIXELS} at most are decoded: use a smaller one"
        )
