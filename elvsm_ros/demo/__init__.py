"""The demo: a recording is played into the node, which is asked for views between its keyframes meanwhile."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence


class Interrupted(BaseException):
    """Somebody wants the demo to end: Ctrl-C or SIGTERM."""


_asked: list[str] = []
"""The signal that the demo was asked to end by. C extensions may make another exception of `Interrupted`."""


def _interrupt(number: int, frame: object) -> None:
    # Once is enough: what follows is the way out, which nothing must cut short.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    _asked.append(signal.Signals(number).name)
    raise Interrupted(_asked[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo. Returns the exit status.

    0: renders beat copying the nearest keyframe, or the demo was interrupted. 1: they do not, the node or the
    player died, or a call failed. 2: the command line or the recording cannot be used.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        from elvsm_ros.demo.options import parse

        options = parse(arguments)
        # Everything else is imported where interrupting it is already possible: PyTorch takes seconds.
        from elvsm_ros.demo.run import run

        status = run(options)
    except BaseException:
        if not _asked:
            raise
    if not _asked:
        return status
    print(f"elvsm_demo: ended by {_asked[0]}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's end, which waits for what threads are in the middle of.
    os._exit(0)
