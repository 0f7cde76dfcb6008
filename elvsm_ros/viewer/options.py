"""The viewer's command line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from elvsm_ros.tools.command_line import HelpFormatter, at_least

UP = {
    "+x": (1.0, 0.0, 0.0), "-x": (-1.0, 0.0, 0.0), "+y": (0.0, 1.0, 0.0), "-y": (0.0, -1.0, 0.0),
    "+z": (0.0, 0.0, 1.0), "-z": (0.0, 0.0, -1.0),
}  # fmt: skip
"""Directions of the world that may be up."""


@dataclasses.dataclass(frozen=True)
class ViewerOptions:
    """What the viewer is told; `parse` says what each means. ros: arguments for rclpy."""

    host: str = "127.0.0.1"
    port: int = 8080
    node: str = "/elvsm"
    up: str = "auto"
    out: Path = Path("viewer_out")
    max_frusta: int = 200
    allow_origin: tuple[str, ...] = ()
    ros: tuple[str, ...] = ()


def parse(arguments: Sequence[str] | None) -> ViewerOptions:
    """Read the command line. Exits with status 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="elvsm_viewer",
        description="Serve a web page that shows the node's keyframes and renders what the page's camera sees.",
        epilog="Remappings go behind --ros-args: the topic camera_info, read for the shape of the drawn cameras.",
        formatter_class=HelpFormatter,
    )
    add, default = parser.add_argument, ViewerOptions()
    add("--host", default=default.host,
        help="address to listen on; 0.0.0.0 lets every machine that reaches this one steer the node")  # fmt: skip
    add("--port", type=_port, default=default.port, help="where to listen; the next free one if it is taken")
    add("--allow-origin", action="append", type=_origin, metavar="URL",
        help="address that the page may be called by, or another page that may use it, http://name:port; besides "
        "loopback's names and, with another --host, this machine's own; may be given several times")  # fmt: skip
    add("--node", default=default.node, help="full name of the node to show")
    add("--up", choices=("auto", *UP), default=default.up,
        help="axis of the world that is up; auto: the one that the first keyframes hold upright")  # fmt: skip
    add("--out", type=Path, default=default.out, metavar="FOLDER", help="where rendered videos go")
    add("--max-frusta", type=at_least(1), default=default.max_frusta,
        help="keyframes drawn at most; of more, every second, third, ... one is")  # fmt: skip
    given = list(sys.argv[1:] if arguments is None else arguments)
    # rclpy's own arguments: what ros2 launch adds, too.
    at = given.index("--ros-args") if "--ros-args" in given else len(given)
    values = vars(parser.parse_args(given[:at]))
    values["allow_origin"] = tuple(values["allow_origin"] or ())
    if not values["node"].startswith("/"):
        values["node"] = "/" + values["node"]
    return ViewerOptions(**values, ros=tuple(given[at:]))


def _port(text: str) -> int:
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"must be from 1 to 65535, got {text}")
    return value


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.path in ("", "/")
            and parts.port != 0
        )
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"must be like http://robot:8080, got {text!r}")
    return text
