"""The evaluation protocol against a direct call of the model, and its behaviour when it is cut short."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from miniature import SCENES, random_model
from safetensors.torch import load_file

import elvsm_core as ec
from training.data.conversion import chunk_entry, encode, write_chunk
from training.data.frames import c2w_from_w2c, preprocess_frame
from training.data.readers.re10k import open_store
from training.evaluation.protocol import (
    Protocol,
    ProtocolError,
    SceneResult,
    evaluate,
    fingerprint,
    measure,
    read_results,
    shard,
    summarize,
    write_summary,
)
from training.sampling.samples import EvaluationSamples, SampleConfig

PLAIN = Protocol(lpips=False)
CONFIG = SampleConfig(inputs=2, targets=3, image_size=32)
INDEX = {**SCENES, "e74ceac9043aa1b8": None}


@pytest.fixture(scope="module")
def model():
    return random_model(width=64, head_dim=32, layers=2)


@pytest.fixture
def samples(mini_re10k):
    return EvaluationSamples(open_store(mini_re10k), INDEX, CONFIG)


def by_hand(model, store, key):
    """PSNR and SSIM of a scene's targets, from the dataset to the model without the protocol's code."""
    entry, scene = INDEX[key], store.scene(key)
    frames = [scene.frame(i) for i in entry["context"] + entry["target"]]
    images, intrinsics = zip(*(preprocess_frame(f.image, f.fxfycxcy, 32) for f in frames), strict=True)
    images = torch.from_numpy(np.stack(images)).float()[None] / 255
    intrinsics = torch.from_numpy(np.stack(intrinsics))[None]
    c2w = ec.normalize_poses(torch.from_numpy(c2w_from_w2c([f.w2c for f in frames])))[None]
    inputs = images[:, :2], c2w[:, :2], intrinsics[:, :2]
    made = model(*inputs, c2w[:, 2:], intrinsics[:, 2:], (32, 32))[0]
    return ec.metrics.psnr(made, images[0, 2:]), ec.metrics.ssim(made, images[0, 2:])


def test_results_are_those_of_the_direct_call(model, samples, tmp_path):
    assert evaluate(model, samples, tmp_path, PLAIN, batch=2) == 3
    summary = summarize(tmp_path, samples)
    expected = {key: by_hand(model, samples.store, key) for key in samples.keys}
    for result in summary.scenes:
        psnr, ssim = expected[result.scene]
        assert result.views == tuple(INDEX[result.scene]["target"])
        assert result.metrics["psnr"] == pytest.approx(psnr.tolist(), abs=1e-4)
        assert result.metrics["ssim"] == pytest.approx(ssim.tolist(), abs=1e-5)
    mean = torch.stack([psnr.mean() for psnr, _ in expected.values()]).mean().item()
    assert summary.means["psnr"] == pytest.approx(mean, abs=1e-4)
    assert summary.dropped == {"null": ["e74ceac9043aa1b8"], "missing": []}
    assert "over 3 scenes; left out: 1 null" in str(summary)


def test_written_files(model, samples, tmp_path):
    evaluate(model, samples, tmp_path, PLAIN)
    summary = summarize(tmp_path, samples)
    write_summary(summary, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["summary"] == {**summary.means, "scenes": 3}
    scene = metrics["scenes"][0]
    assert scene["summary"]["psnr"] == pytest.approx(np.mean([view["psnr"] for view in scene["per_view"]]))
    assert [view["view"] for view in scene["per_view"]] == INDEX[scene["summary"]["scene_name"]]["target"]
    rows = list(csv.reader((tmp_path / "summary.csv").open()))
    assert rows[0] == ["scene_name", "psnr", "ssim"] and rows[-1][0] == "average" and len(rows) == 5
    assert float(rows[-1][1]) == summary.means["psnr"]
    assert (tmp_path / "average_metrics.txt").read_text().startswith("psnr: ")


def test_it_goes_on_after_being_killed_with_another_number_of_processes(model, samples, tmp_path):
    whole = tmp_path / "whole"
    evaluate(model, samples, whole, PLAIN)
    parts = tmp_path / "parts"
    assert evaluate(model, samples, parts, PLAIN, rank=0, world=2) == 2
    with pytest.raises(ProtocolError, match="no result of 1 of 3 scenes"):
        summarize(parts, samples)
    results = parts / "results-0.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    results.write_text(lines[0] + lines[1][:40])  # killed while writing the second
    seen = []
    assert evaluate(model, samples, parts, PLAIN, rank=1, world=2) == 1
    assert evaluate(model, samples, parts, PLAIN, progress=lambda done, of: seen.append((done, of))) == 1
    assert seen == [(1, 1)]
    assert evaluate(model, samples, parts, PLAIN, world=2) == 0
    assert read_results(parts) == read_results(whole)


def test_every_scene_is_in_exactly_one_part():
    keys = [str(i) for i in range(11)]
    for world in (1, 2, 4, 16):
        parts = [shard(keys, rank, world) for rank in range(world)]
        assert sorted((key for part in parts for key in part), key=int) == keys
    with pytest.raises(ProtocolError, match="no rank 2"):
        shard(keys, 2, 2)


def test_results_of_different_runs_are_not_mixed(model, samples, mini_re10k, tmp_path):
    evaluate(model, samples, tmp_path, PLAIN)
    other = ec.EfficientLVSM(dataclasses.replace(model.config, bf16_rays=True))
    other.load_state_dict(model.state_dict())
    assert fingerprint(other) != fingerprint(model)
    with pytest.raises(ProtocolError, match="model differ"):
        evaluate(other, samples, tmp_path, PLAIN)
    one = EvaluationSamples(open_store(mini_re10k), INDEX, dataclasses.replace(CONFIG, targets=1))
    with pytest.raises(ProtocolError, match="samples differ"):
        evaluate(model, one, tmp_path, PLAIN)
    assert evaluate(model, one, tmp_path / "one", PLAIN) == 3  # one target a scene
    rounded = tmp_path / "rounded"
    evaluate(other.eval(), samples, rounded, PLAIN)
    a, b = (read_results(folder)[0].metrics["psnr"][0] for folder in (tmp_path, rounded))
    assert a != b and a == pytest.approx(b, abs=0.2)


def test_a_damaged_scene_is_reported_and_tried_again(model, mini_scenes, tmp_path):
    entries = [scene.entry("png") for scene in mini_scenes]
    broken = [encode(image, "png") for image in mini_scenes[0].images]
    broken[9] = broken[9][:50]
    chunk = tmp_path / "data" / "000000.torch"
    damaged = chunk_entry(mini_scenes[0].key, broken, mini_scenes[0].w2c, mini_scenes[0].relative)
    write_chunk(chunk, [damaged, *entries[1:]])
    samples = EvaluationSamples(open_store(chunk), INDEX, CONFIG)
    evaluate(model, samples, tmp_path / "out", PLAIN, batch=3)
    summary = summarize(tmp_path / "out", samples)
    assert list(summary.failed) == [mini_scenes[0].key] and len(summary.scenes) == 2
    assert "1 failed" in str(summary) and "frame 9" in summary.failed[mini_scenes[0].key]
    write_chunk(chunk, entries)
    assert evaluate(model, samples, tmp_path / "out", PLAIN) == 1
    assert not summarize(tmp_path / "out", samples).failed


def test_metrics_equal_golden_and_options_apply(golden_dir):
    g = load_file(golden_dir / "golden_metrics.safetensors")
    expected = json.loads((golden_dir / "golden_metrics.json").read_text())
    scores = measure(g["pred"], g["gt"], PLAIN)
    assert scores["psnr"].tolist() == pytest.approx(expected["psnr"], abs=1e-4)
    assert scores["ssim"].tolist() == pytest.approx(expected["ssim"], abs=1e-5)
    rounded = measure(g["pred"], g["gt"], Protocol(lpips=False, bf16_images=True))["psnr"]
    assert not torch.equal(rounded, scores["psnr"])
    torch.testing.assert_close(rounded, ec.metrics.psnr(g["pred"].bfloat16(), g["gt"]))
    small = measure(g["pred"], g["gt"], Protocol(lpips=False, resize=24))["psnr"]
    assert (small > scores["psnr"]).sum() >= 3  # averaging takes noise away


@pytest.mark.slow
def test_lpips_is_measured_or_refused_at_once(model, samples, test_data, tmp_path, monkeypatch):
    from elvsm_core.files.lpips_weights import import_lpips

    try:
        import_lpips()
    except ec.metrics.MetricError as error:
        pytest.skip(str(error))
    weights = str(test_data / "lpips")
    first = EvaluationSamples(samples.store, {samples.keys[0]: INDEX[samples.keys[0]]}, CONFIG)
    evaluate(model, first, tmp_path / "a", Protocol(lpips_weights=weights))
    (result,) = read_results(tmp_path / "a")
    assert set(result.metrics) == {"psnr", "ssim", "lpips"} and 0.1 < result.mean("lpips") < 2
    evaluate(model, first, tmp_path / "half", Protocol(lpips_weights=weights, bf16_lpips=True))
    (half,) = read_results(tmp_path / "half")
    assert half.metrics["psnr"] == result.metrics["psnr"] and half.mean("lpips") != result.mean("lpips")
    assert half.mean("lpips") == pytest.approx(result.mean("lpips"), rel=0.02)
    for name in ("ELVSM_LPIPS_WEIGHTS", "ELVSM_TEST_DATA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ec.metrics.MetricError, match="LPIPS needs"):
        evaluate(model, first, tmp_path / "b", Protocol())
    assert not (tmp_path / "b").exists()


def test_lines_that_are_no_results_are_left_out(tmp_path):
    good = SceneResult("a", (1,), {"psnr": (2.5,)})
    lines = [SceneResult("a", error="once").to_json(), "", "{}", "null", '{"scene": "b"', good.to_json()]
    (tmp_path / "results-0.jsonl").write_text("\n".join(lines))
    assert read_results(tmp_path) == [good]
