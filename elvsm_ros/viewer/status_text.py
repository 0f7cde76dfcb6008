"""What a page says of the node, as Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from elvsm.msg import Status


def state(name: str, connected: bool, status: Status | None) -> str:
    """Say whether the node is there and what it does."""
    if not connected:
        return f"**{name} does not answer.** Waiting for it: this page goes on when it is back."
    if status is None:
        return f"**{name}** is starting."
    what = "paused" if status.paused else "watching"
    return f"**{name}** is {what}: model {status.model} on {status.device}"


def numbers(
    shown: tuple[float, float, float, int] | None,
    rate: float,
    complaint: str,
    status: Status | None,
    news: str = "",
    memory: Sequence[tuple[str, str]] = (),
) -> str:
    """Tabulate pictures and scene.

    shown: round trip and time inside the node (ms), support, views used of the newest picture. rate: pictures per
    second. complaint: why there is none, or empty. news: what went wrong in the node just now, or empty.
    memory: names and amounts.
    """
    rows = []
    if shown is not None:
        round_trip, inside, support, views = shown
        rows.append(("picture", f"{round_trip:.0f} ms, {inside:.0f} of them in the node"))
        rows.append(("pictures per second", f"{rate:.1f}"))
        rows.append(("seen by keyframes", f"{100 * support:.0f} %, {views} used"))
    if status is not None:
        rows.append(("keyframes", f"{status.keyframes}, {status.capacity} fit on the device"))
        rows.append(("inserted / forgotten", f"{status.keyframes_inserted} / {status.keyframes_evicted}"))
        rows.append(
            ("images", f"{status.images_received}, {status.images_dropped + status.images_rejected} lost")
        )
        if not math.isnan(status.insert_ms_p50):
            rows.append(("insertion", f"{status.insert_ms_p50:.0f} ms"))
        rows.append(("queue", f"{status.queue_length}"))
    rows += memory
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
    if complaint:
        table += f"\n\n**No new picture:** {complaint}"
    if news and news != complaint:
        table += f"\n\n**The node says:** {textwrap.shorten(news, 220)}"
    return table
