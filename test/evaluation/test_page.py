"""The report in a real browser: it is drawn without a complaint, asks for nothing, and its table sorts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from elvsm_ros.evaluation.evaluate_bag import main


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
