"""RealEstate10K as recordings: the bag's reader gives back the dataset's frames, poses and intrinsics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elvsm_ros.recordings import re10k_bag
from elvsm_ros.recordings.bag_reader import Bag, PosedFrames, find_streams
from training.data.conversion import chunk_entry, encode, write_chunk
from training.data.readers.re10k import open_store

FRAMES, SIZE = 12, (24, 40)


def turned(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes: JPEG; PNG with a damaged frame, a missing one, a grey one; and one that is no frames at all."""
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (FRAMES, *SIZE, 3), dtype=np.uint8)
    w2c = np.tile(np.eye(4), (FRAMES, 1, 1))
    for i in range(FRAMES):
        w2c[i, :3, :3], w2c[i, :3, 3] = turned(0.05 * i), (0.1 * i, -0.02 * i, 0.3)
    relative = np.tile([0.6, 1.0, 0.5, 0.48], (FRAMES, 1))
    relative[:, 0] += 0.001 * np.arange(FRAMES)
    png = [encode(picture, "png") for picture in pictures]
    png[4], png[7] = png[4][:60], b""
    png[9] = encode(Image.fromarray(pictures[9]).convert("L"), "png")
    entries = [
        chunk_entry("a1", [encode(picture) for picture in pictures], w2c, relative),
        chunk_entry("b2", png, w2c, relative),
        chunk_entry("c3", [b"x"] * FRAMES, w2c, relative),
    ]
    folder = tmp_path_factory.mktemp("re10k")
    write_chunk(folder / "000000.torch", entries)
    return folder


def read(path: Path):
    with Bag(path) as bag:
        frames = PosedFrames(bag, find_streams(bag))
        return list(frames), dict(frames.skipped)


def frame_numbers(frames, rate=10.0) -> list[int]:
    return [round((frame.stamp - 10**9) * rate / 10**9) for frame in frames]


def test_the_reader_gives_back_what_the_dataset_holds(dataset, tmp_path, capsys):
    assert re10k_bag.main([str(dataset), str(tmp_path / "bags"), "--scenes", "a1", "b2"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("2 bags written") and "b2: frames [4, 7] are missing" in captured.err
    store = open_store(dataset)
    for key, expected in (("a1", list(range(FRAMES))), ("b2", [0, 1, 2, 3, 5, 6, 8, 9, 10, 11])):
        scene, (frames, skipped) = store.scene(key), read(tmp_path / "bags" / key)
        assert frame_numbers(frames) == expected and not skipped
        for number, frame in zip(expected, frames, strict=True):
            truth = scene.frame(number)
            np.testing.assert_array_equal(frame.rgb(), np.asarray(truth.image.convert("RGB")))
            np.testing.assert_allclose(frame.T_world_cam @ scene.w2c[number], np.eye(4), atol=2e-6)
            k = frame.intrinsics
            np.testing.assert_allclose([k.fx, k.fy, k.cx, k.cy], truth.fxfycxcy, rtol=1e-12)
            assert (k.height, k.width) == SIZE
        if key == "a1":
            assert bytes(frames[5].message.data) == scene.encoded(5)  # not encoded twice


def test_the_index_chooses_scenes_and_frames(dataset, tmp_path, capsys):
    index = tmp_path / "index.json"
    entries = {"a1": {"context": [2, 9], "target": [3, 5, 10]}, "b2": None, "elsewhere": None}
    index.write_text(json.dumps(entries))
    options = ["--index", str(index), "--rate", "4", "--scale", "2.5"]
    assert re10k_bag.main([str(dataset), str(tmp_path / "bags"), *options]) == 0
    assert [path.name for path in (tmp_path / "bags").iterdir()] == ["a1"]
    frames, _ = read(tmp_path / "bags" / "a1")
    assert frame_numbers(frames, 4) == list(range(2, 11))
    centre = np.linalg.inv(open_store(dataset).scene("a1").w2c[2])[:3, 3]
    np.testing.assert_allclose(frames[0].T_world_cam[:3, 3], 2.5 * centre, atol=1e-6)
    assert re10k_bag.main([str(dataset), str(tmp_path / "bags"), *options]) == 0
    words = f"0 bags written to {tmp_path / 'bags'}, 1 were there, 0 scenes failed\n"
    assert capsys.readouterr().out.endswith(words)
    index.write_text(json.dumps({"elsewhere": entries["a1"]}))
    assert re10k_bag.main([str(dataset), str(tmp_path / "more"), "--index", str(index)]) == 2
    assert "is it the training split" in capsys.readouterr().err
    index.write_text(json.dumps({"a1": {"context": [2, 90], "target": [5]}}))
    assert re10k_bag.main([str(dataset), str(tmp_path / "more"), "--index", str(index)]) == 1
    assert "has 12 frames, not all that were asked for" in capsys.readouterr().err


def test_what_cannot_be_written_is_said_and_leaves_nothing(dataset, tmp_path, capsys, monkeypatch):
    assert re10k_bag.main([str(dataset), str(tmp_path / "bags")]) == 1
    assert "none of the frames of scene c3 decodes" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "bags").iterdir()) == ["a1", "b2"]

    def refused(*arguments: str) -> str:
        assert re10k_bag.main([str(dataset), str(tmp_path / "none"), *arguments]) == 2
        return capsys.readouterr().err

    assert "there is no scene d4; there are 3, a1 for example" in refused("--scenes", "d4")
    assert "rate must be a positive number" in refused("--rate", "0")
    assert "there is no evaluation index" in refused("--index", str(tmp_path / "nowhere.json"))
    assert re10k_bag.main([str(tmp_path / "nowhere"), str(tmp_path / "none")]) == 2
    assert "there is no dataset" in capsys.readouterr().err

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("elvsm_ros.recordings.bag_writer.CameraBagWriter.add_encoded", full)
    assert "No space left on device; bags that are there are complete" in refused("--scenes", "a1")
    assert list((tmp_path / "none").iterdir()) == []


def test_poses_that_are_no_rigid_motions_are_refused(dataset):
    scene = open_store(dataset).scene("a1")
    scene.w2c[3, :3, :3] *= 1.2
    with pytest.raises(re10k_bag.DatasetError, match="no rotations"):
        re10k_bag.poses(scene)
    scene.w2c[3, :3, :3] = np.diag([1, 1, -1])
    with pytest.raises(re10k_bag.DatasetError, match="no rotations"):
        re10k_bag.poses(scene)


@pytest.mark.parametrize("name", ["../outside", "/tmp/elvsm-outside", "..", ".hidden"])
def test_a_scenes_name_leads_nowhere(tmp_path, capsys, name):
    w2c = np.tile(np.eye(4), (FRAMES, 1, 1))
    png = [encode(np.zeros((*SIZE, 3), dtype=np.uint8), "png")] * FRAMES
    write_chunk(
        tmp_path / "000000.torch", [chunk_entry(name, png, w2c, np.tile([0.6, 1.0, 0.5, 0.5], (FRAMES, 1)))]
    )
    out = tmp_path / "deep" / "out"
    assert re10k_bag.main([str(tmp_path), str(out)]) == 1
    assert "not a plain file name" in capsys.readouterr().err
    assert not out.exists() and [p.name for p in tmp_path.iterdir()] == ["000000.torch"]
