"""Pieces of self-contained HTML reports: a page, figures, tables, pictures as data URIs; nothing external."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RGB = NDArray[np.uint8]

STYLE = (Path(__file__).parent / "report.css").read_text()
SCRIPT = (Path(__file__).parent / "report.js").read_text()


@dataclasses.dataclass(frozen=True)
class Figure:
    """A headline figure: the number with its unit, what it is, and a remark. css colours it."""

    value: str
    unit: str
    name: str
    remark: str = ""
    css: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Pictures of one pose side by side: (css class, caption, figure, uint8 RGB) each, and a title."""

    title: str
    pictures: Sequence[tuple[str, str, str, RGB]]


def image_uri(rgb: RGB, quality: int = 92) -> str:
    """Return uint8 RGB [H, W, 3] as a JPEG in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "jpeg", quality=quality, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getbuffer()).decode()}"


def video(path: Path, caption: str) -> str:
    """Return a player with the MP4 file inside."""
    uri = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure class="film"><video controls autoplay muted loop playsinline '
        f'src="data:video/mp4;base64,{uri}"></video><figcaption>{escape(caption)}</figcaption></figure>'
    )


def figures(items: Sequence[Figure]) -> str:
    """Return a row of headline figures."""
    return '<div class="figures">' + "".join(
        f'<div class="figure {escape(f.css)}"><div class="name">{escape(f.name)}</div>'
        f'<div class="value">{escape(f.value)}<span class="unit">{escape(f.unit)}</span></div>'
        f'<div class="remark">{escape(f.remark)}</div></div>'
        for f in items
    ) + "</div>"  # fmt: skip


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names and values."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{cells}</table>'


def section(title: str, *parts: str, lead: str = "") -> str:
    """Return a section with a heading and, above its parts, a sentence about it."""
    words = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<section><h2>{escape(title)}</h2>{words}{''.join(parts)}</section>"


def columns(*parts: str) -> str:
    """Put parts beside each other where there is room."""
    return '<div class="columns">' + "".join(f"<div>{part}</div>" for part in parts) + "</div>"


def panel(title: str, content: str, legend: Sequence[tuple[str, str]] = ()) -> str:
    """Return a framed drawing with a title and a legend of (css class, words)."""
    keys = "".join(
        f'<span class="key"><i class="{escape(css)}"></i>{escape(words)}</span>' for css, words in legend
    )
    return (
        f'<div class="panel"><div class="head"><h3>{escape(title)}</h3><div>{keys}</div></div>{content}</div>'
    )


def viewer(comparisons: Sequence[Comparison]) -> str:
    """Return one comparison at a time, large, with a slider; the script fills it from the gallery's cards.

    Points of charts on the same page that carry data-index choose the comparison of that index.
    """
    return (
        '<div class="panel viewer" hidden><div class="stage"></div><div class="controls">'
        '<button type="button" data-step="-1" aria-label="previous">‹</button>'
        f'<input type="range" min="0" max="{len(comparisons) - 1}" value="0" aria-label="held-out view">'
        '<button type="button" data-step="1" aria-label="next">›</button><output></output></div></div>'
    )


def gallery(comparisons: Sequence[Comparison]) -> str:
    """Return all comparisons as cards."""
    cards = []
    for index, item in enumerate(comparisons):
        pictures = "".join(
            f'<figure class="{escape(css)}"><img alt="{escape(words)}" src="{image_uri(rgb)}">'
            f"<figcaption><span>{escape(words)}</span><b>{escape(figure)}</b></figcaption></figure>"
            for css, words, figure, rgb in item.pictures
        )
        cards.append(
            f'<article class="card" data-index="{index}"><h4>{escape(item.title)}</h4>'
            f'<div class="pictures">{pictures}</div></article>'
        )
    return f'<div class="gallery">{"".join(cards)}</div>'


def page(title: str, subtitle: str, *parts: str, footer: str = "", scripts: Sequence[str] = ()) -> str:
    """Return a complete HTML page. scripts: of its own, besides that of the gallery; no others can run in it."""
    programs = (SCRIPT, *scripts)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()}'"
        for program in programs
    )
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main><header>"
        f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>{''.join(parts)}"
        f"<footer>{escape(footer)}</footer></main>"
        + "".join(f"<script>{program}</script>" for program in programs)
        + "</body></html>\n"
    )
