"""The command `training.evaluate`: published protocol, added views, several processes, and what it refuses."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from miniature import SCENES, random_model
from PIL import Image

import elvsm_core as ec
from training.data.conversion import chunk_entry, encode, write_chunk, write_index
from training.data.readers.re10k import open_store
from training.evaluate import Scores, main, score
from training.evaluation.incremental import add_views
from training.evaluation.protocol import Protocol, ProtocolError, read_results, render, stack
from training.evaluation.re10k import with_rays
from training.sampling.samples import EvaluationSamples, SampleConfig

INDEX = {**SCENES, "e74ceac9043aa1b8": None}


@pytest.fixture(scope="module")
def model():
    return random_model(width=32, head_dim=16, layers=2)


@pytest.fixture
def command(model, mini_re10k, tmp_path):
    """The arguments of a valid evaluation; results go to out/."""
    weights, index = tmp_path / "model.safetensors", tmp_path / "index.json"
    ec.save_model(model, weights, dtype=torch.float32)
    index.write_text(json.dumps(INDEX))
    return [
        *("--checkpoint", str(weights), "--data", str(mini_re10k), "--index", str(index)),
        *("--out", str(tmp_path / "out"), "--device", "cpu", "--no-lpips", "--workers", "0"),
        *("--videos", "0"),
    ]


def test_published_protocol_by_command(command, tmp_path, capsys):
    assert main(command) == 0
    assert "over 3 scenes; left out: 1 null" in capsys.readouterr().out
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert content["summary"]["scenes"] == 3 and content["dropped"]["null"] == ["e74ceac9043aa1b8"]
    rows = list(csv.reader((tmp_path / "out/summary.csv").open()))
    assert [row[0] for row in rows] == ["scene_name", *sorted(k for k in INDEX if INDEX[k]), "average"]
    report = (tmp_path / "out/report.html").read_text()
    assert all(key in report for key in INDEX if INDEX[key]) and report.count("data:image/jpeg") == 3 * 8
    before = (tmp_path / "out/results-0.jsonl").read_text()
    assert main([*command, "--report", "0"]) == 0  # goes on, with nothing left to do
    assert (tmp_path / "out/results-0.jsonl").read_text() == before
    assert main([*command, "--targets", "1"]) == 2
    assert "results of another evaluation (samples differ)" in capsys.readouterr().err
    wide = [*command, "--image-size", "32,56", "--out", str(tmp_path / "wide"), "--bf16-rays", "--limit", "2"]
    assert main([*wide, "--inputs", "4", "--targets", "2"]) == 0
    assert "weights</th>" in (tmp_path / "wide/report.html").read_text()
    run = json.loads((tmp_path / "wide/run.json").read_text())
    assert run["samples"]["image_width"] == 56 and run["samples"]["inputs"] == 4
    assert json.loads((tmp_path / "wide/metrics.json").read_text())["summary"]["scenes"] == 2


@pytest.mark.slow
def test_several_processes_evaluate_every_scene_once(command, tmp_path):
    assert main([*command[:7], str(tmp_path / "one"), *command[8:]]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, "-m", "training.evaluate", *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("over 3 scenes") == 1
    lines = [path.read_text().splitlines() for path in sorted((tmp_path / "out").glob("results-*.jsonl"))]
    assert [len(part) for part in lines] == [2, 1]
    alone, together = (read_results(tmp_path / name) for name in ("one", "out"))
    for a, b in zip(alone, together, strict=True):
        assert a.scene == b.scene and a.metrics["psnr"] == pytest.approx(b.metrics["psnr"], abs=1e-4)


def test_bad_input_is_refused_with_its_reason(command, tmp_path, capsys):
    def refused(*change):
        assert main([*command, *change]) == 2
        return capsys.readouterr().err

    assert "no evaluation index" in refused("--index", str(tmp_path / "none.json"))
    assert "there is no dataset" in refused("--data", str(tmp_path / "none"))
    truncated = tmp_path / "bad" / "000000.torch"
    truncated.parent.mkdir()
    source = next(iter(sorted(open_store(command[3]).files.values())))
    truncated.write_bytes(source.read_bytes()[:5000])
    assert "no scene can be read" in refused("--data", str(truncated.parent))
    other = tmp_path / "other.pt"
    torch.save({"model": {"backbone.weight": torch.zeros(3, 3)}}, other)
    assert "not an Efficient-LVSM checkpoint" in refused("--checkpoint", str(other))
    assert "lists 3 targets, 5 asked for" in refused("--targets", "5")
    assert "patches of 8" in refused("--image-size", "30")
    strange = tmp_path / "strange.json"
    strange.write_text(json.dumps({"nowhere": {"context": [0, 9], "target": [1, 2, 3]}}))
    assert "index is in the dataset" in refused("--index", str(strange))
    assert main(["--data", command[3]]) == 2 and "give --index" in capsys.readouterr().err
    assert main(["--incremental"]) == 2 and "give --index" in capsys.readouterr().err
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_scene_shorter_than_its_views_is_counted(command, tmp_path, capsys):
    index = tmp_path / "long.json"
    long = {**INDEX, "5aca87f95a9412c6": {"context": [2, 300], "target": [5, 9, 21]}}
    index.write_text(json.dumps(long))
    assert main([*command, "--index", str(index)]) == 0
    captured = capsys.readouterr()
    assert "has 32 frames" in captured.err and "over 2 scenes; left out: 1 null, 1 failed" in captured.out


def test_scenes_that_cannot_be_rendered_are_counted_never_replaced(command, mini_scenes, tmp_path, capsys):
    """A chunk cut off that index.json names, cameras that stand still, portrait, grey and transparent frames."""
    a, b, c = mini_scenes
    data = tmp_path / "data"
    data.mkdir()
    still = np.tile(a.w2c[3], (len(a.images), 1, 1))
    upright = [encode(np.rot90(image), "png") for image in b.images]
    modes = [Image.fromarray(image).convert(("L", "RGBA")[i % 2]) for i, image in enumerate(c.images)]
    plain = [encode(image, "png") for image in a.images]
    entries = [
        chunk_entry("still", plain, still, a.relative),
        chunk_entry("upright", upright, b.w2c, b.relative),
        chunk_entry("grey", [encode(image, "png") for image in modes], c.w2c, c.relative),
    ]
    write_chunk(data / "000000.torch", entries)
    write_chunk(data / "000001.torch", [chunk_entry("cut", plain, a.w2c, a.relative)])
    write_index(data)
    (data / "000001.torch").write_bytes((data / "000001.torch").read_bytes()[:5000])
    index = tmp_path / "four.json"
    views = {"context": [2, 30], "target": [5, 9, 21]}
    index.write_text(json.dumps(dict.fromkeys(("still", "upright", "grey", "cut"), views)))
    assert main([*command, "--data", str(data), "--index", str(index)]) == 0
    captured = capsys.readouterr()
    assert "over 1 scenes; left out: 3 failed" in captured.out
    for words in (
        "scene still was left out: poses coincide",
        "upright was left out: other size",
        "is truncated",
    ):
        assert words in captured.err
    report = (tmp_path / "out/report.html").read_text()
    assert "poses coincide" in report and report.count("data:image/jpeg") == 8


def test_a_full_disk_ends_it_and_the_next_run_goes_on(command, tmp_path, capsys, monkeypatch):
    sync = os.fsync

    def full(handle):
        if read_results(tmp_path / "out"):  # not before the first result
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr("training.evaluation.protocol.os.fsync", full)
    assert main([*command, "--batch", "1"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    kept = len(read_results(tmp_path / "out"))
    assert main(command) == 0 and kept == 1 and len(read_results(tmp_path / "out")) == 3


def test_added_views_end_where_the_whole_forward_pass_does(model, mini_re10k, command, tmp_path, capsys):
    config = SampleConfig(inputs=3, targets=3, image_size=32)
    samples = EvaluationSamples(open_store(mini_re10k), INDEX, config)
    batch = stack([samples[0]], model.device)
    plain = Protocol(lpips=False)
    steps = add_views(model, batch, plain)
    assert [step.views for step in steps] == [1, 2, 3] and all(step.render_ms > 0 for step in steps)
    for step in steps:
        part = {k: v[:, : step.views] if k.startswith("input_") else v for k, v in batch.items()}
        whole = ec.metrics.psnr(render(model, part)[0], batch["target_image"][0]).mean()
        assert step.metrics["psnr"] == pytest.approx(float(whole), abs=1e-4)
    with pytest.raises(ProtocolError, match="one scene at a time, got 2"):
        add_views(model, stack([samples[0], samples[1]], model.device), plain)
    assert main([*command, "--incremental", "--inputs", "3"]) == 0
    assert "3 scenes, 3 targets each, 0 failed" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out/incremental.json").read_text())["rows"]
    assert [row["views"] for row in rows] == [1, 2, 3] and len(rows[0]["metrics"]) == 2
    assert "What another view is worth" in (tmp_path / "out/incremental.html").read_text()
    assert (tmp_path / "out/incremental.csv").read_text().startswith("views,scenes,psnr,ssim,encode_ms")


def test_rounded_rays_change_renders_and_nothing_else(model):
    other = with_rays(model, True)
    assert other.config.bf16_rays and with_rays(model, False) is model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_scores_take_a_perceptual_distance(model):
    images = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    c2w = torch.eye(4).repeat(2, 3, 1, 1)
    c2w[:, :, 0, 3] = torch.arange(3.0)
    k = torch.tensor([20.0, 20.0, 8.0, 8.0]).expand(2, 3, 4)
    result = score(model, images, c2w, k, 2, perceptual=lambda a, b: (a - b).abs().mean((1, 2, 3)))
    assert isinstance(result, Scores) and result.lpips.shape == (2,)
    assert "LPIPS" in str(result) and result.nearest_lpips[0] != result.lpips[0]
    assert "LPIPS" not in str(score(model, images, c2w, k, 2))
