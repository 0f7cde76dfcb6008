import json

import pytest

import elvsm_core as ec
from elvsm_core.benchmark import command


def test_operations_are_counted_as_for_the_published_model():
    """242 GFLOP to insert; per target 203 linear, 38.7 self-attention and 38.7 for every view."""
    config = ec.PRESETS["efficient-lvsm"]
    linear, attended = command.flops(config, (256, 256), 0, 0, 1)
    assert (linear + attended) / 1e9 == pytest.approx(242, abs=1)
    linear, attended = command.flops(config, (256, 256), 8, 1, 0)
    assert linear / 1e9 == pytest.approx(203, abs=1.5)
    assert attended / 1e9 == pytest.approx(38.7 * 9, rel=0.01)


@pytest.mark.slow
def test_command_line_writes_what_it_measured(tiny_model, tmp_path, capsys):
    ec.save_model(tiny_model, tmp_path / "tiny.safetensors")
    arguments = ["--model", str(tmp_path / "tiny.safetensors"), "--device", "cpu", "--views", "1", "9"]
    arguments += ["--targets", "2", "--repeats", "2", "--keyframes", "20", "--insertions", "5"]
    arguments += ["--size", "32", "32", "--size", "16", "40"]
    files = [str(tmp_path / name) for name in ("b.json", "b.csv", "b.svg")]
    arguments += ["--json", files[0], "--csv", files[1], "--plot", files[2]]
    assert command.main(arguments) == 0
    result = json.loads((tmp_path / "b.json").read_text())
    rows = result["rows"]
    assert [(row["what"], row["views"]) for row in rows[:9]] == [
        ("insert", 1),
        ("render", 1),
        ("insert + render", 1),
        ("insert", 9),
        ("render", 9),
        ("insert + render", 9),
        ("move 8 views, encode them", 9),
        ("render from 20 keyframes", 8),
        ("  the same, moving 5 cm", 8),
    ]
    assert [(row["height"], row["width"]) for row in rows] == [(32, 32)] * 9 + [(16, 40)] * 9
    assert all(row["median_ms"] > 0 and row["floor_ms"] > 0 for row in rows)
    assert all(row["baseline_ms"] > 0 for row in rows if row["what"] == "insert + render")
    assert all(c["matmul"] > 0 and len(c["attention"]) >= 2 for c in result["ceilings"])
    assert result["memory"]["insertions"] == 5
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 19
    assert "baseline" in (tmp_path / "b.svg").read_text()
    assert "insert + render" in capsys.readouterr().out
