"""The node as a process: from the first line to a punctual end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from elvsm_ros import rclpy_support

if TYPE_CHECKING:
    from elvsm_ros.parameters.table import Settings


class ClosingNode(LifecycleNode):
    """What can be run: a lifecycle node with the setting `autostart` that lets go of its threads in time."""

    settings: Settings

    def close(self, timeout: float) -> None:
        """Stop everything that runs; wait for it at most so many seconds."""
        raise NotImplementedError


def run(make: Callable[[], ClosingNode], args: list[str] | None = None) -> NoReturn:
    """Run a node until SIGINT or SIGTERM, and end the process."""
    status = _run(make, args)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's end: with PyTorch loaded it takes a second, and it waits for a render that
    # is under way, which cannot be interrupted.
    os._exit(status)


def _run(make: Callable[[], ClosingNode], args: list[str] | None) -> int:
    # Without it images of 640x480 and more vanish: the default shared memory segment is too small for them.
    os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    # Read when PyTorch is loaded: its threads must not burn a core while they wait for each other. On two cores
    # with other work to do, that made renders several times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stop_asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):  # no KeyboardInterrupt in the middle of the clean-up
        signal.signal(number, lambda number, frame: stop_asked.append(number))
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.ALL)
        node = make()
    except Exception as error:
        rclpy.try_shutdown()
        if stop_asked:  # in the middle of it
            return 0
        print(f"elvsm_node: {error}", file=sys.stderr)
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    status, good = 0, TransitionCallbackReturn.SUCCESS
    if not node.settings.autostart:
        node.get_logger().info("autostart is off: waiting to be configured and activated (lifecycle)")
    elif not stop_asked:
        started = node.trigger_configure() == good and node.trigger_activate() == good
        status = 0 if started or stop_asked else 1
    if not status:
        rclpy_support.spin(node, executor, lambda: bool(stop_asked))
    with rclpy_support.leaving(1.6):
        node.close(timeout=0.5)
        executor.shutdown(timeout_sec=0.5)
        node.destroy_node()
        rclpy.try_shutdown()
    return status
