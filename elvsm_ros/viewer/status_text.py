"""What a page says of the node, as HTML. Every text from outside goes through `plain`, here and nowhere else."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from html import escape

from elvsm.msg import Status

LONGEST = 400
"""Characters of a text from outside."""
MARGINS = "margin: 0.3em 1em; overflow-wrap: anywhere"


def plain(text: str, limit: int = LONGEST) -> str:
    """Return a text from outside as HTML in which nothing is markup; what cannot be seen is left out."""
    seen = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * limit])
    return escape(textwrap.shorten(seen, limit, placeholder=" …"))


def state(name: str, connected: bool, status: Status | None) -> str:
    """Say whether the node is there and what it does."""
    if not connected:
        return _paragraph(
            f"<b>{plain(name)} does not answer.</b> Waiting for it: this page continues when it is back."
        )
    if status is None:
        return _paragraph(f"<b>{plain(name)}</b> is starting.")
    what = "paused" if status.paused else "watching"
    return _paragraph(
        f"<b>{plain(name)}</b> is {what}: model {plain(status.model, 80)} on {plain(status.device, 80)}"
    )


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
    cells = "".join(
        f'<tr><td style="padding-right: 1em">{plain(name, 80)}</td><td>{plain(value, 80)}</td></tr>'
        for name, value in rows
    )
    table = f'<table style="{MARGINS}; font-size: 0.85em"><tbody>{cells}</tbody></table>'
    if complaint:
        table += _paragraph(f"<b>No new picture:</b> {plain(complaint)}")
    if news and news != complaint:
        table += _paragraph(f"<b>The node says:</b> {plain(news, 220)}")
    return table


def _paragraph(html: str) -> str:
    return f'<p style="{MARGINS}; font-size: 0.85em">{html}</p>'
