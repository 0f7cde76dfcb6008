"""A recording through the real node gives what the replay gives, and what keyframes explain is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rewriting import with_tf

import elvsm_core as ec
from elvsm_ros.evaluation import evaluate_bag
from elvsm_ros.evaluation.baselines import psnr
from elvsm_ros.evaluation.measure import BagEvaluation
from elvsm_ros.evaluation.node_page import node_facts, node_rows
from elvsm_ros.evaluation.options import parse
from elvsm_ros.evaluation.replay import Recording
from elvsm_ros.evaluation.results import OFFLINE, ONLINE, NodeRun
from elvsm_ros.evaluation.through_node import HERE, NODE, SAME, Asked, NodeCheck
from elvsm_ros.parameters.table import Settings
from elvsm_ros.recordings.bag_reader import Bag, find_streams


@pytest.mark.ros
def test_the_node_gives_what_the_replay_gives(turning_bag: Path, blind_model: Path, tmp_path: Path) -> None:
    """Over DDS, with TF for poses: the same keyframes, so the same renders, and nothing is lost."""
    bag = with_tf(turning_bag, tmp_path / "bag")
    command = [
        sys.executable,
        "-m",
        "elvsm_ros.evaluation.evaluate_bag",
        "--bag",
        str(bag),
        "--model",
        str(blind_model),
    ]
    command += ["--out", str(tmp_path / "out"), "--lpips", "no", "--no-video", "--device", "cpu"]
    command += ["--through-node", "--rate", "0.5"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    run = results["through_node"]
    counts = run["counts"]
    # Best effort, and a loaded machine: an image may be lost, and only then may keyframes differ.
    if counts["received"] == counts["played"] == 24 and not counts["dropped"]:
        assert counts["rejected"] == 0 and run["missing"] == run["extra"] == []
        assert counts["keyframes"] == results["counts"]["keyframes"]
        assert counts["compared"] == results["counts"]["held_out"]
        assert run["psnr"][OFFLINE][NODE] == pytest.approx(run["psnr"][OFFLINE][HERE], abs=0.05)
    assert counts["received"] >= 20
    assert run["psnr"][OFFLINE][NODE] == pytest.approx(run["psnr"][OFFLINE][SAME], abs=0.05)
    assert run["latency_ms"]["round_trip_p50"] >= run["latency_ms"]["in_the_node_p50"] > 0
    assert run["latency_ms"]["image_to_keyframe_p50"] > 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Through the node" in page and "from the image to its keyframe" in page
    assert "the node's keyframes" in done.stdout


def test_a_dead_node_leaves_the_rest_of_the_results(
    turning_bag: Path, blind_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from elvsm_ros.evaluation import through_node
    from elvsm_ros.tools.processes import ProcessDied

    def die(*_: object) -> None:
        raise ProcessDied("elvsm_node ended with status -9")

    monkeypatch.setattr(through_node.NodeCheck, "run", die)
    monkeypatch.setattr(evaluate_bag, "private_environment", lambda domain: {})
    quick = ["--lpips", "no", "--no-video", "--device", "cpu", "--through-node"]
    arguments = ["--bag", str(turning_bag), "--model", str(blind_model), "--out", str(tmp_path), *quick]
    assert evaluate_bag.main(arguments) == 2
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["frames"]) == 18 and results["through_node"] is None
    assert "through the node: elvsm_node ended with status -9" in results["incomplete"]
    assert (tmp_path / "unfinished").is_dir()  # the next run need not render it all again


@pytest.fixture(scope="module")
def replayed(turning_bag: Path, blind_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a NodeCheck, and views, keyframes ever and keyframes at the end of a replay."""
    options = parse(
        ["--bag", str(turning_bag), "--out", str(tmp_path_factory.mktemp("out")), "--lpips", "no"]
    )
    settings = Settings.from_values({"model": str(blind_model), "device": "cpu"})
    with Bag(turning_bag) as bag:
        source = Recording(bag, find_streams(bag))
        evaluation = BagEvaluation(source, settings, options, lambda *_: None)
        results = evaluation.run()
        model = ec.load_model(blind_model, device="cpu")
        check = NodeCheck(source, settings, options, model, lambda *_: None)
        stamps = list(evaluation.stamps.values())
        yield check, results.views, stamps


def as_if(check: NodeCheck, views, stamps: list[int], node_kept: tuple[int, ...]) -> list[Asked]:
    """Return what a node with some of the keyframes would have answered, explained."""
    asked = []
    pictures = check._pictures(set(node_kept), check._model.config.image_size)
    for view in views:
        kept = tuple(stamp for stamp in node_kept if stamp < view.stamp)
        item = Asked(view, kept or None)
        for column, used in ((ONLINE, kept), (OFFLINE, node_kept)):
            scene = ec.Scene(check._model, 64)
            for stamp in used:
                scene.insert(*pictures[stamp])
            if used and view.stamp not in node_kept:
                image = scene.render([view.camera], 4).images[0]
                item.psnr[column, NODE] = psnr(image, view.truth)
        asked.append(item)
    check._explain(asked, stamps, stamps, node_kept, none_evicted=True)
    return asked


def test_keyframes_that_were_dropped_explain_all_of_the_difference(replayed) -> None:
    check, views, stamps = replayed
    extra = views[-2].stamp  # a frame that became a keyframe in place of those that were dropped
    node_kept = tuple(sorted([*stamps[:2], *stamps[4:], extra]))
    asked = as_if(check, views, stamps, node_kept)
    differences = []
    for item in asked:
        for column in (ONLINE, OFFLINE):
            if (column, NODE) in item.psnr:
                assert item.psnr[column, SAME] == pytest.approx(item.psnr[column, NODE], abs=1e-4)
                differences.append(abs(item.psnr[column, HERE] - item.psnr[column, NODE]))
    assert max(differences) > 1e-3
    (left_out,) = [item for item in asked if item.view.stamp == extra]
    assert left_out.psnr == {}


def test_without_drops_nothing_is_rendered_again(replayed, monkeypatch: pytest.MonkeyPatch) -> None:
    check, views, stamps = replayed
    asked = [Asked(view, tuple(stamps[: view.keyframes]), False, {(ONLINE, NODE): 1.0}) for view in views]
    monkeypatch.setattr(check, "_pictures", lambda *_: pytest.fail("rendered again"))
    check._explain(asked, stamps, stamps, tuple(stamps), none_evicted=True)
    assert all(item.psnr[ONLINE, SAME] == item.psnr[ONLINE, HERE] for item in asked)


def test_the_report_names_what_was_lost() -> None:
    counts = dict.fromkeys(
        ("played", "received", "rejected", "asked", "too_late", "overtaken", "compared", "dropped"), 3
    )
    run = NodeRun(
        0.5,
        {**counts, "keyframes": 5, "keyframes_here": 6},
        {
            ONLINE: {NODE: None, HERE: None, SAME: None},
            OFFLINE: {NODE: 19.0, HERE: 20.0, SAME: 19.1},
        },
        [1.25, 2.5],
        [],
        {"round_trip_p50": 4.4, "round_trip_p95": 9.6},
        [],
    )
    assert node_rows(run) == [
        ["online", "–", "–", "–", "–", "–"],
        ["offline", "19.00", "20.00", "-1.00", "-0.90", "-0.10"],
    ]
    facts = dict(node_facts(run))
    assert facts["the node's keyframes"] == "5, here 6; missing those at 1.2, 2.5 s"
    assert facts["request and answer, median / 95 %"] == "4 / 10 ms"
