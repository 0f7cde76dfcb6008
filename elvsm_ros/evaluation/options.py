"""The command line of the evaluation."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elvsm_ros.tools.command_line import HelpFormatter, add_model, add_topics, at_least, positive


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What the evaluation is told; `parse` says what each means."""

    bag: Path
    out: Path
    json: Path | None
    frames: int
    seconds: float | None
    lpips: str
    sweep: tuple[int, ...]
    pose_noise: bool
    through_node: bool
    rate: float
    domain: int | None
    video: bool
    image_topic: str | None
    camera_info_topic: str | None
    pose_topic: str | None
    world_frame: str
    camera_frame: str
    parameters: dict[str, Any]
    """The node's parameters that are not at their defaults."""


def parse(arguments: Sequence[str] | None) -> EvaluationOptions:
    """Read the command line. Exits with status 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="elvsm_evaluate_bag",
        description="Replay a recording through the node's own code, without ROS around it, and measure how well "
        "frames that did not become keyframes are rendered: from what had been seen before each (online), and from "
        "everything (offline), beside two baselines. Exit status: 0 evaluated, 1 nothing was held out, 2 the "
        "recording or the command line cannot be used, or only a part of the recording.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add(
        "--bag",
        type=Path,
        required=True,
        metavar="PATH",
        help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag",
    )
    add(
        "--out",
        type=Path,
        default=Path("evaluation_out"),
        metavar="DIR",
        help="where index.html, frames.csv, results.json and video.mp4 go",
    )
    add("--json", type=Path, metavar="FILE", help="write the results there as well")
    add_model(parser)
    add(
        "--frames",
        type=at_least(1),
        default=500,
        metavar="N",
        help="held-out frames to render at most, evenly spread",
    )
    add("--seconds", type=positive, help="how much of the recording to use, from its start")
    add(
        "--lpips",
        choices=("vgg", "alex", "no"),
        default="vgg",
        help="network of LPIPS, if its weights are here",
    )
    add("--max-views", type=int, metavar="N", help="the node's max_views")
    add(
        "--body-to-camera",
        type=float,
        nargs=7,
        metavar="V",
        help="the node's body_to_camera: x y z qx qy qz qw",
    )
    add(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other parameter of the node (config/elvsm.yaml), such as keyframe_distance=0.3; may be repeated",
    )
    add(
        "--sweep",
        type=_counts,
        nargs="?",
        const=(1, 2, 4, 8, 16),
        default=(),
        metavar="N,N,...",
        help="render with these max_views, too (1,2,4,8,16)",
    )
    add(
        "--pose-noise",
        action="store_true",
        help="render with disturbed keyframe poses, too: 1-5 cm, 0.5-2 degrees",
    )
    add(
        "--through-node",
        action="store_true",
        help="play the recording over DDS into the real node as well, and ask it for the same frames",
    )
    add("--rate", type=positive, default=1.0, help="with --through-node: speed of playing, times real time")
    add("--domain", type=int, help="with --through-node: ROS_DOMAIN_ID; none: one that nobody uses")
    add("--no-video", dest="video", action="store_false", help="write no video")
    add_topics(parser)
    options = vars(parser.parse_args(arguments))
    parameters: dict[str, Any] = {"model": options.pop("model"), "device": options.pop("device")}
    if options["max_views"] is not None:
        parameters["max_views"] = options["max_views"]
    if options["body_to_camera"] is not None:
        parameters["body_to_camera"] = [float(v) for v in options["body_to_camera"]]
    del options["max_views"], options["body_to_camera"]
    for text in options.pop("param"):
        name, equals, value = text.partition("=")
        if not equals:
            parser.error(f"--param needs NAME=VALUE, got {text!r}")
        parameters[name] = _value(name, value, parser)
    return EvaluationOptions(**options, parameters=parameters)


def _value(name: str, text: str, parser: argparse.ArgumentParser) -> Any:
    """Read a value as a parameter file would, with the type that the parameter has."""
    import yaml

    from elvsm_ros.parameters.table import table

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        parser.error(f"--param {name}: {text!r} is no YAML value")
    default = next((row.default for row in table() if row.name == name), None)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, str):
        return text
    return value


def _counts(text: str) -> tuple[int, ...]:
    return tuple(at_least(1)(part) for part in text.split(","))
