"""COLMAP's models as COLMAP's own library writes them, and photos without distortion as OpenCV makes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from footage import picture, ring, save

from training.data import photos
from training.data.formats import detect, open_store
from training.data.readers import colmap
from training.data.store import DatasetError, FrameError

WRITTEN = Path(__file__).parent / "formats" / "colmap"
"""A model of six images and two cameras that pycolmap 4.2 wrote (formats/make_colmap.py)."""
CAMERAS = {
    "SIMPLE_PINHOLE": [80, 48, 32],
    "PINHOLE": [80, 82, 47, 31],
    "SIMPLE_RADIAL": [80, 48, 32, 0.05],
    "RADIAL": [80, 48, 32, 0.05, -0.02],
    "OPENCV": [80, 82, 47, 31, 0.1, -0.05, 0.001, 0.002],
    "FULL_OPENCV": [80, 82, 47, 31, 0.1, -0.05, 0.001, 0.002, 0.01, 0.02, 0.01, 0.003],
    "OPENCV_FISHEYE": [50, 51, 47, 31, 0.03, 0.01, -0.002, 0.001],
    "SIMPLE_RADIAL_FISHEYE": [50, 48, 32, 0.03],
    "RADIAL_FISHEYE": [50, 48, 32, 0.03, 0.01],
    "SIMPLE_FISHEYE": [50, 48, 32],
    "FISHEYE": [50, 51, 47, 31],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ELVSM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "undistorted"


@pytest.fixture
def workspace(tmp_path) -> Path:
    """Return a workspace with the written model, binary, and its photos."""
    shutil.copytree(WRITTEN / "binary", tmp_path / "hall" / "sparse" / "0")
    for i in range(6):
        save(tmp_path / "hall" / "images" / "left" / f"frame_{i}.png", picture(i))
    return tmp_path / "hall"


def opencv(image: np.ndarray, name: str, p: list[float], new: np.ndarray) -> np.ndarray:
    """Undistort as somebody would who has COLMAP's parameters and OpenCV. new: fx, fy, cx, cy of the result."""
    one = name.startswith(("SIMPLE", "RADIAL"))
    fx, fy, cx, cy = (p[0], *p[:3]) if one else p[:4]
    d = np.array(p[3 if one else 4 :], dtype=float)

    def matrix(fx, fy, cx, cy):
        return np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1.0]])

    K, target = matrix(fx, fy, cx, cy), matrix(*new)
    if "FISHEYE" in name:
        d = np.concatenate([d, np.zeros(4 - len(d))])
        return cv2.fisheye.undistortImage(image, K, d, Knew=target)
    return cv2.undistort(image, K, np.concatenate([d, np.zeros(max(0, 4 - len(d)))]), None, target)


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize("name", CAMERAS)
def test_what_pycolmap_writes_is_read(name, text, tmp_path):
    pycolmap = pytest.importorskip(
        "pycolmap", reason="needs COLMAP's library to write a model: pip install pycolmap"
    )
    root, c2w = tmp_path / "site", ring(4)
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(camera_id=7, model=name, width=96, height=64, params=CAMERAS[name])
    )
    for i, w2c in enumerate(np.linalg.inv(c2w)):
        image = pycolmap.Image(name=f"{i}.png", camera_id=7, image_id=i + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(w2c[:3]))
        save(root / "images" / f"{i}.png", picture(i))
    (root / "sparse").mkdir()
    (model.write_text if text else model.write_binary)(str(root / "sparse"))
    scene = open_store(root).scene("site")
    np.testing.assert_allclose(np.linalg.inv(scene.w2c), c2w, atol=1e-6 * 2)
    image, fxfycxcy, _ = scene.frame(2)
    expected = opencv(picture(2), name, CAMERAS[name], fxfycxcy)
    difference = np.abs(np.asarray(image).astype(float) - expected)
    assert difference.mean() <= 0.05 and difference.max() <= 0.5
    assert (np.asarray(image).sum(-1) > 0).mean() > 0.98, "blank pixels"
    if name == "PINHOLE":
        np.testing.assert_array_equal(fxfycxcy, [80, 82, 47, 31])
        assert scene.encoded(2) == (root / "images" / "2.png").read_bytes()


def test_an_undistorted_pixel_shows_what_its_ray_meets():
    """The pinhole camera and the pixels agree: a point of the scene lands where the new intrinsics say."""
    camera = colmap.Camera("OPENCV_FISHEYE", 96, 64, tuple(CAMERAS["OPENCV_FISHEYE"]))
    _, lens = colmap.calibration(camera, "here")
    # A picture whose red is the x and whose green is the y of each pixel's ray on the plane z = 1.
    v, u = np.mgrid[0:64, 0:96]
    K = np.array([[50, 0, 46.5], [0, 51, 30.5], [0, 0, 1.0]])
    rays = cv2.fisheye.undistortPoints(
        np.stack([u, v], -1).reshape(-1, 1, 2).astype(float), K, np.array([0.03, 0.01, -0.002, 0.001])
    ).reshape(64, 96, 2)
    seen = lens.undistort(rays.astype(np.float32))
    fx, fy, cx, cy = lens.pinhole
    expected = np.stack([(u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy], -1)
    np.testing.assert_allclose(seen[4:-4, 4:-4], expected[4:-4, 4:-4], atol=2e-3)


def test_a_committed_model_in_both_forms(workspace, tmp_path):
    binary = open_store(workspace).scene("hall")
    shutil.copytree(WRITTEN / "text", tmp_path / "text" / "sparse")
    shutil.copytree(workspace / "images", tmp_path / "text" / "images")
    text = open_store(tmp_path / "text").scene("text")
    np.testing.assert_allclose(text.w2c, binary.w2c, atol=1e-12)
    np.testing.assert_allclose(text.intrinsics, binary.intrinsics, rtol=1e-12)
    assert text.names == binary.names == tuple(f"left/frame_{i}.png" for i in range(6))
    np.testing.assert_allclose(np.linalg.inv(binary.w2c), ring(6), atol=1e-9)
    assert not binary.ordered and not binary.metric
    # The points lie around the origin, two from every camera.
    np.testing.assert_allclose(binary.distance(), 2.0, atol=0.3)
    np.testing.assert_allclose(text.distance(), binary.distance(), rtol=1e-6)


def test_photos_are_undistorted_once(workspace, cache, caplog):
    scene = open_store(workspace).scene("hall")
    first = scene.encoded(0)
    (kept,) = cache.rglob("*.png")
    before = kept.stat().st_mtime_ns
    assert scene.encoded(0) == first and kept.stat().st_mtime_ns == before
    # Another photo under the same name is another photo.
    save(workspace / "images" / "left" / "frame_0.png", picture(99))
    assert scene.encoded(0) != first
    # Without a cache it works all the same, and says so once.
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    photos._warn.cache_clear()
    assert [len(scene.encoded(i)) > 0 for i in range(3)] == [True] * 3
    assert [r.message for r in caplog.records].count(caplog.records[-1].message) == 1
    assert "cannot be kept" in caplog.records[-1].message


def test_photos_of_another_size(workspace):
    scene = open_store(workspace).scene("hall")
    save(workspace / "images" / "left" / "frame_1.png", picture(1, 48, 32))
    image, fxfycxcy, _ = scene.frame(1)
    assert image.size == (48, 32)
    np.testing.assert_allclose(fxfycxcy, scene.intrinsics[1] / 2)
    save(workspace / "images" / "left" / "frame_2.png", picture(2, 64, 96))
    with pytest.raises(FrameError, match="64x96 but its camera is for 96x64: was it turned"):
        scene.frame(2)
    save(workspace / "images" / "left" / "frame_5.png", picture(2, 64, 96))  # of the camera without a lens
    with pytest.raises(FrameError, match="64x96 but its camera is for 96x64: was it turned"):
        scene.frame(5)
    (workspace / "images" / "left" / "frame_3.png").unlink()
    with pytest.raises(FrameError, match="frame 3 of scene hall is missing"):
        scene.frame(3)
    (workspace / "images" / "left" / "frame_4.png").write_bytes(b"\x89PNG what a pity")
    with pytest.raises(FrameError, match="does not decode"):
        scene.frame(4)


def test_unregistered_photos_are_counted(workspace):
    for i in range(3):
        save(workspace / "images" / f"other_{i}.jpg", picture(i))
    (note,) = open_store(workspace).scene("hall").notes
    assert note.startswith("3 photos in ") and note.endswith("not registered in the model and are left out")


@pytest.mark.parametrize("missing", ["cameras", "images"])
def test_a_missing_file_is_named(workspace, missing):
    (workspace / "sparse" / "0" / f"{missing}.bin").unlink()
    assert detect(workspace) == "colmap"
    with pytest.raises(DatasetError, match=rf"lacks {missing}\.(bin|txt): copy the whole model"):
        open_store(workspace).scene("hall")


def test_points_may_be_missing(workspace):
    (workspace / "sparse" / "0" / "points3D.bin").unlink()
    assert np.isnan(open_store(workspace).scene("hall").distance()).all()


@pytest.mark.parametrize("name", ["cameras", "images"])
def test_every_truncated_file_is_an_error(workspace, name):
    file = workspace / "sparse" / "0" / f"{name}.bin"
    data = file.read_bytes()
    for length in {*range(0, min(len(data), 200), 7), len(data) // 2, len(data) - 1}:
        file.write_bytes(data[:length])
        with pytest.raises(DatasetError, match=f"{name}.bin is truncated or not a file of COLMAP"):
            open_store(workspace).scene("hall")


def test_cameras_that_opencv_does_not_undistort(workspace, tmp_path):
    shutil.copytree(WRITTEN / "text", tmp_path / "text" / "sparse")
    file = tmp_path / "text" / "sparse" / "cameras.txt"
    lines = [line for line in file.read_text().splitlines() if line.startswith("#")]

    def reason(camera: str) -> str:
        file.write_text("\n".join([*lines, f"1 {camera}", "2 PINHOLE 96 64 80 80 48 32"]))
        with pytest.raises(DatasetError) as error:
            open_store(tmp_path / "text").scene("text")
        return str(error.value)

    assert "run `colmap image_undistorter`" in reason("FOV 96 64 80 80 48 32 0.9")
    assert "unknown model, NEW_ONE" in reason("NEW_ONE 96 64 80")
    assert "camera 1 has 3 parameters" in reason("PINHOLE 96 64 80 80 48")
    assert "focal lengths that are not positive" in reason("PINHOLE 96 64 nan 80 48 32")
    assert "which no camera has" in reason("PINHOLE 96 64 8000 8000 4800 3200")
    assert "leave nothing of a picture" in reason("RADIAL 96 64 80 48 32 -50 0")


def test_several_models_are_several_scenes(workspace):
    shutil.copytree(workspace / "sparse" / "0", workspace / "sparse" / "1")
    (workspace / "sparse" / "1" / "images.bin").write_bytes(b"\0" * 8)
    store = open_store(workspace)
    assert list(store.keys) == ["hall/0", "hall/1"]
    assert len(store.scene("hall/0")) == 6
    with pytest.raises(DatasetError, match="has no registered image"):
        store.scene("hall/1")


def test_options(workspace, tmp_path):
    shutil.move(workspace / "images", tmp_path / "photos")
    options = {"images": str(tmp_path / "photos"), "ordered": True, "metric": True}
    scene = open_store(workspace, "colmap", options).scene("hall")
    assert scene.ordered and scene.metric and scene.frame(5).image.size == (96, 64)
    with pytest.raises(DatasetError, match="there is no folder of photos"):
        open_store(workspace, "colmap", {"images": "nowhere"}).scene("hall")
