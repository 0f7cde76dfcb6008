"""A clean end by SIGINT or SIGTERM for a program that is still being imported, which takes a second."""

from __future__ import annotations

import os
import signal


def arm() -> None:
    """End the process with status 0 on either signal, until somebody else takes care of them.

    There is nothing to clean up yet. Not an exception, which some library on the way could swallow.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os._exit(0))
