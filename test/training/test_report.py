"""The evaluation's report: one file that needs nothing else, with the measured figures, and a gallery that works."""

import base64
import json
import re
import sys

import numpy as np
import pytest
from miniature import SCENES, random_model

from elvsm_report.gallery import Card, Gallery, Target, gallery_page, incremental_page
from training.data.readers.re10k import open_store
from training.evaluation.protocol import Protocol, SceneResult, Summary, evaluate, render, stack, summarize
from training.evaluation.report import CHUNK, FILM_FRAMES, choose, film, make_gallery, spread
from training.sampling.samples import EvaluationSamples, SampleConfig


@pytest.fixture(scope="module")
def model():
    return random_model(width=32, head_dim=16, layers=1)


@pytest.fixture(scope="module")
def samples(mini_re10k):
    return EvaluationSamples(open_store(mini_re10k), SCENES, SampleConfig(inputs=2, targets=3, image_size=32))


def data_of(page):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found)


def picture(seed, size=(16, 24)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def gallery_of(count, scenes=None, **more):
    names = scenes or [f"scene {i:02d}" for i in range(count)]
    means = [{"psnr": 20.0 + i, "lpips": 0.9 - 0.01 * i} for i in range(count)]
    cards = [
        Card(name, m, [("frame 1", picture(i))], [Target("frame 2", picture(i), picture(i + 1), m)])
        for i, (name, m) in enumerate(zip(names, means, strict=True))
    ]
    total = {"psnr": float(np.mean([m["psnr"] for m in means])), "lpips": 0.5}
    return Gallery("Title", total, list(zip(names, means, strict=True)), cards, **more)


@pytest.mark.slow
def test_pictures_and_figures_are_those_of_the_evaluation(model, samples, tmp_path):
    evaluate(model, samples, tmp_path, Protocol(lpips=False))
    summary, seen = summarize(tmp_path, samples), []
    gallery = make_gallery(
        model, samples, summary, 2, 1, [("weights", "small")], progress=lambda *n: seen.append(n)
    )
    assert seen == [(1, 2), (2, 2)] and len(gallery.scenes) == 3
    ranked = sorted(summary.scenes, key=lambda result: result.mean("psnr"))
    assert [card.scene for card in gallery.cards] == [ranked[0].scene, ranked[-1].scene]
    assert [card.video is not None for card in gallery.cards] == [True, False]
    first = gallery.cards[0]
    sample = samples[samples.keys.index(first.scene)]
    made = (render(model, stack([sample], model.device))[0] * 255).round().byte()
    assert [t.name for t in first.targets] == [f"frame {n}" for n in SCENES[first.scene]["target"]]
    for i, target in enumerate(first.targets):
        np.testing.assert_array_equal(target.render, made[i].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(target.truth, sample["target_image"][i].permute(1, 2, 0).numpy())
        assert target.metrics["psnr"] == ranked[0].metrics["psnr"][i]
    data = data_of(gallery_page(gallery))
    assert data["cards"][0]["video"].startswith("data:video/mp4;base64,")
    assert b"ftyp" in base64.b64decode(data["cards"][0]["video"].partition(",")[2])[:12]
    assert {row[0]: row[1] for row in data["scenes"]} == {r.scene: r.mean("psnr") for r in ranked}


def test_without_ffmpeg_there_is_a_report_without_videos(model, samples, tmp_path, monkeypatch, caplog):
    results = [SceneResult(key, (1, 2, 3), {"psnr": (1.0, 2.0, 3.0)}) for key in samples.keys[:1]]
    summary = Summary({"psnr": 2.0}, results, {}, {})

    def broken(*_, **__):
        raise OSError("ffmpeg: exec format error")

    with monkeypatch.context() as patch:
        patch.setattr("elvsm_report.video.write_video", broken)
        assert make_gallery(model, samples, summary, 9, 1, []).cards[0].video is None
    assert "exec format error" in caplog.text
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    gallery = make_gallery(model, samples, summary, 9, 1, [("weights", "small")])
    assert gallery.cards[0].video is None and "imageio-ffmpeg" in dict(gallery.facts)["videos"]


def test_films_go_along_the_inputs_and_back(model, samples):
    batch = stack([samples[0]], model.device)
    frames = film(model, batch)
    assert len(frames) == 2 * FILM_FRAMES - 2 and len(frames) > 2 * CHUNK
    # The first frame is rendered at the first input's pose, and the last forward one at the last input's.
    at_inputs = dict(batch) | {f"target_{n}": batch[f"input_{n}"] for n in ("c2w", "fxfycxcy")}
    ends = (render(model, at_inputs)[0] * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(frames[0] - ends[0]).max() <= 1 and np.abs(frames[FILM_FRAMES - 1] - ends[1]).max() <= 1
    np.testing.assert_array_equal(frames[FILM_FRAMES], frames[FILM_FRAMES - 2])
    one = {name: x[:, :1] if name.startswith("input_") else x for name, x in batch.items()}
    around = film(model, one)
    assert len(around) == len(frames) and not np.array_equal(around[0], around[20])


def test_the_worst_scenes_and_an_even_rest_are_shown():
    results = [SceneResult(str(i), (1,), {"psnr": (float(i),)}) for i in range(100)]
    shown = [int(name) for name in choose(results[::-1], 12)]
    assert shown[:4] == [0, 1, 2, 3] and shown[4] == 4 and shown[-1] == 99
    assert shown == sorted(set(shown)) and len(shown) == 12
    assert len(choose(results[:5], 12)) == 5
    assert spread([str(i) for i in range(9)], 3) == {"0", "4", "8"} and spread(["a"], 3) == {"a"}
    assert spread(["a", "b"], 0) == set()


def test_nothing_comes_from_elsewhere_and_no_text_becomes_code():
    evil = "</script><script>alert(1)</script>"
    page = gallery_page(gallery_of(2, [evil, "b"], failed={"c": "<b>why</b>"}, facts=[("index", "<i>.json")]))
    assert evil not in page and "<b>why" not in page and "<i>" not in page
    assert data_of(page)["cards"][0]["scene"] == evil
    assert page.count("<script") == 3  # the data, the gallery's and the page's own
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "http" not in re.sub(r'"data:[^"]*"', "", page).replace("http-equiv", "")
    assert "&lt;b&gt;why" in page and ">20.50<" in page


def test_thousands_of_scenes_stay_a_small_page():
    names = [f"{i:016x}" for i in range(6000)]
    scenes = [(name, {"psnr": 20 + i / 1000}) for i, name in enumerate(names)]
    page = gallery_page(Gallery("Title", {"psnr": 23.0}, scenes, []))
    assert len(page) < 400_000 and page.count("<circle") == 200 and len(data_of(page)["scenes"]) == 6000
    assert 'id="cards"' not in page


def test_added_views_as_a_page():
    rows = [
        {
            "views": v,
            "scenes": 3,
            "metrics": {"psnr": 20.0 + v, "ssim": 0.5},
            "encode_ms": 1.0,
            "render_ms": v,
        }
        for v in (1, 2, 3)
    ]
    page = incremental_page(rows, {"x": "frame 9 is missing"}, [("weights", "small")])
    assert page.count("<svg") == 3 and "<td>23.00</td>" in page and "frame 9 is missing" in page


def test_an_evaluation_without_results_of_a_scene_still_shows_the_others(model, samples):
    results = [SceneResult(key, (1, 2, 3), {"psnr": (1.0, 2.0, 3.0)}) for key in samples.keys[:2]]
    summary = Summary({"psnr": 2.0}, results, {samples.keys[2]: "frame 4 does not decode"}, {})
    page = gallery_page(make_gallery(model, samples, summary, 60, 0, []))
    assert len(data_of(page)["cards"]) == 2 and "frame 4 does not decode" in page


def test_sorting_paging_finding_and_enlarging(browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(gallery_page(gallery_of(20)))
    page, errors, asked = browser.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())

    def scenes():
        return [node.text_content() for node in page.query_selector_all(".scene header b")]

    assert scenes() == [f"scene {i:02d}" for i in range(8)]  # the worst PSNR first, eight on a page
    page.select_option("#cards select", "lpips -1")  # the best LPIPS is the lowest
    assert scenes()[0] == "scene 19"
    page.click("#cards button:has-text('next')")
    assert scenes()[0] == "scene 11" and page.text_content("#cards .bar span:last-of-type") == "of 3 pages"
    page.fill("#cards .jump", "3")
    page.press("#cards .jump", "Enter")
    assert scenes() == [f"scene {i:02d}" for i in (3, 2, 1, 0)]
    page.fill("#cards input[type=search]", "07")
    assert scenes() == ["scene 07"]
    page.click(".scene .strip img >> nth=1")
    assert page.text_content("dialog p") == "scene 07 · frame 2 · truth · PSNR 27.00, LPIPS 0.8300"
    page.keyboard.press("Space")
    assert " · render · " in page.text_content("dialog p")
    page.keyboard.press("ArrowLeft")
    assert page.text_content("dialog p") == "scene 07 · frame 1 · input"
    page.keyboard.press("Escape")
    assert not page.evaluate("document.querySelector('dialog').open")
    page.click("#table th button >> nth=1")
    assert page.text_content("#table td >> nth=0") == "scene 19"
    page.click("#table td a >> nth=3")  # which the search had hidden
    assert scenes()[0] == "scene 19" and "scene 16" in scenes()
    assert not errors and all(url.startswith(("file:", "data:")) for url in asked)
