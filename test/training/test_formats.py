"""The registry of dataset formats: what a path holds, formats from outside of the tree, what is refused."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from footage import picture, ring, save

from training.data import formats
from training.data.store import DatasetError, PosedScene, Scenes, check_intrinsics

MODULE = '''
"""Photos in a folder, poses in poses.npz: a format of somebody else's, as docs/datasets.md shows it."""
import numpy as np
from elvsm_training.data.store import DatasetError, PosedScene, Scenes

SUMMARY = "poses.npz with photos"

def detect(path):
    return path.is_dir() and (path / "poses.npz").is_file()

def open_store(path, first=0):
    return Scenes({path.name: lambda: read(path, first)})

def read(path, first):
    poses = np.load(path / "poses.npz")
    files = sorted(path.glob("*.png"))[first:]
    if len(files) != len(poses["w2c"]) - first:
        raise DatasetError(f"{path}: {len(files)} photos for {len(poses['w2c']) - first} poses")
    w2c, k = poses["w2c"][first:], poses["k"][first:]
    return PosedScene(path.name, w2c, k, True, lambda i: files[i].read_bytes(), metric=True)
'''


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Return a dataset that no built-in format knows."""
    folder = tmp_path / "foreign"
    for i in range(5):
        save(folder / f"{i}.png", picture(i))
    np.savez(folder / "poses.npz", w2c=np.linalg.inv(ring(5)), k=np.tile([0.9, 1.3, 0.5, 0.5], (5, 1)))
    return folder


def test_a_format_in_one_file_outside_of_the_tree(foreign, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MODULE)
    scene = formats.open_store(foreign, str(file), {"first": 1}).scene("foreign")
    np.testing.assert_array_equal(np.asarray(scene.frame(0).image), picture(1))
    np.testing.assert_allclose(scene.frame(0).fxfycxcy, [0.9 * 96, 1.3 * 64, 48, 32])
    # The very classes of this process, whichever name the file imports them by.
    assert isinstance(scene, PosedScene)
    (foreign / "4.png").unlink()
    with pytest.raises(DatasetError, match="4 photos for 5 poses"):
        formats.open_store(foreign, str(file)).scene("foreign")


def test_a_format_of_an_installed_package(foreign, tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match="foreign is not a dataset of any known format"):
        formats.open_store(foreign)
    site = tmp_path / "site"
    (site / "npz_dataset-1.0.dist-info").mkdir(parents=True)
    (site / "npz_dataset-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: npz-dataset\nVersion: 1.0\n"
    )
    entry = "[elvsm.datasets]\nnpz = npz_dataset\nbroken = npz_nowhere\n"
    (site / "npz_dataset-1.0.dist-info" / "entry_points.txt").write_text(entry)
    (site / "npz_dataset.py").write_text(MODULE)
    monkeypatch.syspath_prepend(site)
    formats._entry_points.cache_clear()
    try:
        assert {"npz", "broken"} <= set(formats.names())
        assert formats.detect(foreign) == "npz"
        assert len(formats.open_store(foreign).scene("foreign")) == 5
        with pytest.raises(DatasetError, match=r"'broken' \(npz_nowhere\) cannot be imported"):
            formats.find_format("broken")
        with pytest.raises(DatasetError, match="has no option 'frist': did you mean 'first'"):
            formats.open_store(foreign, "npz", {"frist": 1})
    finally:
        formats._entry_points.cache_clear()
        sys.modules.pop("npz_dataset", None)


def test_the_documented_format_is_short_and_reads(foreign, tmp_path, repository):
    page = (repository / "docs" / "datasets.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    assert 10 < len(code.strip().splitlines()) <= 20
    (tmp_path / "shown.py").write_text(code)
    scene = formats.open_store(foreign, str(tmp_path / "shown.py")).scene("foreign")
    assert scene.frame(4).image.size == (96, 64) and scene.metric


def test_names_that_are_unknown(tmp_path):
    with pytest.raises(DatasetError, match="unknown dataset format 'colmpa': did you mean 'colmap'"):
        formats.find_format("colmpa")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(DatasetError, match="no function detect and no open_store"):
        formats.find_format(str(tmp_path / "empty.py"))
    (tmp_path / "broken.py").write_text("import nowhere_at_all")
    with pytest.raises(DatasetError, match="cannot be imported: No module named 'nowhere_at_all'"):
        formats.find_format(str(tmp_path / "broken.py"))
    with pytest.raises(DatasetError, match="there is no file"):
        formats.find_format(str(tmp_path / "missing.py"))
    with pytest.raises(DatasetError, match="there is no dataset"):
        formats.open_store(tmp_path / "nowhere")
    (tmp_path / "photos" / "images").mkdir(parents=True)
    with pytest.raises(DatasetError, match="it has images/ but lacks a model"):
        formats.open_store(tmp_path / "photos")


def cameras_json(folder: Path, count: int = 3, **more) -> Path:
    frames = [{"file": f"{i}.png", "c2w": pose.tolist()} for i, pose in enumerate(ring(count))]
    for i in range(count):
        save(folder / "images" / f"{i}.png", picture(i))
    content = {"w": 96, "h": 64, "fx": 80.0, "fy": 81.0, "cx": 47.0, "cy": 31.0, "frames": frames, **more}
    (folder / "cameras.json").write_text(json.dumps(content))
    return folder


def test_a_folder_of_folders_is_one_dataset(tmp_path):
    for name in ("1K/one", "1K/two", "2K/three"):
        cameras_json(tmp_path / name)
    (tmp_path / "1K" / "two" / "cameras.json").write_text("{")
    store = formats.open_store(tmp_path)
    assert list(store.keys) == ["1K/one", "1K/two", "2K/three"]
    assert store.scene("2K/three").key == "2K/three"
    # A damaged scene costs nobody else anything.
    with pytest.raises(DatasetError, match=r"two/cameras.json is no JSON"):
        store.scene("1K/two")
    with pytest.raises(DatasetError, match="there is no scene 'four'"):
        store.scene("four")
    assert list(formats.open_store(tmp_path, "cameras").keys) == list(store.keys)
    with pytest.raises(DatasetError, match="is not what colmap reads, and holds no folder that is"):
        formats.open_store(tmp_path, "colmap")


def test_many_files_in_a_folder(tmp_path):
    for number in range(20_000):
        (tmp_path / f"{number:06d}.jpg").touch()
    start = time.perf_counter()
    with pytest.raises(DatasetError, match="is not a dataset of any known format"):
        formats.open_store(tmp_path)
    assert time.perf_counter() - start < 60, "every file was looked at by every format"


def test_cameras_json_and_what_is_wrong_with_one(tmp_path):
    folder = cameras_json(tmp_path / "walk", metric=True)
    scene = formats.open_store(folder).scene("walk")
    np.testing.assert_allclose(np.linalg.inv(scene.w2c), ring(3), atol=1e-12)
    np.testing.assert_array_equal(scene.frame(1).fxfycxcy, [80, 81, 47, 31])
    assert scene.metric and scene.ordered

    def reason(**change) -> str:
        with pytest.raises(DatasetError) as error:
            formats.open_store(cameras_json(tmp_path / "other", **change)).scene("other")
        return str(error.value)

    assert "they seem to be fractions of width and height where pixels are meant" in reason(
        fx=0.9, fy=0.9, cx=0.5, cy=0.5
    )
    assert "which no camera has" in reason(cx=4 * 47.0)
    assert "every frame needs file and c2w" in reason(fx=None)
    assert "has no frames" in reason(frames=[])
    scaled = [{"file": "0.png", "c2w": np.diag([2.0, 2, 2, 1]).tolist()}]
    assert "scaled or mirrored" in reason(frames=scaled)
    mirrored = [{"file": "0.png", "c2w": np.diag([-1.0, 1, 1, 1]).tolist()}]
    assert "scaled or mirrored" in reason(frames=mirrored)
    lost = [{"file": f"{i}.png", "c2w": p.tolist()} for i, p in enumerate(ring(3))]
    lost[1]["c2w"][0][3] = float("nan")
    scene = formats.open_store(cameras_json(tmp_path / "lost", frames=lost)).scene("lost")
    assert len(scene) == 2 and scene.names == ("0.png", "2.png")
    assert scene.notes == ("1 frames have poses with NaN and are left out",)


def test_pixels_and_fractions_are_told_apart():
    check_intrinsics(np.array([[0.9, 1.6, 0.5, 0.5]]), "re10k")
    with pytest.raises(DatasetError, match="pixels where fractions of width and height are meant"):
        check_intrinsics(np.array([[576.0, 576.0, 320.0, 180.0]]), "a chunk")
    with pytest.raises(
        DatasetError, match=r"a chunk, frame 1: .* fractions of width and height where pixels"
    ):
        check_intrinsics(np.array([[0.9, 1.6, 0.5, 0.5], [0.9 / 640, 1.6 / 360, 0.001, 0.001]]), "a chunk")


def test_scenes_are_kept_for_a_while_and_not_for_ever():
    made = []

    def opener(number: int):
        return lambda: (
            made.append(number) or PosedScene(str(number), np.eye(4)[None], np.ones((1, 4)), True, bytes)
        )

    store = Scenes({f"{i:03d}": opener(i) for i in range(100)})
    for _ in range(2):
        for key in store.keys[:60]:
            store.scene(key)
    assert made == list(range(60))
    for key in store.keys:
        store.scene(key)
    store.scene("000")
    assert made[-1] == 0 and len(store._recent) == Scenes.KEPT


def test_the_evaluation_reads_any_format(tmp_path):
    from training.evaluate import DataError, load_frames
    from training.evaluation.walks import load_scene

    folder = cameras_json(tmp_path / "walk", 4)
    np.testing.assert_array_equal(load_scene(folder, (32, 32)).images, load_frames(folder, (32, 32)).images)
    np.testing.assert_allclose(
        load_scene(folder, (32, 32)).c2w, load_frames(folder, (32, 32)).c2w, atol=1e-12
    )
    cameras_json(tmp_path / "more" / "a")
    cameras_json(tmp_path / "more" / "b")
    with pytest.raises(DataError, match="has 2 scenes: for RealEstate10K give --index, too"):
        load_scene(tmp_path / "more", (32, 32))
    (folder / "images" / "2.png").unlink()
    with pytest.raises(DataError, match="frame 2 of scene walk is missing"):
        load_scene(folder, (32, 32))
