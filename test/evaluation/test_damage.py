"""Recordings that end too early or are damaged in their middle, and evaluations that are killed."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from far_away import write_turning
from rewriting import copied
from rosbags.rosbag2 import CompressionMode, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from elvsm_core.files import owned
from elvsm_ros.evaluation.evaluate_bag import OUTPUT, main
from elvsm_ros.evaluation.journal import NO_PICTURE, Journal, Record, code
from elvsm_ros.recordings.bag_reader import Bag, BagError

QUICK = ("--lpips", "no", "--no-video", "--device", "cpu")


def evaluate(bag: Path, model: Path, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    status = main(["--bag", str(bag), "--model", str(model), "--out", str(out), *QUICK, *more])
    path = out / "results.json"
    return status, json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture(scope="module")
def chunked(turning_bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a compressed recording in several chunks."""
    target = tmp_path_factory.mktemp("chunked") / "bag"
    return copied(turning_bag, target, CompressionMode.STORAGE, chunk=20)


@pytest.mark.parametrize("what", ["cut off", "folder cut off", "damaged inside"])
def test_what_can_be_read_is_evaluated_and_the_rest_told(
    what: str, chunked: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    bag = copied(chunked, tmp_path / "bag", CompressionMode.STORAGE, chunk=20)
    (file,) = bag.glob("*.mcap")
    data = bytearray(file.read_bytes())
    if what == "damaged inside":
        middle = int(0.6 * len(data))
        data[middle : middle + 300] = b"\x55" * 300
    else:
        data = data[: int(0.7 * len(data))]
    file.write_bytes(data)
    status, results = evaluate(file if what == "cut off" else bag, blind_model, tmp_path / "out")
    error = " ".join(capsys.readouterr().err.split())
    assert status == 2
    assert results["complete"] is False and 3 < len(results["frames"]) < 18
    for words in (
        str(bag),
        "truncated or damaged",
        "mcap recover",
        "the results until then are in",
        results["incomplete"],
    ):
        assert words in error
    assert "Not complete" in (tmp_path / "out" / "index.html").read_text()
    assert not (tmp_path / "out" / "unfinished").exists()


def test_a_folder_of_somebody_else_is_not_taken_for_an_unfinished_evaluation(
    turning_bag: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    owned.claim_output(tmp_path / "out", OUTPUT)
    mine = tmp_path / "out" / "unfinished"
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine")
    status, _ = evaluate(turning_bag, blind_model, tmp_path / "out")
    assert status == 2
    assert (
        str(mine) in (error := " ".join(capsys.readouterr().err.split())) and "choose another folder" in error
    )
    assert [(p.name, p.read_text()) for p in mine.iterdir()] == [("thesis.tex", "mine")]


@pytest.mark.parametrize("name", ["index.html", "results.json", "frames.csv", "video.mp4"])
def test_an_output_folder_of_somebody_else_is_left_alone(
    name: str, turning_bag: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    assert main(["--bag", str(turning_bag), "--out", str(out), "--model", str(blind_model), *QUICK]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert str(out) in error and repr(name) in error and "an empty folder" in error and "earlier" in error
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [(name, "mine")]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
from elvsm_core.files import owned
from elvsm_ros.evaluation.evaluate_bag import OUTPUT, main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("lies", [False, True])
def test_a_chunk_that_holds_gigabytes_is_refused_in_little_memory(
    lies: bool, turning_bag: Path, blind_model: Path, tmp_path: Path
) -> None:
    """A few hundred kilobytes of zstd can stand for gigabytes, whatever size the chunk declares."""
    bag = copied(turning_bag, tmp_path / "bag", CompressionMode.STORAGE)
    (file,) = bag.glob("*.mcap")
    data = bytearray(file.read_bytes())
    at = data.index(b"\x06", 8)
    while struct.unpack_from("<Q", data, at + 1)[0] > len(data) or data[at + 41 : at + 45] != b"zstd":
        at = data.index(b"\x06", at + 1)
    machine = zstd.ZstdCompressor()
    blob = b"".join(machine.compress(bytes(1 << 24)) for _ in range(256)) + machine.flush()
    declared = struct.unpack_from("<Q", data, at + 25)[0] if lies else 1 << 32
    head = data[at + 9 : at + 25] + struct.pack("<QI", declared, 0) + struct.pack("<I", 4) + b"zstd"
    chunk = bytes(head) + struct.pack("<Q", len(blob)) + blob
    # Without what comes behind it: the salvage reads it from its beginning.
    alone = tmp_path / "bomb.mcap"
    alone.write_bytes(bytes(data[:at]) + b"\x06" + struct.pack("<Q", len(chunk)) + chunk)
    assert alone.stat().st_size < 2_000_000
    command = [sys.executable, "-c", LIMITED, "--bag", str(alone), "--model", str(blind_model)]
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), *QUICK], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 2, run.stderr
    assert "MemoryError" not in run.stderr and str(alone) in " ".join(run.stderr.split())


@pytest.mark.slow
def test_a_file_that_unpacks_to_gigabytes_fills_no_disk(
    turning_bag: Path, blind_model: Path, tmp_path: Path
) -> None:
    """A recording that was compressed as a whole is unpacked beside it: to a size that fits its own."""
    bag = copied(turning_bag, tmp_path / "bag", CompressionMode.FILE)
    (file,) = bag.glob("*.zstd")
    machine = zstd.ZstdCompressor()
    with file.open("wb") as out:
        for _ in range(256):
            out.write(machine.compress(bytes(1 << 24)))
        out.write(machine.flush())
    assert file.stat().st_size < 2_000_000
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # The kernel ends whoever writes more than this into one file.
    limited = LIMITED.replace(
        "from elvsm", "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 29, 1 << 29))\nfrom elvsm", 1
    )
    command = [sys.executable, "-c", limited, "--bag", str(bag), "--model", str(blind_model)]
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), *QUICK], capture_output=True, text=True, timeout=120,
        env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    error = " ".join(run.stderr.split())
    assert run.returncode == 2 and str(bag) in error and "a compressed file of" in error, error
    assert not list(scratch.iterdir())


def test_a_cut_that_lies_behind_what_is_used_does_not_matter(
    chunked: Path, blind_model: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.mcap"
    whole = next(chunked.glob("*.mcap")).read_bytes()
    cut.write_bytes(whole[: int(0.7 * len(whole))])
    status, results = evaluate(cut, blind_model, tmp_path / "out", "--seconds", "1")
    assert (status, results["complete"]) == (0, True)
    with pytest.raises(BagError, match="truncated or damaged"):
        Bag(cut)


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        ("compressed", ["no image topic", "sensor_msgs/msg/Image", "record one as well"]),
        ("camera_info", ["no camera_info topic", "sensor_msgs/msg/CameraInfo", "record one as well"]),
        ("pose", ["no pose topic", "tf2_msgs/msg/TFMessage", "nav_msgs/msg/Odometry", "record one as well"]),
    ],
)
def test_topics_that_are_missing_are_named(
    drop: str, words: list[str], turning_bag: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    bag = copied(turning_bag, tmp_path / "bag", drop=(drop,))
    assert evaluate(bag, blind_model, tmp_path / "out") == (2, {})
    error = " ".join(capsys.readouterr().err.split())
    for word in [str(bag), "/camera/", *words]:
        assert word in error


def test_topics_of_unknown_types_do_no_harm_and_do_not_serve(
    turning_bag: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    def add(writer: Writer) -> None:
        kind = "fancy_bot/msg/Whereabouts"
        store = get_typestore(Stores.ROS2_KILTED)
        store.register(get_types_from_msg("float64 x\n", kind))
        topic = writer.add_connection("/fancy", kind, typestore=store)
        writer.write(topic, 11 * 10**9, bytes(store.serialize_cdr(store.types[kind](x=1.0), kind)))

    beside = copied(turning_bag, tmp_path / "beside", more=add)
    assert evaluate(beside, blind_model, tmp_path / "out")[0] == 0
    capsys.readouterr()
    alone = copied(turning_bag, tmp_path / "alone", drop=("pose",), more=add)
    assert evaluate(alone, blind_model, tmp_path / "none") == (2, {})
    error = " ".join(capsys.readouterr().err.split())
    assert "no pose topic" in error and "/fancy (fancy_bot/msg/Whereabouts, 1)" in error
    assert evaluate(alone, blind_model, tmp_path / "none", "--pose-topic", "/fancy") == (2, {})
    assert "but must be geometry_msgs/msg/PoseStamped" in " ".join(capsys.readouterr().err.split())


# Killed


@pytest.fixture(scope="module")
def long_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_turning(tmp_path_factory.mktemp("long") / "bag", images=80)


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on_with_the_same_figures(
    long_bag: Path, blind_model: Path, tmp_path: Path, capsys
) -> None:
    out, more = tmp_path / "out", ("--sweep", "1,2,3,4", "--frames", "30")
    command = [sys.executable, "-m", "elvsm_ros.evaluation.evaluate_bag", "--bag", str(long_bag), "--model"]
    command += [str(blind_model), "--out", str(out), *QUICK, *more]
    found = 0
    for number, expected in ((signal.SIGKILL, -9), (signal.SIGTERM, 2)):
        log = tmp_path / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        end = time.monotonic() + 120
        while (
            len(list((out / "unfinished").glob("*.npz"))) < found + 3
            and process.poll() is None
            and time.monotonic() < end
        ):
            time.sleep(0.002)
        os.kill(process.pid, number)
        assert process.wait(60) == expected, log.read_text()
        found = len(list((out / "unfinished").glob("*.npz")))
        assert found >= 3
    partial = json.loads((out / "results.json").read_text())
    assert partial["complete"] is False and "goes on from there" in partial["incomplete"]
    status, resumed = evaluate(long_bag, blind_model, out, *more)
    assert status == 0
    assert resumed["timing"]["taken_over"] == found
    assert f"{found} renders from a run before it" in " ".join(capsys.readouterr().out.split())
    assert not (out / "unfinished").exists()
    _, whole = evaluate(long_bag, blind_model, tmp_path / "whole", *more)
    for key in resumed.keys() - {"timing", "frames", "summary"}:
        assert resumed[key] == whole[key], key
    # To the last digit with the same number of threads; those of the processes above were others.
    for mine, theirs in zip(resumed["frames"], whole["frames"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)


def test_other_code_is_another_key(tmp_path: Path) -> None:
    package = types.ModuleType("package")
    package.__file__ = str(tmp_path / "__init__.py")
    for text in ("a = 1", "a = 2"):
        (tmp_path / "__init__.py").write_text("")
        (tmp_path / "part.py").write_text(text)
        Journal(tmp_path / "kept", {"code": code(package)}).put(text, Record(NO_PICTURE, {"x": 1.5}))
    journal = Journal(tmp_path / "kept", {"code": code(package)})
    assert journal.found == 1
    assert journal.get("a = 1") is None
    record = journal.get("a = 2")
    assert record is not None and record.values == {"x": 1.5}
    (tmp_path / "kept" / "a = 2.npz").write_bytes(b"half a rec")
    assert journal.get("a = 2") is None


def test_what_was_measured_of_something_else_is_not_taken_over(
    turning_bag: Path, blind_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elvsm_ros.evaluation import measure

    class Killed(BaseException):
        pass

    def die(self: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(measure.BagEvaluation, "_render_offline", die)
        with pytest.raises(Killed):
            evaluate(turning_bag, blind_model, tmp_path)
    assert len(list((tmp_path / "unfinished").glob("*.npz"))) == 18
    status, results = evaluate(turning_bag, blind_model, tmp_path, "--max-views", "2")
    assert (status, results["timing"]["taken_over"]) == (0, 0)
