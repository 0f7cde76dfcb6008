"""Play a recording over DDS in real time: python -m elvsm_ros.recordings.bag_player BAG.

The serialised messages go out as they are, with their original stamps; nothing is decoded. Unlike
`ros2 bag play` this needs no ROS installation, and it can wait for its listeners.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from elvsm_ros.recordings.bag_reader import SECOND, TF, Bag, BagError, RecordedTopic, message_class
from elvsm_ros.recordings.bag_tf import POSE_TOPIC, Ends, PosesFromTf, open_tf
from elvsm_ros.tools.command_line import positive

QUEUE = 100
"""Messages per topic that are kept for listeners that are behind."""


def play(
    node: Any,
    bag: Bag,
    topics: Sequence[str],
    stop: threading.Event,
    *,
    rate: float = 1.0,
    listeners: Mapping[str, int] | None = None,
    wait: float = 0.0,
    seconds: float | None = None,
    poses: PosesFromTf | None = None,
    image: str = "",
) -> int:
    """Publish a bag's topics at `rate` times real time, and return the number of messages published.

    listeners: how many listeners topics must have before playing begins, and wait: seconds that they are given
    to appear. seconds: of the recording. poses: makes poses at the stamps of the images on topic `image` of TF,
    which then is not published itself. Ends early when `stop` is set. Raises BagError, TimeoutError.
    """
    from geometry_msgs.msg import PoseStamped
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    # Reliable suits listeners of both kinds; best effort would leave out those who ask for every message.
    qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
    publishers = {
        name: node.create_publisher(message_class(bag.topics[name].type), name, qos)
        for name in topics
        if poses is None or bag.topics[name].type != TF
    }
    if poses is not None:
        publishers[POSE_TOPIC] = node.create_publisher(PoseStamped, POSE_TOPIC, qos)
    _wait_for_listeners(publishers, listeners or {}, wait, stop)
    count, begin, first = 0, time.monotonic(), None
    for topic, stamp, cdr in bag.raw(topics, seconds):
        first = stamp if first is None else first
        ahead = (stamp - first) / SECOND / rate - (time.monotonic() - begin)
        if (ahead > 0 and stop.wait(ahead)) or stop.is_set():
            break
        if poses is not None and topic.type == TF:
            for message in poses.add_transforms(bag.decoded(topic, cdr)):
                publishers[POSE_TOPIC].publish(message)
        else:
            if poses is not None and topic.name == image:
                poses.add_image(cdr)
            publishers[topic.name].publish(cdr)
        count += 1
    # Leaving takes with it what has not been delivered yet.
    stop.wait(0.5)
    return count


def _wait_for_listeners(
    publishers: Mapping[str, Any], listeners: Mapping[str, int], wait: float, stop: threading.Event
) -> None:
    end = time.monotonic() + wait
    while not stop.is_set():
        lonely = [n for n, count in listeners.items() if publishers[n].get_subscription_count() < count]
        if not lonely:
            return
        if time.monotonic() > end:
            raise TimeoutError(
                f"after {wait:g} s {lonely[0]} has {publishers[lonely[0]].get_subscription_count()} listeners "
                f"instead of {listeners[lonely[0]]}: do they run, in the same ROS_DOMAIN_ID?"
            )
        stop.wait(0.05)


def _tf(bag: Bag, topics: Sequence[str], ends: Sequence[str] | None) -> dict[str, Any]:
    """Return what `play` needs to make poses of TF."""
    if ends is None:
        return {}
    image, world, camera = ends
    static = [bag.topics[name] for name in topics if name.endswith("tf_static")]
    return {"poses": PosesFromTf(open_tf(bag, static, Ends(world, camera)), world), "image": image}


def playable(bag: Bag) -> list[RecordedTopic]:
    """Return the topics that have messages of types which are installed."""
    found = []
    for topic in bag.topics.values():
        try:
            message_class(topic.type)
        except BagError:
            continue
        if topic.count:
            found.append(topic)
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line. Exits with status 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m elvsm_ros.recordings.bag_player", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("bag", help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag")
    parser.add_argument("--topics", nargs="+", help="topics to play (all)")
    parser.add_argument("--rate", type=positive, default=1.0, help="times real time (1)")
    parser.add_argument("--seconds", type=positive, help="how much of the recording (all)")
    parser.add_argument(
        "--listeners",
        nargs="+",
        default=[],
        metavar="TOPIC=N",
        help="begin when these topics have N listeners",
    )
    parser.add_argument(
        "--wait", type=float, default=30.0, help="seconds that listeners are given to appear (30)"
    )
    parser.add_argument(
        "--poses-from-tf",
        nargs=3,
        metavar=("IMAGE_TOPIC", "WORLD_FRAME", "CAMERA_FRAME"),
        help=f"publish the camera's poses at the stamps of these images on {POSE_TOPIC}, made of TF",
    )
    options = parser.parse_args(arguments)
    for text in options.listeners:
        if not text.partition("=")[2].isdecimal():
            parser.error(f"--listeners takes TOPIC=N, got {text}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Play until the end, SIGINT or SIGTERM: status 0. Status 2 for a bag that cannot be played."""
    options = parse(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from elvsm_ros.rclpy_support import LEAVE, leaving

    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("elvsm_bag_player", enable_rosout=False, start_parameter_services=False)
    try:
        with Bag(options.bag) as bag:
            topics = options.topics or [topic.name for topic in playable(bag)]
            listeners = {name: int(count) for name, _, count in (t.partition("=") for t in options.listeners)}
            missing = [name for name in topics if name not in bag.topics]
            missing += [name for name in listeners if name not in (*topics, POSE_TOPIC)]
            if missing:
                raise BagError(
                    f"{bag.path} has no topic {missing[0]} to play; it has {', '.join(bag.topics)}"
                )
            begin = time.monotonic()
            count = play(
                node,
                bag,
                topics,
                stop,
                rate=options.rate,
                listeners=listeners,
                wait=options.wait,
                seconds=options.seconds,
                **_tf(bag, topics, options.poses_from_tf),
            )
            print(
                f"played {count} messages on {len(topics)} topics in {time.monotonic() - begin:.1f} s",
                flush=True,
            )
    except (BagError, TimeoutError) as error:
        print(f"bag_player: {error}", file=sys.stderr)
        return 2
    finally:
        with leaving(LEAVE):
            node.destroy_node()
            rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
