"""A long recording takes no more memory than a short one."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from benchmarks.long_recording import write_laps
from elvsm_ros.evaluation.evaluate_bag import main

pytestmark = pytest.mark.slow


def peak() -> float:
    """Return the most memory that this process ever had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def evaluate(bag: Path, model: Path, out: Path) -> dict:
    options = [
        "--lpips",
        "no",
        "--no-video",
        "--device",
        "cpu",
        "--frames",
        "20",
        "--param",
        "max_keyframes=20",
    ]
    assert main(["--bag", str(bag), "--model", str(model), "--out", str(out), *options]) == 0
    return json.loads((out / "results.json").read_text())


def test_memory_is_bounded(turning_bag: Path, blind_model: Path, tmp_path: Path) -> None:
    """Pictures of 640x480 have 0.9 MB: kept, those of the long recording would take 150 MB more."""
    size = (480, 640)
    assert write_laps(turning_bag, tmp_path / "short", 9.0, size, shift=20.0) == 69
    assert write_laps(turning_bag, tmp_path / "long", 30.0, size, shift=20.0) == 230
    evaluate(tmp_path / "short", blind_model, tmp_path / "a")
    before = peak()
    results = evaluate(tmp_path / "long", blind_model, tmp_path / "b")
    counts = results["counts"]
    assert counts["images"] == 230 and counts["keyframes"] == 20
    assert counts["keyframes_inserted"] - counts["keyframes_evicted"] == 20 < counts["keyframes_evicted"]
    assert counts["held_out_rendered"] <= 20
    assert results["duration"] > 29
    assert peak() - before < 60
