"""What command lines have in common: types of options, options about models and recordings, the form of --help."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def positive(text: str) -> float:
    """Return a finite number above zero. Raises argparse.ArgumentTypeError."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def at_least(low: int) -> Callable[[str], int]:
    """Return a type that takes whole numbers from `low` on and raises argparse.ArgumentTypeError for others."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {text}")
        return value

    return whole_number


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults that tell something: numbers, names and paths."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        telling = bool(default) and not isinstance(default, bool | list)
        return super()._get_help_string(action) if telling else action.help


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model and --device, as the node's parameters of these names."""
    parser.add_argument(
        "--model",
        default="demo",
        help="'demo' (bundled), 'efficient-lvsm-256', or the path of a .safetensors or .pt file",
    )
    parser.add_argument("--device", default="auto", help="PyTorch device")


def add_topics(parser: argparse.ArgumentParser) -> None:
    """Add which topics of a recording are used, and which frames of its TF."""
    add = parser.add_argument
    add("--image-topic", help="Image or CompressedImage topic, where the recording has several")
    add("--camera-info-topic", help="CameraInfo topic, where the recording has several")
    add("--pose-topic", help="topic of poses, Odometry or TF, where the recording has several")
    add("--world-frame", default="", metavar="FRAME", help="with TF: frame of the map (map, or the root)")
    add("--camera-frame", default="", metavar="FRAME", help="with TF: optical frame (the images' frame_id)")
