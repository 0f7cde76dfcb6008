"""The report in a real browser: it is drawn without a complaint, asks for nothing, and its table sorts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from rewriting import copied

from elvsm_report.gallery import Card, Gallery, Target, gallery_page
from elvsm_ros.evaluation.evaluate_bag import main

QUICK = ("--lpips", "no", "--no-video", "--device", "cpu")


def test_the_table_of_frames_sorts_by_what_is_clicked(
    browser: Any, turning_bag: Path, blind_model: Path, tmp_path: Path
) -> None:
    command = ["--bag", str(turning_bag), "--model", str(blind_model), "--out", str(tmp_path)]
    assert main([*command, "--lpips", "no", "--no-video", "--device", "cpu"]) == 0
    with (tmp_path / "frames.csv").open(newline="") as file:
        values = sorted(float(row["online_render_psnr"]) for row in csv.DictReader(file))
    assert len(set(values)) > 3

    page, errors, asked = browser.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "index.html").as_uri())
    table = page.locator("table.sortable")
    heads = [head.strip() for head in table.locator("th").all_text_contents()]
    column = heads.index("online")

    def shown() -> list[float]:
        return [
            float(text) for text in table.locator(f"tbody td:nth-child({column + 1})").all_text_contents()
        ]

    for order in (values, values[::-1]):
        table.locator("th button").nth(column).click()
        assert shown() == [round(value, 2) for value in order]
    assert not errors
    assert all(url.startswith(("file:", "data:")) for url in asked)


MARK = "document.documentElement.dataset.hacked=1"


def test_hostile_names_are_text_in_the_report(
    browser: Any, turning_bag: Path, blind_model: Path, tmp_path: Path
) -> None:
    """The recording's folder, its topics and frames: shown, and not run; nor could they run if they were markup."""
    name = f"<img src=x onerror={MARK}>"
    bag, out = tmp_path / name, tmp_path / "out"
    copied(turning_bag, bag)
    assert main(["--bag", str(bag), "--model", str(blind_model), "--out", str(out), *QUICK]) == 0
    page = browser.new_page()
    page.goto((out / "index.html").as_uri())
    assert page.locator("img[src=x]").count() == 0 and name in page.inner_text("body")
    page.evaluate(
        "html => document.body.insertAdjacentHTML('beforeend', html)", name + f"<svg onload={MARK}>"
    )
    script = "text => { const s = document.createElement('script'); s.textContent = text; document.head.append(s) }"
    page.evaluate(script, MARK)
    page.wait_for_timeout(300)
    assert not page.evaluate("document.documentElement.dataset.hacked")
    page.close()


def test_hostile_names_of_scenes_are_text_in_the_gallery(browser: Any, tmp_path: Path) -> None:
    names = [f"<img src=x onerror={MARK}>", f"</script><script>{MARK}</script>", f"<svg onload={MARK}>"]
    picture = np.zeros((16, 16, 3), np.uint8)
    values = {"psnr": 20.0}
    cards = [
        Card(name, values, [(name, picture)], [Target(name, picture, picture, values)]) for name in names
    ]
    scenes = [(name, values) for name in names]
    gallery = Gallery(names[0], values, scenes, cards, dict.fromkeys(names, names[0]), [(names[1], names[2])])
    path = tmp_path / "report.html"
    path.write_text(gallery_page(gallery), encoding="utf-8")
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(path.as_uri())
    page.wait_for_timeout(300)
    assert all(name in page.inner_text("body") for name in names)
    assert page.locator("img[src=x], svg[onload]").count() == 0
    assert not page.evaluate("document.documentElement.dataset.hacked") and not errors
    page.close()
