"""The demo's command line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from elvsm_ros.tools.command_line import HelpFormatter, add_model, add_topics, at_least, positive


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """What the demo is told; `parse` says what each means."""

    bag: Path | None
    out: Path
    model: str
    device: str
    rate: float
    seconds: float | None
    seed: int
    max_views: int
    every: float
    image_topic: str | None
    camera_info_topic: str | None
    pose_topic: str | None
    world_frame: str
    camera_frame: str
    body_to_camera: tuple[float, ...]
    film_frames: int
    picture: Path | None
    domain: int | None
    view: int | None = None


def parse(arguments: Sequence[str] | None) -> DemoOptions:
    """Read the command line. Exits with status 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="elvsm_demo",
        description="Play a camera walk into the node and report how well it renders held-out views. Without "
        "a recording, a walk through a room is drawn first.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add(
        "--bag",
        type=Path,
        metavar="PATH",
        help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag to play; none: draw a walk",
    )
    add(
        "--out",
        type=Path,
        default=Path("demo_out"),
        metavar="FOLDER",
        help="where report, video and drawn walk go",
    )
    add_model(parser)
    add("--rate", type=positive, default=1.0, help="speed of playing, times real time")
    add(
        "--seconds",
        type=positive,
        help="length of the walk that is drawn (40), or how much of the recording to play",
    )
    add("--seed", type=int, default=18, help="which room and walk is drawn")
    add(
        "--max-views",
        type=at_least(0),
        default=0,
        help="keyframes that a render uses at most; 0: the node's default",
    )
    add(
        "--every",
        type=positive,
        default=1.0,
        metavar="SECONDS",
        help="time of the walk between two held-out views",
    )
    add_topics(parser)
    add(
        "--body-to-camera",
        type=float,
        nargs=7,
        default=[0, 0, 0, 0, 0, 0, 1],
        metavar="V",
        help="pose x y z qx qy qz qw of the camera's optical frame in the frame whose poses were recorded",
    )
    add("--film-frames", type=at_least(0), default=120, help="views rendered for the video; 0: no video")
    add("--picture", type=Path, metavar="FILE.png", help="write a picture of a few held-out views as well")
    add("--domain", type=int, help="ROS_DOMAIN_ID, to look on with other tools; none: one that nobody uses")
    add(
        "--view",
        type=int,
        nargs="?",
        const=8080,
        metavar="PORT",
        help="serve the viewer's page, and keep it and the node until Ctrl-C; needs the extra [viewer]",
    )
    options = vars(parser.parse_args(arguments))
    options["body_to_camera"] = tuple(float(v) for v in options["body_to_camera"])
    return DemoOptions(**options)
