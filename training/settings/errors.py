"""The error that invalid settings raise."""

from __future__ import annotations


class SettingsError(ValueError):
    """A training configuration that cannot be used."""


def require(condition: bool, text: str) -> None:
    """Raise SettingsError with a text unless a condition holds."""
    if not condition:
        raise SettingsError(text)
