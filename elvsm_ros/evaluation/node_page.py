"""What the run through the node adds to the report."""

from __future__ import annotations

import math

from elvsm_ros.evaluation.results import OFFLINE, ONLINE, NodeRun

NODE_HEAD = ["PSNR, dB", "node", "here", "difference", "explained", "left"]
NODE_LEAD = (
    "The recording played over DDS into the node. Online: frames asked for when their image had gone by; offline: "
    "when the recording was over. Here: this process. Explained: of the difference, what the keyframes that the node "
    "had make, by rendering from exactly those here."
)
SHOWN = 12
"""Moments that are listed at most."""


def number(value: float | None, digits: int = 2) -> str:
    """Return a figure as text, a dash for what is not known."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def node_rows(run: NodeRun) -> list[list[str]]:
    """Return the lines of the table under NODE_HEAD."""
    rows = []
    for column in (ONLINE, OFFLINE):
        node, here, same = (run.psnr[column][name] for name in ("node", "here", "here_same_keyframes"))
        known = node is not None and here is not None and same is not None
        differences = [node - here, same - here, node - same] if known else [None] * 3
        rows.append([column, number(node), number(here), *(number(value) for value in differences)])
    return rows


def node_facts(run: NodeRun) -> list[tuple[str, str]]:
    """Return what else there is to say about the run through the node."""
    c, latency = run.counts, run.latency_ms
    rows = [
        ("played", f"{c['played']} images at {run.rate:g} × real time"),
        (
            "the node's images",
            f"{c['received']} received, {c['dropped']} dropped, {c['rejected']} rejected",
        ),
        ("the node's keyframes", f"{c['keyframes']}, here {c['keyframes_here']}{_which(run)}"),
        (
            "frames asked for while playing",
            f"{c['asked']}, {c['too_late']} left out because the node was behind; "
            f"{c['overtaken']} answered with a keyframe more than when they were asked for",
        ),
        ("frames asked for afterwards", str(c["compared"])),
    ]
    for name, words in (
        ("round_trip", "request and answer"),
        ("in_the_node", "of that in the node"),
        ("image_to_keyframe", "from the image to its keyframe"),
    ):
        if f"{name}_p50" in latency:
            times = f"{latency[f'{name}_p50']:.0f} / {latency[f'{name}_p95']:.0f} ms"
            rows.append((f"{words}, median / 95 %", times))
    return rows


def _which(run: NodeRun) -> str:
    if not run.missing and not run.extra:
        return ", the same ones"
    parts = []
    for words, times in (("missing", run.missing), ("instead", run.extra)):
        if times:
            listed = ", ".join(f"{t:.1f}" for t in times[:SHOWN]) + (", …" if len(times) > SHOWN else "")
            parts.append(f"{words} those at {listed} s")
    return "; " + "; ".join(parts)
