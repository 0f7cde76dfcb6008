"""Charts as SVG for reports. Colours come from the page's CSS, so that they follow light and dark."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Series:
    """A line or a cloud of points: css class, name, x and y values. Points with NaN in y are left out."""

    css: str
    name: str
    x: Sequence[float]
    y: Sequence[float]
    line: bool = True


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers that span low to high, about `count` of them."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / count))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if span / (step * m) <= count)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)  # equal values still need an axis
    return [round(k * step, 10) for k in range(first, last + 1)]


def chart(
    series: Sequence[Series], x_name: str, y_name: str, zero: bool = False, size: tuple[int, int] = (640, 250)
) -> str:
    """Draw series over a common x axis as an SVG.

    zero: the y axis starts at 0. size: (width, height) of the drawing, which scales with the page. Each point
    carries data-index, its place in its series, so that a page can link it to something.
    """
    width, height = size
    left, right, top, bottom = 46, 14, 26, 36
    x_values = [v for s in series for v in s.x]
    y_values = [v for s in series for v in s.y if math.isfinite(v)]
    if not y_values:
        return ""
    y_ticks = ticks(0 if zero else min(y_values), max(y_values))
    x_low, x_high = min(x_values), max(max(x_values), min(x_values) + 1e-9)
    x_ticks = [t for t in ticks(x_low, x_high, 8) if x_low <= t <= x_high]

    def at(x: float, y: float) -> tuple[float, float]:
        u = left + (x - x_low) / (x_high - x_low) * (width - left - right)
        v = height - bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (height - top - bottom)
        return round(u, 1), round(v, 1)

    out = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_name)}">']
    for t in y_ticks:
        _, v = at(x_low, t)
        out.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{v}" y2="{v}"/>')
        out.append(f'<text class="tick" x="{left - 8}" y="{v + 4}" text-anchor="end">{t:g}</text>')
    for t in x_ticks:
        u, _ = at(t, y_ticks[0])
        out.append(f'<text class="tick" x="{u}" y="{height - bottom + 17}" text-anchor="middle">{t:g}</text>')
    out.append(f'<text class="axis" x="{left}" y="14">{escape(y_name)}</text>')
    out.append(
        f'<text class="axis" x="{width - right}" y="{height - 4}" text-anchor="end">{escape(x_name)}</text>'
    )
    for s in series:
        placed = [(k, *at(x, y)) for k, (x, y) in enumerate(zip(s.x, s.y, strict=True)) if math.isfinite(y)]
        if s.line:
            line = " ".join(f"{u},{v}" for _, u, v in placed)
            out.append(f'<polyline class="{s.css}" points="{line}"/>')
        out += [f'<circle class="{s.css}" data-index="{k}" cx="{u}" cy="{v}" r="3.2"/>' for k, u, v in placed]
    out.append("</svg>")
    return "".join(out)


def from_above(T_world_cam: Points) -> tuple[Points, Points, Points]:
    """Return up, and the two axes [3] of a plane seen from above: a path is longest along the first.

    T_world_cam [n, 4, 4], the path. Up is the world axis that the cameras' own up is closest to, or the mean of
    that itself when it is close to none.
    """
    up = -T_world_cam[:, :3, 1].mean(0)
    up = up / (np.linalg.norm(up) or 1.0)
    axis = int(np.abs(up).argmax())
    if abs(up[axis]) > math.cos(math.radians(40)) or not up.any():
        sign = -1.0 if up[axis] < 0 else 1.0
        up = sign * np.eye(3)[axis]
    centres = T_world_cam[:, :3, 3] - T_world_cam[:, :3, 3].mean(0)
    flat = centres - np.outer(centres @ up, up)
    along = np.linalg.svd(flat, full_matrices=False)[2][0] if len(flat) > 1 and flat.any() else np.zeros(3)
    along = along - (along @ up) * up
    if np.linalg.norm(along) < 1e-9:
        along = np.eye(3)[(axis + 1) % 3]
    along = along / np.linalg.norm(along)
    return up, along, np.cross(up, along)


def map_from_above(path: Points, keyframes: Points, held_out: Points, width: int = 640) -> str:
    """Draw where a camera went, seen from above: its path, keyframes with their headings, held-out poses.

    All are T_world_cam [n, 4, 4], metres. Held-out poses carry data-index.
    """
    if not len(path):
        return ""
    _, right, ahead = from_above(path)

    def flat(T: Points) -> Points:
        return np.stack([T[:, :3, 3] @ right, -(T[:, :3, 3] @ ahead)], 1) if len(T) else np.zeros((0, 2))

    everything = np.concatenate([flat(T) for T in (path, keyframes, held_out)])
    low, high = everything.min(0), everything.max(0)
    extent = max(float((high - low).max()), 0.5)
    margin = 0.09 * extent
    scale = (
        (width - 4) / (float(high[0] - low[0]) + 2 * margin)
        if high[0] - low[0] > 0.3 * extent
        else width / 2 / extent
    )
    height = round((float(high[1] - low[1]) + 2 * margin) * scale) + 30

    def at(points: Points) -> Points:
        shifted = (points - (low + high) / 2) * scale
        return np.round(shifted + np.array([width / 2, (height - 30) / 2]), 1)

    out = [f'<svg class="map" viewBox="0 0 {width} {height}" role="img" aria-label="camera path from above">']
    line = " ".join(f"{u},{v}" for u, v in at(flat(path)))
    out.append(f'<polyline class="walked" points="{line}"/>')
    for T, (u, v) in zip(keyframes, at(flat(keyframes)), strict=True):
        heading = math.degrees(math.atan2(-(T[:3, 2] @ ahead), T[:3, 2] @ right))
        out.append(
            f'<path class="keyframe" d="M0 0L11 -5.2L11 5.2Z" '
            f'transform="translate({u} {v}) rotate({heading:.0f})"/>'
        )
    for k, (u, v) in enumerate(at(flat(held_out))):
        out.append(f'<circle class="held" data-index="{k}" cx="{u}" cy="{v}" r="4.6"/>')
    metre = next(m for m in (10, 5, 2, 1, 0.5, 0.2, 0.1) if m * scale < width / 3 or m == 0.1)
    out.append(f'<path class="scale" d="M12 {height - 14}v5h{metre * scale:.1f}v-5"/>')
    out.append(f'<text class="tick" x="{18 + metre * scale:.1f}" y="{height - 8}">{metre:g} m</text></svg>')
    return "".join(out)
