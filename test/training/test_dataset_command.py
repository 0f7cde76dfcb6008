"""elvsm_dataset: what inspect finds, and conversions there and back."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from footage import picture, ring, save
from PIL import Image

from training.data import export
from training.data.formats import open_store
from training.data.inspection import inspect_scene, inspect_store
from training.dataset import main

WALK = 40
"""Frames of the office walk that are looked at."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ELVSM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def office(test_data, tmp_path) -> Path:
    """Return the first frames of a real walk."""
    target = tmp_path / "office"
    (target / "images").mkdir(parents=True)
    content = json.loads((test_data / "office_walk" / "cameras.json").read_text())
    content["frames"] = content["frames"][:WALK]
    for frame in content["frames"]:
        shutil.copy(test_data / "office_walk" / "images" / frame["file"], target / "images")
    (target / "cameras.json").write_text(json.dumps(content))
    return target


def changed(folder: Path, change) -> list[str]:
    """Return what inspect complains about after a change to the file of cameras."""
    file = folder / "cameras.json"
    before = file.read_text()
    content = json.loads(before)
    change(content)
    file.write_text(json.dumps(content))
    try:
        return list(inspect_scene(open_store(folder).scene(folder.name))[0].problems)
    finally:
        file.write_text(before)


def each_pose(function):
    def change(content):
        for frame in content["frames"]:
            frame["c2w"] = function(np.array(frame["c2w"])).tolist()

    return change


@pytest.mark.slow
def test_inspect_tells_what_is_wrong_with_real_footage(office):
    assert changed(office, lambda content: None) == []
    (inverted,) = changed(office, each_pose(np.linalg.inv))
    assert "read as “inverted”" in inverted and "invert them" in inverted
    (graphics,) = changed(office, each_pose(lambda T: T @ np.diag([1.0, -1, -1, 1])))
    assert "read as “graphics axes”" in graphics

    twice = changed(office, lambda c: c.update({k: 2 * c[k] for k in ("fx", "fy", "cx", "cy")}))
    assert any("intrinsics × 1/2" in p and "for a picture of twice the size" in p for p in twice)

    def shuffled(content):
        poses = [frame["c2w"] for frame in content["frames"]]
        for frame, pose in zip(content["frames"], poses[17:] + poses[:17], strict=True):
            frame["c2w"] = pose

    assert any("do not fit the pictures" in p for p in changed(office, shuffled))


def test_inspect_tells_of_stamps_jumps_and_cameras_that_stand(tmp_path):
    folder = tmp_path / "hall"
    for i in range(20):
        save(folder / "images" / f"{i}.png", picture(i))
    frames = [{"file": f"{i}.png", "c2w": p.tolist(), "stamp": i / 10} for i, p in enumerate(ring(20))]
    content = {
        "w": 96,
        "h": 64,
        "fx": 80.0,
        "fy": 80.0,
        "cx": 48.0,
        "cy": 32.0,
        "metric": True,
        "frames": frames,
    }
    (folder / "cameras.json").write_text(json.dumps(content))
    assert changed(folder, lambda content: None) == []

    def back(content):
        content["frames"][5]["stamp"] = 0.2
        content["frames"][9]["stamp"] = content["frames"][8]["stamp"]

    problems = changed(folder, back)
    assert any("1 frames are older than the one before" in p for p in problems)
    assert any("1 frames have the stamp of the one before" in p for p in problems)

    def jump(content):
        for frame in content["frames"][12:]:
            frame["c2w"][0][3] += 50

    assert any("the path jumps 1 times, first between 11.png and 12.png" in p for p in changed(folder, jump))
    standing = changed(folder, lambda c: [f.update(c2w=frames[0]["c2w"]) for f in c["frames"]])
    assert any("all cameras are at one place" in p for p in standing)
    assert any(
        "11° across, which few cameras do" in p
        for p in changed(folder, lambda c: c.update(fx=500.0, fy=500.0))
    )
    assert any("far from the middle" in p for p in changed(folder, lambda c: c.update(cx=90.0)))
    assert any("was the image squeezed" in p for p in changed(folder, lambda c: c.update(fy=40.0)))
    (folder / "images" / "3.png").unlink()
    (problem,) = changed(folder, lambda content: None)
    assert problem.startswith("1 of ") and problem.endswith("3 of scene hall is missing")


def test_the_command_inspects_and_says_so_in_its_status(tmp_path, capsys, mini_re10k, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status = main(["inspect", str(mini_re10k), "--json", "found.json"])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert status == (0 if found["healthy"] else 1)
    assert f"{mini_re10k}: re10k: 3 scenes" in printed and "32 frames, a path" in printed
    assert len(found["looked_at"]) == 3 and found["looked_at"][0]["sizes"] == {"64x36": 16}
    with Image.open(tmp_path / "contact_sheet.jpg") as sheet:
        assert sheet.width > 600 and np.asarray(sheet).std() > 20
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("elvsm_dataset: there is no dataset")
    assert main(["formats"]) == 0
    listed = capsys.readouterr().out
    assert all(
        name in listed for name in ("re10k", "colmap", "nerfstudio", "dl3dv", "scannetpp", "tum", "cameras")
    )
    assert main(["inspect", str(mini_re10k), "--option", "nonsense"]) == 2


@pytest.mark.parametrize("form", ["cameras", "nerfstudio", "colmap", "folders", "chunks"])
def test_there_and_back(form, mini_re10k, mini_scenes, tmp_path, capsys):
    """RealEstate10K into each format and from there into chunks: nothing of it changes."""
    assert main(["convert", str(mini_re10k), str(tmp_path / "there"), "--to", form, "--encoding", "png"]) == 0
    assert "3 scenes written, 0 were there, 0 failed" in capsys.readouterr().out
    assert main(["convert", str(mini_re10k), str(tmp_path / "there"), "--to", form]) == 0
    assert "0 scenes written, 3 were there, 0 failed" in capsys.readouterr().out
    back = ["convert", str(tmp_path / "there"), str(tmp_path / "back"), "--to", "chunks", "--encoding", "png"]
    assert main(back) == 0
    store = open_store(tmp_path / "back")
    assert list(store.keys) == sorted(mini.key for mini in mini_scenes)
    for mini in mini_scenes:
        scene = store.scene(mini.key)
        np.testing.assert_allclose(scene.w2c, mini.w2c, atol=1e-6)
        np.testing.assert_allclose(scene.intrinsics, mini.relative, atol=1e-6)
        for i in (0, 13, 31):
            np.testing.assert_array_equal(np.asarray(scene.frame(i).image), mini.images[i])


def test_depth_and_stamps_survive(tmp_path):
    folder = tmp_path / "in"
    for i in range(4):
        save(folder / "images" / f"{i}.png", picture(i))
        save(folder / "depth" / f"{i}.png", np.full((64, 96), 1234 + i, np.uint16))
    frames = [
        {"file": f"{i}.png", "depth": f"{i}.png", "c2w": p.tolist(), "stamp": 5 + i / 8}
        for i, p in enumerate(ring(4))
    ]
    content = {
        "w": 96,
        "h": 64,
        "fx": 80.0,
        "fy": 80.0,
        "cx": 48.0,
        "cy": 32.0,
        "metric": True,
        "frames": frames,
    }
    (folder / "cameras.json").write_text(json.dumps(content))
    for form in ("cameras", "nerfstudio"):
        assert main(["convert", str(folder), str(tmp_path / form), "--to", form]) == 0
        scene = open_store(tmp_path / form).scene("in")
        np.testing.assert_allclose(scene.depth(2), 1.236, rtol=1e-5)
    assert open_store(tmp_path / "cameras").scene("in").stamps.tolist() == [
        int((5 + i / 8) * 1e9) for i in range(4)
    ]
    assert open_store(tmp_path / "cameras").scene("in").metric


def test_smaller_images(mini_re10k, tmp_path):
    assert (
        main(["convert", str(mini_re10k), str(tmp_path / "small"), "--to", "cameras", "--height", "18"]) == 0
    )
    store = open_store(mini_re10k)
    for key in store.keys:
        scene = open_store(tmp_path / "small").scene(key)
        image, fxfycxcy, _ = scene.frame(3)
        assert image.size == (32, 18)
        np.testing.assert_allclose(fxfycxcy, store.scene(key).frame(3).fxfycxcy / 2)
    assert main(["convert", str(mini_re10k), str(tmp_path / "tiny"), "--to", "cameras", "--height", "2"]) == 2


def test_an_interrupted_conversion_is_resumed_and_damage_is_repaired(
    mini_re10k, tmp_path, monkeypatch, capsys
):
    command = ["convert", str(mini_re10k), str(tmp_path / "out"), "--to", "nerfstudio", "--workers", "1"]
    whole, count = export.write_bytes, []

    def full(path, data):
        count.append(path)
        if len(count) > 50:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        whole(path, data)

    monkeypatch.setattr(export, "write_bytes", full)
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "No space left on device" in message and "the same command resumes" in message
    monkeypatch.setattr(export, "write_bytes", whole)
    assert main(command) == 0
    assert "2 scenes written, 1 were there" in capsys.readouterr().out
    (victim,) = list((tmp_path / "out").glob("*/images/00007.png"))[:1]
    victim.write_bytes(victim.read_bytes()[:100])
    assert main(command) == 0
    assert "1 scenes written, 2 were there" in capsys.readouterr().out


def test_only_a_part_of_many_scenes_is_looked_at(mini_re10k):
    found, pictures = inspect_store(open_store(mini_re10k), "re10k", most=1)
    assert found.scenes == 3 and len(found.looked_at) == 1 and len(pictures) == 16
    assert "3 scenes, 1 looked at" in found.lines()[0]
