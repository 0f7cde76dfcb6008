"""The error of all conversions."""

from __future__ import annotations


class ConversionError(ValueError):
    """A message that cannot be used. The text says why, and what to do about it."""
