"""Types of command-line options, for argparse's `type=`."""

from __future__ import annotations

import argparse


def positive(text: str) -> float:
    """Return a finite number above zero. Raises argparse.ArgumentTypeError."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value
