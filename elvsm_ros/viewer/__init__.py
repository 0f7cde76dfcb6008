"""The live viewer: a web page that shows what the node has and what it renders for the browser's camera."""

from __future__ import annotations

import os
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until SIGINT or SIGTERM: status 0. 2: the command line cannot be used, or viser is missing."""
    from elvsm_ros.viewer.options import parse

    options = parse(arguments)
    # Before rclpy is imported: Fast DDS reads it once, and loses large messages without it.
    os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    from elvsm_ros.viewer.run import run

    return run(options)
