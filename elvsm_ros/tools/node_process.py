"""A recording against the real node: how the two are started as processes of their own."""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from elvsm_ros.parameters.table import Settings
from elvsm_ros.recordings.bag_reader import (
    CAMERA_INFO,
    COMPRESSED,
    ODOMETRY,
    POSE,
    POSE_WITH_COVARIANCE,
    TF,
    Bag,
    Streams,
    message_class,
)
from elvsm_ros.recordings.bag_tf import POSE_TOPIC, Ends
from elvsm_ros.tools.processes import Child

NODE_TIMEOUT = 120.0
"""Seconds that the node may take to load its model."""
LISTENER_TIMEOUT = 30.0
"""Seconds that the player waits for the node to subscribe."""


def pose_topic(streams: Streams) -> str:
    """Return the topic that poses are published on when a recording is played: TF becomes poses."""
    return POSE_TOPIC if streams.pose.type == TF else streams.pose.name


def clock(streams: Streams) -> tuple[str, Any]:
    """Return a topic with small messages, and their class, whose stamps tell how far a recording has been played.

    That is camera_info, or the poses where camera_info comes now and then only.
    """
    if 2 * streams.camera_info.count >= streams.image.count:
        return streams.camera_info.name, message_class(CAMERA_INFO)
    return pose_topic(streams), message_class(POSE if streams.pose.type == TF else streams.pose.type)


def start_node(
    streams: Streams, values: Mapping[str, Any], folder: Path, children: list[Child], rate: float = 1.0
) -> Child:
    """Start the node on a recording's topics. values: its parameters. Its log and parameters go into `folder`.

    rate: times real time that the recording will be played at. Played slowly, poses come later by the wall's clock,
    and the node waits longer for them (sync_timeout).
    """
    timeout = values.get("sync_timeout", Settings.sync_timeout) / min(1.0, rate)
    compressed = streams.image.type == COMPRESSED
    source = {ODOMETRY: "odom", POSE_WITH_COVARIANCE: "pose_with_covariance"}.get(streams.pose.type, "pose")
    renamed = {
        "image/compressed" if compressed else "image": streams.image.name,
        "camera_info": streams.camera_info.name,
        "odom" if source == "odom" else "pose": pose_topic(streams),
    }
    parameters = {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
        "image_transport": "compressed" if compressed else "raw",
        "pose_source": source,
        "sync_timeout": min(60.0, timeout),
    }
    file = folder / "node.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    command = [sys.executable, "-m", "elvsm_ros.node", "--ros-args", "--params-file", str(file)]
    for old, new in renamed.items():
        command += ["-r", f"{old}:={new}"]
    children.append(Child("elvsm_node", command, os.environ, folder / "node.log"))
    return children[-1]


def start_player(
    bag: Bag,
    streams: Streams,
    ends: Ends | None,
    folder: Path,
    children: list[Child],
    rate: float,
    seconds: float | None = None,
) -> Child:
    """Start to play a recording once the node, and one client besides, listen.

    ends: frames that TF is asked for, if it has the poses. rate: times real time. seconds: of the recording.
    """
    image, camera_info, pose = streams.names
    topics = [image, camera_info, pose, *(topic.name for topic in streams.static)]
    listeners = collections.Counter([image, camera_info, pose_topic(streams), clock(streams)[0]])
    command = [sys.executable, "-m", "elvsm_ros.recordings.bag_player", str(bag.path), "--topics", *topics]
    command += ["--rate", str(rate), "--wait", str(LISTENER_TIMEOUT)]
    # The node listens to all, the client to the clock.
    command += ["--listeners", *(f"{name}={count}" for name, count in listeners.items())]
    if ends is not None:
        command += ["--poses-from-tf", image, *ends]
    if seconds is not None:
        command += ["--seconds", str(seconds)]
    children.append(Child("player", command, os.environ, folder / "player.log"))
    return children[-1]
