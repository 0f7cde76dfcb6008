"""The demo's report and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from elvsm_core.files.atomic import write_text
from elvsm_report import charts
from elvsm_report import page as report
from elvsm_ros.demo.results import DemoResults, HeldOutView, samples
from elvsm_ros.tools import image_grid

TITLE = "What the node had not seen"
INTRODUCTION = (
    "A ROS 2 node watched a camera walk by, kept keyframes, and was asked for views between them. Every render "
    "is the answer to a call of its service ~/render_views."
)
FILM = (
    "Ground truth, render, nearest keyframe. Rendered by the node when the walk was over, from poses that are "
    "no keyframes."
)
HELD_OUT = (
    "Frames of the recording that the node did not keep, each rendered from what it had seen by then: of every "
    "stretch of the walk the frame that is furthest from all keyframes. Click a point, or use ← and →."
)
FOOTER = "elvsm: Efficient-LVSM as a ROS 2 node. PSNR is against the recorded frame, at the model's size."


def rows(results: DemoResults) -> list[tuple[str, str]]:
    """Return the table that ends a run."""
    return [
        ("keyframes", str(len(results.keyframes))),
        ("renders", str(len(results.views))),
        ("PSNR of the render", f"{results.psnr_render:.2f} dB"),
        ("PSNR of copying the nearest keyframe", f"{results.psnr_nearest:.2f} dB"),
        ("renders that beat the copy", f"{results.wins} of {len(results.views)}"),
        ("latency p50", f"{results.latency(50):.0f} ms"),
        ("latency p95", f"{results.latency(95):.0f} ms"),
    ]


def write_page(path: Path, results: DemoResults, film: Path | None, facts: Sequence[tuple[str, str]]) -> None:
    """Write a run's report as one HTML file without external resources. There must be a held-out view."""
    comparisons = [_comparison(view) for view in results.views]
    parts = [
        report.figures(_figures(results)),
        report.section("Along the walk", report.video(film, FILM)) if film is not None else "",
        report.section(
            "Held-out views, rendered while the camera walked",
            report.viewer(comparisons),
            _charts(results),
            lead=HELD_OUT,
        ),
        report.section("All held-out views", report.gallery(comparisons)),
        report.section("This run", report.table(facts)),
    ]
    write_text(path, report.page(TITLE, INTRODUCTION, *parts, footer=FOOTER))


def _figures(results: DemoResults) -> list[report.Figure]:
    height, width = results.views[0].truth.shape[:2]
    size, count = f"PSNR at {width}×{height}", len(results.views)
    slow = f"95 % below {results.latency(95):.0f} ms"
    images = f"kept of {results.images_received} images"
    return [
        report.Figure(f"{results.psnr_render:.1f}", "dB", "Render", size, "render"),
        report.Figure(
            f"{results.psnr_nearest:.1f}", "dB", "Nearest keyframe", "PSNR of copying it", "nearest"
        ),
        report.Figure(f"{results.gain:+.1f}", "dB", "Gain", f"{results.wins} of {count} renders win"),
        report.Figure(str(len(results.keyframes)), "", "Keyframes", images),
        report.Figure(f"{results.latency(50):.0f}", "ms", "Latency, median", slow),
    ]


def _charts(results: DemoResults) -> str:
    views = results.views
    times = [view.time for view in views]
    since = "seconds since the walk began"
    above = charts.map_from_above(results.path, results.keyframes, np.stack([v.T_world_cam for v in views]))
    render = charts.Series("render", "render", times, [v.psnr_render for v in views])
    nearest = charts.Series("nearest", "nearest keyframe", times, [v.psnr_nearest for v in views])
    latency = charts.Series("render", "latency", times, [v.round_trip for v in views])
    return report.columns(
        report.panel(
            "The walk from above",
            above,
            (("walked", "walk"), ("keyframe", "keyframe"), ("held", "held-out view")),
        ),
        report.panel(
            "Quality",
            charts.chart((render, nearest), since, "PSNR, dB"),
            (("render", "render"), ("nearest", "nearest keyframe")),
        )
        + report.panel(
            "Latency of the service",
            charts.chart((latency,), since, "milliseconds from request to answer", zero=True),
        ),
    )


def _comparison(view: HeldOutView) -> report.Comparison:
    return report.Comparison(
        f"{view.time:.1f} s · {100 * view.away:.0f} cm from the nearest of {view.keyframes} · "
        f"{view.round_trip:.0f} ms",
        (
            ("truth", "ground truth", "", view.truth),
            ("render", "render", f"{view.psnr_render:.1f} dB", view.render),
            ("nearest", "nearest keyframe", f"{view.psnr_nearest:.1f} dB", view.nearest),
        ),
    )


def write_picture(path: Path, views: list[HeldOutView], columns: int = 5, side: int = 168) -> None:
    """Write a PNG of a few held-out views: ground truth, render and nearest keyframe below each other."""
    chosen = samples(views, columns)
    rgb = image_grid.table(
        (
            ("ground truth", [v.truth for v in chosen], [""] * len(chosen)),
            ("render", [v.render for v in chosen], [f"{v.psnr_render:.1f} dB" for v in chosen]),
            ("nearest\nkeyframe", [v.nearest for v in chosen], [f"{v.psnr_nearest:.1f} dB" for v in chosen]),
        ),
        side,
    )
    # 256 colours: a third of the size, and hardly a difference to be seen in pictures this soft.
    full = Image.fromarray(rgb)
    palette = full.quantize(256)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    colours[colours.sum(1).argmax()] = 255  # paper is white, not nearly
    palette.putpalette(colours.flatten().tolist())
    picture = full.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
