"""The whole evaluation, on small recordings: what it writes, what it refuses, and that it repeats itself."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from far_away import write_turning

from elvsm_ros.evaluation.convention import T_BODY_OPTICAL
from elvsm_ros.evaluation.evaluate_bag import main
from elvsm_ros.recordings.bag_reader import Bag, BagError

QUICK = ("--lpips", "no", "--no-video", "--device", "cpu")


def evaluate(bag: Path, model: Path, out: Path, *more: str) -> tuple[int, dict]:
    status = main(["--bag", str(bag), "--model", str(model), "--out", str(out), *QUICK, *more])
    path = out / "results.json"
    return status, json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture(scope="module")
def run(turning_bag: Path, blind_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    status, results = evaluate(
        turning_bag, blind_model, out, "--sweep", "1,2", "--pose-noise", "--json", str(out / "copy.json")
    )
    assert status == 0
    return out, results


def test_every_frame_is_a_keyframe_or_held_out(run: tuple[Path, dict]) -> None:
    counts = run[1]["counts"]
    assert counts["images"] == 24
    assert counts["keyframes"] + counts["held_out"] + counts["images_without_pose_or_camera"] == 24
    assert counts["held_out_rendered"] == counts["held_out"] > 5
    assert counts["keyframes"] > 3


def test_online_frames_know_only_the_keyframes_before_them(run: tuple[Path, dict]) -> None:
    frames = run[1]["frames"]
    known = [frame["keyframes"] for frame in frames]
    assert known == sorted(known)
    assert known[0] == 1 < known[-1] <= run[1]["counts"]["keyframes"]
    assert all(0 < frame["since_keyframe"] < 1.5 and frame["angle"] < 15 for frame in frames)
    # With everything known the nearest keyframe is nearer, and its picture closer, on average.
    summary = run[1]["summary"]
    assert summary["offline"]["rotation"]["psnr"] >= summary["online"]["rotation"]["psnr"]


def test_the_rotation_explains_a_world_far_away_and_a_blind_model_does_not(run: tuple[Path, dict]) -> None:
    online = run[1]["summary"]["online"]
    assert online["rotation"]["psnr"] > online["nearest"]["psnr"] + 2
    assert online["render"]["psnr"] < online["rotation"]["psnr"]
    assert run[1]["pose_convention"]["warning"] == ""


def test_options_add_their_tables(run: tuple[Path, dict]) -> None:
    assert [row["max_views"] for row in run[1]["sweep"]] == [1, 2]
    assert [(row["centimetres"], row["degrees"]) for row in run[1]["pose_noise"]][-1] == (0, 2)
    assert json.loads((run[0] / "copy.json").read_text()) == run[1]


def test_keyframes_are_as_far_apart_as_the_thresholds_say(run: tuple[Path, dict]) -> None:
    steps = run[1]["keyframe_steps"]
    assert 15 <= steps["degrees_p50"] <= steps["degrees_max"] < 24
    assert 0 < steps["metres_p50"] < 0.2
    assert 0.5 < steps["seconds_p50"] < 1


def test_the_report_stands_alone_and_its_numbers_are_those_of_the_files(run: tuple[Path, dict]) -> None:
    page = (run[0] / "index.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    for words in (
        "Time since the last keyframe",
        "Distance to",
        "Angle to",
        "Number of",
        "Quality by max_views",
    ):
        assert words in page
    assert "from one keyframe to the next" in page
    assert "sortable" in page and "Worst frames" in page and 'class="map"' in page
    rows = list(csv.DictReader((run[0] / "frames.csv").open()))
    psnr = [float(row["online_render_psnr"]) for row in rows]
    assert np.mean(psnr) == pytest.approx(run[1]["summary"]["online"]["render"]["psnr"], abs=1e-5)
    assert page.count("<tr><td>") >= len(rows)


@pytest.mark.slow
def test_two_runs_give_the_same_figures(
    run: tuple[Path, dict], turning_bag: Path, blind_model: Path, tmp_path: Path
) -> None:
    _, again = evaluate(turning_bag, blind_model, tmp_path / "out", "--sweep", "1,2", "--pose-noise")
    assert {k: v for k, v in again.items() if k != "timing"} == {
        k: v for k, v in run[1].items() if k != "timing"
    }


def test_frames_limits_what_is_rendered(turning_bag: Path, blind_model: Path, tmp_path: Path) -> None:
    status, results = evaluate(turning_bag, blind_model, tmp_path, "--frames", "6", "--seconds", "2")
    assert status == 0
    assert 1 <= results["counts"]["held_out_rendered"] <= 6
    assert results["counts"]["images"] < 20


def test_a_gap_in_the_poses_is_told(blind_model: Path, tmp_path: Path) -> None:
    bag = write_turning(tmp_path / "bag", images=40, pause=(1.0, 3.6))
    status, results = evaluate(bag, blind_model, tmp_path / "out")
    words = "\n".join(results["warnings"])
    assert status == 0
    assert "image falls between two poses that are" in words and "times)" in words
    assert re.search(r"gap: no usable image from [\d.]+ s to [\d.]+ s", words)


@pytest.mark.slow
def test_body_poses_are_told_with_the_remedy(blind_model: Path, tmp_path: Path, capsys) -> None:
    bag = write_turning(tmp_path / "bag", lambda T: T @ np.linalg.inv(T_BODY_OPTICAL))
    status, results = evaluate(bag, blind_model, tmp_path / "out")
    assert status == 0
    assert "read as “body axes”" in results["pose_convention"]["warning"]
    assert "--body-to-camera 0 0 0 -0.5 0.5 -0.5 0.5" in capsys.readouterr().out
    values = ["0", "0", "0", "-0.5", "0.5", "-0.5", "0.5"]
    _, mended = evaluate(bag, blind_model, tmp_path / "mended", "--body-to-camera", *values)
    assert mended["pose_convention"]["warning"] == ""


def test_a_recording_whose_poses_come_too_late_is_refused(blind_model: Path, tmp_path: Path, capsys) -> None:
    bag = write_turning(tmp_path / "bag", poses_until=-0.01)
    status, results = evaluate(bag, blind_model, tmp_path / "out")
    error = " ".join(capsys.readouterr().err.split())
    assert (status, results) == (2, {})
    assert str(bag) in error and "/pose" in error and "is the pose topic published" in error


def test_a_recording_that_breaks_off_keeps_what_was_measured(
    turning_bag: Path, blind_model: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = Bag.messages

    def damaged(self: Bag, *arguments):
        for count, item in enumerate(messages(self, *arguments)):
            if count == 40:
                raise BagError(f"{self.path} cannot be read, it is truncated or damaged: copy it again")
            yield item

    monkeypatch.setattr(Bag, "messages", damaged)
    status, results = evaluate(turning_bag, blind_model, tmp_path / "out")
    assert status == 2
    assert results["complete"] is False and "truncated or damaged" in results["incomplete"]
    assert results["frames"] and len(results["frames"]) < 20
    assert "the results until then are in" in " ".join(capsys.readouterr().err.split())
    assert "Not complete" in (tmp_path / "out" / "index.html").read_text()


def truncated(bag: Path, target: Path) -> Path:
    source = next(bag.glob("*.mcap"))
    target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    return target


@pytest.mark.parametrize("what", ["truncated", "metadata", "type", "images", "missing"])
def test_bad_recordings_are_refused_in_words(
    what: str, turning_bag: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    more: list[str] = []
    if what == "truncated":
        bag, words = truncated(turning_bag, tmp_path / "cut.mcap"), "truncated or damaged"
    elif what == "metadata":
        bag, words = tmp_path / "bag", "has no metadata.yaml: give"
        bag.mkdir()
        (bag / "cut.mcap").write_bytes(next(turning_bag.glob("*.mcap")).read_bytes())
    elif what == "type":
        with Bag(turning_bag) as opened:
            info = next(t.name for t in opened.topics.values() if t.type.endswith("CameraInfo"))
        bag, words, more = turning_bag, "but must be", ["--pose-topic", info]
    elif what == "images":
        bag, words, more = turning_bag, "has no topic /nothing (--image-topic)", ["--image-topic", "/nothing"]
    else:
        bag, words = tmp_path / "nowhere", "there is no such file or folder"
    status, results = evaluate(bag, blind_model, tmp_path / "out", *more)
    error = " ".join(capsys.readouterr().err.split())
    assert (status, results) == (2, {})
    assert words in error and str(bag) in error


def test_bad_parameters_are_refused_in_words(
    turning_bag: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    assert evaluate(turning_bag, blind_model, tmp_path, "--param", "keyframe_distanc=1")[0] == 2
    assert "'keyframe_distance' perhaps?" in capsys.readouterr().err
    assert evaluate(turning_bag, tmp_path / "no.safetensors", tmp_path)[0] == 2
    assert "no.safetensors" in " ".join(capsys.readouterr().err.split())


def test_a_recording_where_everything_is_a_keyframe_has_nothing_to_measure(
    turning_bag: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    limits = ("--param", "keyframe_distance=0.001", "--param", "keyframe_angle=0.1", "--seconds", "1.2")
    assert evaluate(turning_bag, blind_model, tmp_path, *limits)[0] == 1
    assert "nothing was held out" in " ".join(capsys.readouterr().err.split())
