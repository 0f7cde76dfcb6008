import json

import pytest

import elvsm_core as ec
from elvsm_core import benchmark


def test_operations_are_counted_as_for_the_published_model():
    """242 GFLOP to insert; per target 203 linear, 38.7 self-attention and 38.7 for every view."""
    config = ec.PRESETS["efficient-lvsm"]
    linear, attended = benchmark.flops(config, (256, 256), 0, 0, 1)
    assert (linear + attended) / 1e9 == pytest.approx(242, abs=1)
    linear, attended = benchmark.flops(config, (256, 256), 8, 1, 0)
    assert linear / 1e9 == pytest.approx(203, abs=1.5)
    assert attended / 1e9 == pytest.approx(38.7 * 9, rel=0.01)


def test_command_line_writes_what_it_measured(tiny_model, tmp_path, capsys):
    ec.save_model(tiny_model, tmp_path / "tiny.safetensors")
    arguments = ["--model", str(tmp_path / "tiny.safetensors"), "--device", "cpu", "--views", "1", "3"]
    arguments += ["--targets", "2", "--repeats", "2", "--keyframes", "20", "--insertions", "5"]
    arguments += ["--json", str(tmp_path / "b.json"), "--csv", str(tmp_path / "b.csv")]
    assert benchmark.main(arguments) == 0
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [(row["what"], row["views"]) for row in rows] == [
        ("insert", 1),
        ("render", 1),
        ("insert + render", 1),
        ("insert", 3),
        ("render", 3),
        ("insert + render", 3),
        ("render 8 of 20 keyframes", 8),
    ]
    assert all(row["median_ms"] > 0 and row["floor_ms"] > 0 for row in rows)
    assert all(row["baseline_ms"] > 0 for row in rows if row["what"] == "insert + render")
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 8
    assert "insert + render" in capsys.readouterr().out
