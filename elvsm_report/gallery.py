"""The gallery of an evaluation: scenes as cards, in pages, sorted by any metric, enlarged by a click.

Everything is in one HTML file: pictures and videos as data URIs in a block of JSON, which the page's script shows a few
at a time.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .charts import Series, chart
from .page import RGB, Figure, columns, figures, image_uri, page, panel, section, table

STYLE = (Path(__file__).parent / "gallery.css").read_text()
SCRIPT = (Path(__file__).parent / "gallery.js").read_text()
DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4}
UNITS = {"psnr": "dB"}
LOWER_IS_BETTER = ("lpips",)
POINTS = 200
"""Points of a curve over all scenes, however many there are."""


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A held-out view: its name, what was there and what was rendered (uint8 RGB), and its metrics."""

    name: str
    truth: RGB
    render: RGB
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Card:
    """A scene with pictures. inputs: (name, uint8 RGB) each. video: an MP4 file's bytes, None where there is none."""

    scene: str
    means: Mapping[str, float]
    inputs: Sequence[tuple[str, RGB]]
    targets: Sequence[Target]
    video: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the card as the page's script reads it."""
        uri = None
        if self.video is not None:
            uri = f"data:video/mp4;base64,{base64.b64encode(self.video).decode()}"
        return {
            "scene": self.scene,
            "means": dict(self.means),
            "inputs": [{"name": name, "picture": image_uri(rgb)} for name, rgb in self.inputs],
            "targets": [
                {
                    "name": t.name,
                    "truth": image_uri(t.truth),
                    "render": image_uri(t.render),
                    "metrics": dict(t.metrics),
                }
                for t in self.targets
            ],
            "video": uri,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """A whole evaluation.

    means: over all scenes, in the order in which metrics are shown. scenes: (name, metrics) of every scene, also of
    those without a card. failed: scene -> reason. facts: what else is to be known, (name, value) each.
    """

    title: str
    means: Mapping[str, float]
    scenes: Sequence[tuple[str, Mapping[str, float]]]
    cards: Sequence[Card]
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()


def number(metric: str, value: float) -> str:
    """Return a metric as text, with as many digits as are usual."""
    return f"{value:.{DIGITS.get(metric, 3)}f}"


def gallery_page(gallery: Gallery) -> str:
    """Return the report as one HTML page without external resources."""
    words = f"{len(gallery.scenes)} scenes, {len(gallery.cards)} of them with pictures"
    parts = [
        figures([_figure(name, value) for name, value in gallery.means.items()]),
        section("Over all scenes", columns(*_curves(gallery)), lead="Scenes in the order of each metric."),
        section(
            "Scenes", '<div id="cards"></div>',
            lead="A picture that is clicked is enlarged; the space bar then changes between truth and render, ← and → "
            "go to the views beside it.",
        ) if gallery.cards else "",
        section("All scenes", '<div id="table"></div>'),
        section("Scenes without a result", table(sorted(gallery.failed.items()))) if gallery.failed else "",
        section("This evaluation", table(gallery.facts)) if gallery.facts else "",
        f'<script type="application/json" id="data">{_data(gallery)}</script>',
        f"<style>{STYLE}</style>",
    ]  # fmt: skip
    footer = "elvsm. PSNR and SSIM: higher is better. LPIPS: lower is better."
    return page(gallery.title, words, *parts, footer=footer, scripts=[SCRIPT])


def _figure(name: str, value: float) -> Figure:
    remark = "lower is better" if name in LOWER_IS_BETTER else "higher is better"
    return Figure(number(name, value), UNITS.get(name, ""), name.upper(), f"mean over scenes, {remark}")


def _curves(gallery: Gallery) -> list[str]:
    drawn = []
    for name in gallery.means:
        values = np.sort([metrics[name] for _, metrics in gallery.scenes])
        share = np.linspace(0, 1, min(len(values), POINTS))
        heights = np.quantile(values, share)
        unit = f", {UNITS[name]}" if name in UNITS else ""
        series = Series("render", name, (100 * share).tolist(), heights.tolist())
        drawn.append(panel(name.upper(), chart([series], "% of scenes", f"{name.upper()}{unit}")))
    return drawn


def _data(gallery: Gallery) -> str:
    """Return the script's data; no text in it can end the block that holds it."""
    content = {
        "metrics": list(gallery.means),
        "digits": {name: DIGITS.get(name, 3) for name in gallery.means},
        "lower": [name for name in gallery.means if name in LOWER_IS_BETTER],
        "cards": [card.to_json() for card in gallery.cards],
        "scenes": [[name, *(metrics[m] for m in gallery.means)] for name, metrics in gallery.scenes],
    }
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def incremental_page(
    rows: Sequence[Mapping[str, Any]], failed: Mapping[str, str], facts: Sequence[tuple[str, str]]
) -> str:
    """Return what every further view is worth as one HTML page.

    rows: by number of views; "views", "scenes", "metrics" (name -> mean), "encode_ms", "render_ms".
    """
    views = [float(row["views"]) for row in rows]
    names = list(rows[0]["metrics"])
    drawn = [
        panel(
            name.upper(),
            chart([Series("render", name, views, [row["metrics"][name] for row in rows])], "views", name.upper()),
        )
        for name in names
    ]  # fmt: skip
    times = [
        Series("nearest", "encode", views, [row["encode_ms"] for row in rows]),
        Series("render", "render", views, [row["render_ms"] for row in rows]),
    ]
    legend = (("nearest", "encode the added view"), ("render", "render all targets"))
    drawn.append(panel("Latency, median", chart(times, "views", "ms", zero=True), legend))
    head = ["views", "scenes", *(name.upper() for name in names), "encode, ms", "render, ms"]
    cells = [
        [
            str(row["views"]), str(row["scenes"]), *(number(name, row["metrics"][name]) for name in names),
            f"{row['encode_ms']:.1f}", f"{row['render_ms']:.1f}",
        ]
        for row in rows
    ]  # fmt: skip
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in cells]
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    numbers = (
        f"<table><thead><tr>{titles}</tr></thead><tbody><tr>{'</tr><tr>'.join(lines)}</tr></tbody></table>"
    )
    parts = [
        section("After each added view", columns(*drawn[::2]) + columns(*drawn[1::2])),
        section("Figures", f'<div class="numbers">{numbers}</div>'),
        section("Scenes without a result", table(sorted(failed.items()))) if failed else "",
        section("This evaluation", table(facts)) if facts else "",
        f"<style>{STYLE}</style>",
    ]
    words = "Views are added one by one to the cache of keys and values; all targets are rendered after each."
    return page("What another view is worth", words, *parts)
