"""TUM RGB-D sequences: association by time, calibration, depth, and files with faults."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from footage import picture, ring, save
from scipy.spatial.transform import Rotation, Slerp

from training.data.formats import detect, open_store
from training.data.store import DatasetError

START = 1305031102.0


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ELVSM_CACHE", str(tmp_path / "cache"))


def sequence(folder: Path, count: int = 6, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """Write a sequence: images every 33 ms, depths 5 ms later, poses at 100 Hz; returns c2w of all poses."""
    c2w = ring(4 * count, turn=60)
    head = "# a file\n# of a sequence\n"
    stamps = [START + 0.02 + i / 30 for i in range(count)]
    for i, stamp in enumerate(stamps):
        save(folder / "rgb" / f"{stamp:.6f}.png", picture(i, *size))
        save(folder / "depth" / f"{stamp + 0.005:.6f}.png", np.full(size[::-1], 5000 + i, np.uint16))
    for kind, late in (("rgb", 0), ("depth", 0.005)):
        lines = [f"{s + late:.6f} {kind}/{s + late:.6f}.png" for s in stamps]
        (folder / f"{kind}.txt").write_text(head + "\n".join(lines) + "\n")
    lines = []
    for i, pose in enumerate(c2w):
        q = Rotation.from_matrix(pose[:3, :3]).as_quat()
        lines.append(" ".join(f"{v:.9f}" for v in (START + i / 100, *pose[:3, 3], *q)))
    (folder / "groundtruth.txt").write_text(head + "\n".join(lines) + "\n")
    return c2w


def test_a_sequence_of_a_known_kinect(tmp_path):
    folder = tmp_path / "rgbd_dataset_freiburg1_xyz"
    c2w = sequence(folder, size=(640, 480))
    assert detect(folder) == "tum"
    scene = open_store(folder).scene(folder.name)
    assert scene.metric and scene.ordered and len(scene) == 6
    times = np.arange(24) / 100
    wanted = 0.02 + np.arange(6) / 30
    expected = np.tile(np.eye(4), (6, 1, 1))
    expected[:, :3, :3] = Slerp(times, Rotation.from_matrix(c2w[:, :3, :3]))(wanted).as_matrix()
    expected[:, :3, 3] = np.stack([np.interp(wanted, times, c2w[:, k, 3]) for k in range(3)], 1)
    # Its stamps have microseconds: the interpolation is as good as these.
    np.testing.assert_allclose(np.linalg.inv(scene.w2c), expected, atol=2e-5)
    image, (fx, fy, cx, cy), _ = scene.frame(2)
    K = np.array([[517.3, 0, 318.6], [0, 516.5, 255.3], [0, 0, 1]])
    new = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    expected = cv2.undistort(
        picture(2, 640, 480), K, np.array([0.2624, -0.9531, -0.0054, 0.0026, 1.1633]), None, new
    )
    assert np.abs(np.asarray(image).astype(float) - expected).max() <= 0.5
    np.testing.assert_allclose(scene.depth(3), 5003 / 5000)
    np.testing.assert_allclose(np.diff(scene.stamps) / 1e9, 1 / 30, atol=2e-6)


def test_poses_at_the_stamps_come_back_exactly(tmp_path):
    folder = tmp_path / "lab"
    c2w = sequence(folder)
    names = [line.split()[1] for line in (folder / "rgb.txt").read_text().splitlines()[2:]]
    (folder / "rgb.txt").write_text("\n".join(f"{START + 0.04 * i:.6f} {n}" for i, n in enumerate(names)))
    options = {"camera": [150.0, 151.0, 79.5, 59.5], "size": [160, 120]}
    scene = open_store(folder, options=options).scene("lab")
    np.testing.assert_allclose(np.linalg.inv(scene.w2c), c2w[::4], atol=1e-6)
    np.testing.assert_array_equal(scene.frame(0).fxfycxcy, [150, 151, 80, 60])


def test_faults(tmp_path):
    folder = tmp_path / "lab"
    sequence(folder)
    with pytest.raises(DatasetError, match="does not tell its calibration, and its name names no Kinect"):
        open_store(folder)
    options = {"camera": [150.0, 151.0, 79.5, 59.5], "size": [160, 120]}
    truth, listing = (folder / "groundtruth.txt").read_text(), (folder / "rgb.txt").read_text()

    def scene():
        return open_store(folder, "tum", options).scene("lab")

    lines = truth.splitlines()
    (folder / "groundtruth.txt").write_text(
        "\n".join([*lines[:4], "1305031102.02 nan nan nan 0 0 0 1", *lines[16:]])
    )
    found = scene()
    assert len(found) == 2
    assert "1 lines of groundtruth.txt have NaN and are left out" in found.notes
    assert any(note.startswith("4 images fall into gaps of the ground truth") for note in found.notes)
    (folder / "groundtruth.txt").write_text(truth.replace("13050311", "16050311"))
    with pytest.raises(DatasetError, match="stamps of both must be of one clock"):
        scene()
    (folder / "groundtruth.txt").write_text(truth)
    shuffled = listing.splitlines()
    (folder / "rgb.txt").write_text("\n".join([*shuffled[4:], *shuffled[2:4]]))
    found = scene()
    assert (np.diff(found.stamps) > 0).all()
    assert found.notes == ("1 images stand out of order in rgb.txt and were sorted by time",)
    (folder / "rgb.txt").write_text("1305031102.02\n")
    with pytest.raises(DatasetError, match="line 1: 2 entries are needed, there are 1"):
        scene()
    (folder / "rgb.txt").write_text("soon rgb/a.png\n")
    with pytest.raises(DatasetError, match="a word where a number should be"):
        scene()
