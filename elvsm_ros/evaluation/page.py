"""The evaluation's report: a page, and the table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from elvsm_core.files.atomic import write_text
from elvsm_report import charts
from elvsm_report import page as report
from elvsm_ros.conversions import RGB
from elvsm_ros.evaluation.node_page import NODE_HEAD, NODE_LEAD, node_facts, node_rows, number
from elvsm_ros.evaluation.results import (
    METHODS,
    NEAREST,
    OFFLINE,
    ONLINE,
    RENDER,
    ROTATION,
    WORDS,
    EvaluationResults,
    HeldOutFrame,
)
from elvsm_ros.tools import image_grid

FOLDER = Path(__file__).parent
SHOWN = 6
"""How many of the worst frames are shown, and of the best."""
FOOTER = (
    "elvsm: Efficient-LVSM as a ROS 2 node. Everything is measured against the recorded frame, cropped and resized to "
    "the model's size."
)
INTRODUCTION = (
    "The recording went through the node's own code. Frames that did not become keyframes were rendered: online from "
    "the keyframes that there were before each of them, offline from all keyframes at the end."
)
LEGEND = (
    ("render", "render"),
    ("nearest", "nearest keyframe"),
    ("rotation", "nearest keyframe, rotated"),
)


def summary_rows(results: EvaluationResults) -> list[list[str]]:
    """Return the lines of the table of means: what, then PSNR, SSIM and LPIPS online and offline."""
    summary = results.summary()
    rows = []
    for method in METHODS:
        row = [WORDS[method]]
        for column in (ONLINE, OFFLINE):
            means: dict[str, float | None] = summary.get(column, {}).get(method, {})
            row += [number(means.get("psnr")), number(means.get("ssim"), 3), number(means.get("lpips"), 3)]
        rows.append(row)
    return rows


SUMMARY_HEAD = ["", *(f"{m} {c}" for c in (ONLINE, OFFLINE) for m in ("PSNR", "SSIM", "LPIPS"))]
"""PSNR is in dB; a dash stands for a metric that could not be computed."""


def facts(results: EvaluationResults) -> list[tuple[str, str]]:
    """Return what else there is to say about a run: counts, times, settings."""
    f, counts, timing = results.facts, results.counts, results.timing
    topics = ", ".join(f["topics"].values())
    rows = [
        ("recording", f"{f['bag']}: {f['duration']:.1f} s, {topics}"),
        ("model", f"{f['model']} on {f['device']}, {f['image_size'][1]}×{f['image_size'][0]}"),
        (
            "keyframes",
            f"{counts['keyframes']} of {counts['images']} images ({f['keyframe_distance']:g} m or "
            f"{f['keyframe_angle']:g}° apart), {counts['keyframes_evicted']} evicted",
        ),
        *_steps(results.keyframe_steps),
        ("held-out frames", f"{counts['held_out_rendered']} rendered of {counts['held_out']}"),
        ("images without pose or camera", str(counts["images_without_pose_or_camera"])),
        ("max_views", str(f["max_views"])),
    ]
    for name, words in (("insert_ms", "insertion of a keyframe"), ("render_ms", "render")):
        if f"{name}_p50" in timing:
            rows.append(
                (f"{words}, median / 95 %", f"{timing[f'{name}_p50']:.0f} / {timing[f'{name}_p95']:.0f} ms")
            )
    rows.append(("peak memory", f"{timing['peak_memory_bytes'] / 2**20:.0f} MiB"))
    if "peak_device_memory_bytes" in timing:
        rows.append(("peak memory of the device", f"{timing['peak_device_memory_bytes'] / 2**20:.0f} MiB"))
    taken_over = f", {timing['taken_over']:.0f} renders from a run before it" if timing["taken_over"] else ""
    rows.append(("time taken", f"{timing['seconds']:.0f} s{taken_over}"))
    return rows


def _steps(steps: dict[str, float]) -> list[tuple[str, str]]:
    if not steps:
        return []
    median, largest = (
        f"{steps[f'metres_{p}']:.2f} m, {steps[f'degrees_{p}']:.0f}°, {steps[f'seconds_{p}']:.1f} s"
        for p in ("p50", "max")
    )
    return [("from one keyframe to the next", f"median {median}; at most {largest}")]


def write_page(path: Path, results: EvaluationResults, video: Path | None) -> None:
    """Write the report as one HTML file without external resources."""
    views = results.views
    parts = [f"<style>{(FOLDER / 'page.css').read_text()}</style>"]
    if views:
        parts.append(report.figures(_figures(results)))
    problems = ([f"Not complete: {results.incomplete}"] if results.incomplete else []) + results.warnings
    if problems:
        parts.append(f'<ul class="warnings">{"".join(f"<li>{escape(text)}</li>" for text in problems)}</ul>')
    if views:
        parts.append(
            report.section("Means over the held-out frames", _table(SUMMARY_HEAD, summary_rows(results)))
        )
        if video is not None:
            caption = "Ground truth, online render, nearest keyframe."
            parts.append(report.section("Side by side", report.video(video, caption)))
        parts.append(report.section("Where, and how well", _charts(results)))
        ranked = sorted(views, key=lambda view: view.psnr(RENDER))
        worst, best = ranked[:SHOWN], ranked[: -SHOWN - 1 : -1]
        for title, chosen in (("Worst frames", worst), ("Best frames", best)):
            gallery = report.gallery([_comparison(view) for view in chosen])
            parts.append(report.section(title, f'<div class="wide">{gallery}</div>'))
        parts.append(
            report.section("Quality by circumstances", _depends(results), lead="Mean online PSNR, dB.")
        )
    if results.sweep():
        rows = [[str(r["max_views"]), number(r["psnr"])] for r in results.sweep()]
        table = _table(["max_views", "PSNR online"], rows)
        parts.append(report.section("Views per render", report.columns(table, _sweep_chart(results))))
    if results.pose_noise:
        noise = [
            [f"{r['centimetres']:g}", f"{r['degrees']:g}", number(r["psnr"])] for r in results.pose_noise
        ]
        lead = "Every keyframe displaced and turned by so much, in a direction of its own; targets exact; offline."
        parts.append(
            report.section("Noisy poses", _table(["centimetres", "degrees", "PSNR"], noise), lead=lead)
        )
    if results.through_node is not None:
        run = results.through_node
        table = _table(NODE_HEAD, node_rows(run)) + report.table(node_facts(run))
        parts.append(report.section("Through the node", table, lead=NODE_LEAD))
    parts.append(report.section("This run", report.table(facts(results))))
    if views:
        parts.append(report.section("All held-out frames", _all(views), lead="Click a heading to sort."))
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    title = f"How well {results.facts['bag']} is rendered"
    write_text(path, report.page(title, INTRODUCTION, *parts, footer=FOOTER, scripts=[script]))


def pictures(results: EvaluationResults, height: int = 256) -> Iterator[RGB]:
    """Yield the frames of the side-by-side video: truth, online render, nearest keyframe."""
    for view in results.views:
        yield image_grid.row(
            (view.truth, view.pictures[ONLINE, RENDER], view.pictures[ONLINE, NEAREST]),
            (
                ("ground truth", f"{view.time:.1f} s"),
                ("render", f"{view.psnr(RENDER):.1f} dB"),
                ("nearest keyframe", f"{view.psnr(NEAREST):.1f} dB"),
            ),
            height,
        )


def _figures(results: EvaluationResults) -> list[report.Figure]:
    summary: dict[str, Any] = results.summary()
    online, offline = summary[ONLINE], summary.get(OFFLINE)
    psnr = {method: online[method]["psnr"] for method in METHODS}
    wins = sum(view.psnr(RENDER) > view.psnr(NEAREST) for view in results.views)
    items = [
        report.Figure(
            f"{psnr[RENDER]:.1f}", "dB", "Render, online", "PSNR, from what was seen before", "render"
        ),
        report.Figure(f"{psnr[NEAREST]:.1f}", "dB", "Nearest keyframe", "PSNR of copying it", "nearest"),
        report.Figure(
            f"{psnr[ROTATION]:.1f}",
            "dB",
            "Nearest, rotated",
            "warped by the rotation between the two",
            "rotation",
        ),
        report.Figure(
            f"{psnr[RENDER] - psnr[NEAREST]:+.1f}",
            "dB",
            "Gain",
            f"{wins} of {len(results.views)} renders win",
        ),
    ]
    if offline is not None:
        figure = number(offline[RENDER]["psnr"], 1)
        items.insert(1, report.Figure(figure, "dB", "Render, offline", "from everything", "offline"))
    latency = results.timing.get("render_ms_p50")
    if latency is not None:
        items.append(report.Figure(f"{latency:.0f}", "ms", "Render, median", results.facts["device"]))
    return items


def _charts(results: EvaluationResults) -> str:
    views = results.views
    poses = np.stack([view.camera.T_world_cam for view in views])
    above = charts.map_from_above(results.path, results.keyframes, poses)

    def against(x: Sequence[float], name: str, line: bool = False, methods: Sequence[str] = METHODS) -> str:
        series = [charts.Series(m, WORDS[m], x, [view.psnr(m) for view in views], line) for m in methods]
        return charts.chart(series, name, "PSNR, dB")

    circumstances = (
        ("Time since the last keyframe", [v.since for v in views], "seconds"),
        ("Distance to the nearest keyframe", [v.distance for v in views], "metres"),
        ("Angle to the nearest keyframe", [v.angle for v in views], "degrees"),
        ("Number of keyframes", [float(v.keyframes) for v in views], "keyframes"),
    )
    offline = charts.Series(
        "offline", "offline", [v.time for v in views], [v.psnr(RENDER, OFFLINE) for v in views]
    )
    online = charts.Series("render", "online", [v.time for v in views], [v.psnr(RENDER) for v in views])
    small = [report.panel(t, against(x, name), LEGEND) for t, x, name in circumstances]
    times = [v.time for v in views]
    since = "seconds since the recording began"
    return (
        report.columns(
            report.panel(
                "The path from above",
                above,
                (("walked", "path"), ("keyframe", "keyframe"), ("held", "held-out frame")),
            ),
            report.panel("Quality along the path, online", against(times, since, True), LEGEND)
            + report.panel(
                "What is seen later helps",
                charts.chart((online, offline), since, "PSNR, dB"),
                (("render", "online"), ("offline", "offline")),
            ),
        )
        + report.columns(*small[:2])
        + report.columns(*small[2:])
    )


def _sweep_chart(results: EvaluationResults) -> str:
    rows = results.sweep()
    series = charts.Series("render", "online", [r["max_views"] for r in rows], [r["psnr"] for r in rows])
    return report.panel("Quality by max_views", charts.chart((series,), "max_views", "PSNR, dB"))


def _comparison(view: HeldOutFrame) -> report.Comparison:
    shown = [
        ("render", "render, online", ONLINE, RENDER),
        ("offline", "render, offline", OFFLINE, RENDER),
        ("nearest", "nearest keyframe", ONLINE, NEAREST),
        ("rotation", "nearest, rotated", ONLINE, ROTATION),
    ]
    images = [
        (css, words, f"{view.psnr(method, column):.1f} dB", view.pictures[column, method])
        for css, words, column, method in shown
        if (column, method) in view.pictures
    ]
    return report.Comparison(
        f"frame {view.index} · {view.time:.1f} s · {100 * view.distance:.0f} cm and {view.angle:.0f}° from the "
        f"nearest of {view.keyframes}",
        (("truth", "ground truth", "", view.truth), *images),
    )


def _depends(results: EvaluationResults) -> str:
    names = {
        "seconds_since_keyframe": "seconds since the last keyframe",
        "metres_to_nearest": "metres to the nearest keyframe",
        "degrees_to_nearest": "degrees to the nearest keyframe",
        "keyframes": "keyframes",
    }
    tables = []
    for key, ranges in results.depends().items():
        rows = [
            [
                f"{r['from']:g} – {r['to']:g}" if r["to"] is not None else f"{r['from']:g} –",
                str(r["frames"]),
                *(number(r[method]) for method in METHODS),
            ]
            for r in ranges
        ]
        tables.append(_table([names[key], "frames", "render", "nearest", "rotated"], rows))
    return report.columns(*tables[:2]) + report.columns(*tables[2:])


def _all(views: Sequence[HeldOutFrame]) -> str:
    head = ["frame", "time, s", "since, s", "distance, m", "angle, °", "keyframes", "support", "render, ms"]
    head += ["online", "offline", "nearest", "rotated", "SSIM online", "LPIPS online"]
    rows = []
    for v in views:
        quality = v.quality[ONLINE, RENDER]
        rows.append(
            [
                str(v.index),
                number(v.time),
                number(v.since),
                number(v.distance, 3),
                number(v.angle, 1),
                str(v.keyframes),
                number(v.support),
                number(v.render_ms, 1),
                number(v.psnr(RENDER)),
                number(v.psnr(RENDER, OFFLINE)),
                number(v.psnr(NEAREST)),
                number(v.psnr(ROTATION)),
                number(quality.ssim, 3),
                number(quality.lpips, 3),
            ]
        )
    return _table(head, rows, sortable=True)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], sortable: bool = False) -> str:
    titles = (f'<button type="button">{escape(t)}</button>' if sortable else escape(t) for t in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    css = "numbers sortable" if sortable else "numbers"
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>'
        f"{''.join(f'<th>{title}</th>' for title in titles)}</tr></thead><tbody>{body}</tbody></table></div>"
    )
