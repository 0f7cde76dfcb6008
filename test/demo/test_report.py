"""The report: one file that needs nothing else, with the figures that were measured."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recordings import picture, pose

from elvsm_report import charts
from elvsm_report import page as report
from elvsm_report.video import write_video
from elvsm_ros.demo.page import rows, write_page, write_picture
from elvsm_ros.demo.results import DemoResults, HeldOutView, samples

pytestmark = pytest.mark.slow


def held_out(k: int, render: float = 21.0, nearest: float = 17.0) -> HeldOutView:
    images = [picture(k + shift) for shift in (0, 1, 9)]
    return HeldOutView(1.5 * k, pose(k), *images, render, nearest, 100.0 + k, 95.0, 0.9, 2 * k + 1, 4, 0.12)


@pytest.fixture
def results() -> DemoResults:
    path = np.stack([pose(k / 2) for k in range(40)])
    return DemoResults([held_out(k, render=20 + k) for k in range(6)], path[::4], path, 40, 0)


@pytest.fixture
def page(results: DemoResults, tmp_path: Path) -> str:
    film = tmp_path / "film.mp4"
    assert write_video(film, [picture(k) for k in range(4)], 10) == 4
    write_page(tmp_path / "index.html", results, film, [("model", "<demo> & co")])
    return (tmp_path / "index.html").read_text()


class Elements(HTMLParser):
    """Collect what a page consists of, and check that elements are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def values(self, *names: str) -> list[str]:
        return [
            value or "" for _, attributes in self.found for name, value in attributes.items() if name in names
        ]


def test_nothing_comes_from_elsewhere(page: str) -> None:
    sources = Elements(page).values("src", "href", "srcset", "action", "data", "poster")
    assert len(sources) >= 6 * 3 + 1
    assert all(source.startswith("data:") for source in sources)
    without_data = re.sub(r"data:[^\"]*", "", page)
    for forbidden in ("http:", "https:", "//cdn", "url(", "@import", "fetch(", "import("):
        assert forbidden not in without_data


def test_the_pictures_are_there(page: str) -> None:
    images = [a["src"] for tag, a in Elements(page).found if tag == "img"]
    assert len(images) == 6 * 3
    for index, uri in enumerate(images):
        assert uri is not None and uri.startswith("data:image/jpeg;base64,")
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        expected = picture(index // 3 + (0, 1, 9)[index % 3])
        assert np.abs(decoded.astype(int) - expected).mean() < 4


def test_the_video_is_inside(page: str, tmp_path: Path) -> None:
    (uri,) = (a["src"] for tag, a in Elements(page).found if tag == "video")
    assert uri is not None
    assert (
        base64.b64decode(uri.removeprefix("data:video/mp4;base64,")) == (tmp_path / "film.mp4").read_bytes()
    )


def test_the_figures_are_those_measured(page: str, results: DemoResults) -> None:
    words = re.sub(r"<[^>]*>", " ", page)
    assert "22.5" in words  # mean of 20 ... 25
    assert "17.0" in words
    assert "+5.5" in words
    assert dict(rows(results))["PSNR of the render"] == "22.50 dB"
    assert dict(rows(results))["renders that beat the copy"] == "6 of 6"
    assert dict(rows(results))["latency p95"] == "105 ms"  # of 100 ... 105


def test_text_is_escaped(page: str) -> None:
    assert "&lt;demo&gt; &amp; co" in page
    assert "<demo>" not in page


def test_points_and_cards_carry_the_same_numbers(page: str) -> None:
    indices = Elements(page).values("data-index")
    # A card, a point on the map, one of each of the two lines of quality, one of latency.
    assert {indices.count(str(k)) for k in range(6)} == {5}
    assert len(indices) == 30


def test_a_run_is_judged(results: DemoResults) -> None:
    assert results.verdict() is None
    worse = DemoResults([held_out(k, render=16.9) for k in range(3)], results.keyframes, results.path, 40, 0)
    assert "no better than copying" in (worse.verdict() or "")
    empty = DemoResults([], results.keyframes, results.path, 40, 0)
    assert "no held-out view" in (empty.verdict() or "")


def test_samples_are_spread_and_typical() -> None:
    views = [held_out(k, render=20 + (5 if k % 3 == 0 else k % 3)) for k in range(9)]
    chosen = samples(views, 3)
    assert [v.psnr_render for v in chosen] == [22.0, 22.0, 22.0]  # of 25, 21 and 22 the median
    assert [round(v.time / 1.5) for v in chosen] == [2, 5, 8]
    assert len(samples(views[:2], 5)) == 2


def test_the_picture_is_small(results: DemoResults, tmp_path: Path) -> None:
    write_picture(tmp_path / "docs" / "demo.png", results.views)
    with Image.open(tmp_path / "docs" / "demo.png") as png:
        assert png.width > png.height > 3 * 150
    assert (tmp_path / "docs" / "demo.png").stat().st_size < 400_000


@pytest.mark.parametrize("up", [(0, 0, 1), (0, -1, 0), (1, 0, 0)])
def test_from_above_is_against_the_cameras_up(up: tuple[int, int, int]) -> None:
    """Cameras look around level, slightly downwards, while they go to and fro along one line."""
    up_axis = np.array(up, dtype=float)
    ahead = np.roll(up_axis, 1)
    poses = []
    for k in range(24):
        angle = 2 * np.pi * k / 24
        forward = np.cos(angle) * ahead + np.sin(angle) * np.cross(up_axis, ahead) - 0.2 * up_axis
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, up_axis)
        right /= np.linalg.norm(right)
        T = np.eye(4)
        T[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
        T[:3, 3] = (k % 7) * ahead + 0.1 * (k % 3) * up_axis
        poses.append(T)
    found, along, across = charts.from_above(np.stack(poses))
    np.testing.assert_allclose(found, up_axis, atol=1e-9)
    np.testing.assert_allclose(np.abs(along @ ahead), 1, atol=1e-3)
    np.testing.assert_allclose(np.cross(along, across), up_axis, atol=1e-6)  # no mirror image


def test_a_map_of_a_camera_that_stood_still() -> None:
    still = np.stack([np.eye(4)] * 3)
    svg = charts.map_from_above(still, still[:1], still[1:2])
    Elements(svg)
    assert "nan" not in svg.lower()


def test_charts_leave_out_what_is_not_a_number() -> None:
    svg = charts.chart((charts.Series("render", "a", [0, 1, 2], [1.0, float("nan"), 3.0]),), "x", "y")
    assert Elements(svg).values("data-index") == ["0", "2"]
    assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert charts.ticks(0.13, 0.29)[0] <= 0.13


def test_a_page_of_another_report() -> None:
    """The pieces are for other reports as well: what they are given is escaped."""
    text = report.page("a < b", "c & d", report.section("e", report.table([("f", "g > h")])))
    Elements(text)
    assert "a &lt; b" in text and "g &gt; h" in text
