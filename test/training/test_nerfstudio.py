"""transforms.json as nerfstudio, Blender, DL3DV and ScanNet++ write it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from footage import picture, ring, save

from training.data.formats import detect, open_store
from training.data.store import DatasetError, FrameError

GL = np.diag([1.0, -1, -1, 1])
SHARED = {"w": 96, "h": 64, "fl_x": 80.0, "fl_y": 81.0, "cx": 47.0, "cy": 31.0, "camera_model": "OPENCV"}
# What nerfstudio's ns-process-data does to COLMAP's world: y and z change places, one of them turned round.
APPLIED = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ELVSM_CACHE", str(tmp_path / "cache"))


def write(folder: Path, frames: list[dict], file: str = "transforms.json", **content) -> Path:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps({**content, "frames": frames}))
    return folder


def rows(c2w: np.ndarray, names: str = "images/frame_{:05d}.png", **more) -> list[dict]:
    return [
        {"file_path": names.format(i + 1), "transform_matrix": (pose @ GL).tolist(), **more}
        for i, pose in enumerate(c2w)
    ]


def photos(
    folder: Path, count: int, names: str = "images/frame_{:05d}.png", size: tuple[int, int] = (96, 64)
) -> None:
    for i in range(count):
        save(folder / names.format(i + 1), picture(i, *size))


def test_shared_intrinsics_and_an_applied_transform(tmp_path):
    c2w = ring(12)
    moved = np.vstack([APPLIED, [0, 0, 0, 1]]) @ c2w
    moved[:, :3, 3] *= 0.25
    frames = rows(moved)
    write(tmp_path / "a", frames[::-1], **SHARED, applied_transform=APPLIED.tolist(), applied_scale=0.25)
    photos(tmp_path / "a", 12)
    assert detect(tmp_path / "a") == "nerfstudio"
    scene = open_store(tmp_path / "a").scene("a")
    np.testing.assert_allclose(np.linalg.inv(scene.w2c), c2w, atol=1e-6)
    assert [n[-6:-4] for n in scene.names] == [f"{i:02d}" for i in range(1, 13)]
    np.testing.assert_array_equal(scene.frame(3).fxfycxcy, [80, 81, 47, 31])
    np.testing.assert_array_equal(np.asarray(scene.frame(3).image), picture(3))


def test_intrinsics_of_each_frame_portrait_and_landscape(tmp_path):
    frames = rows(ring(2))
    frames[0] |= {"w": 96, "h": 64, "fl_x": 80, "fl_y": 80, "cx": 48, "cy": 32}
    frames[1] |= {"w": 64, "h": 96, "fl_x": 82, "fl_y": 82, "cx": 33, "cy": 47}
    folder = write(tmp_path / "mixed", frames)
    save(folder / "images" / "frame_00001.png", picture(0))
    save(folder / "images" / "frame_00002.png", picture(1, 64, 96))
    scene = open_store(folder).scene("mixed")
    np.testing.assert_array_equal(scene.frame(0).fxfycxcy, [80, 80, 48, 32])
    np.testing.assert_array_equal(scene.frame(1).fxfycxcy, [82, 82, 33, 47])
    # Shared intrinsics are of one orientation: the other gets no wrong geometry in silence.
    write(folder, rows(ring(2)), **SHARED)
    scene = open_store(folder).scene("mixed")
    assert scene.frame(0).image.size == (96, 64)
    with pytest.raises(FrameError, match="64x96 but its camera is for 96x64"):
        scene.frame(1)
    write(folder, rows(ring(2)), **{k: v for k, v in SHARED.items() if k not in "wh"})
    with pytest.raises(DatasetError, match="several sizes and share one cx, cy"):
        open_store(folder).scene("mixed")


def test_distortion(tmp_path):
    c2w = ring(2)
    photos(tmp_path / "d", 2)
    write(tmp_path / "d", rows(c2w), **SHARED, k1=0.1, k2=-0.05, p1=0.001, p2=0.002)
    scene = open_store(tmp_path / "d").scene("d")
    image, (fx, fy, cx, cy), _ = scene.frame(1)
    K, new = (
        np.array([[a, 0, c - 0.5], [0, b, d - 0.5], [0, 0, 1]])
        for a, b, c, d in ((80, 81, 47, 31), (fx, fy, cx, cy))
    )
    expected = cv2.undistort(picture(1), K, np.array([0.1, -0.05, 0.001, 0.002]), None, new)
    assert np.abs(np.asarray(image).astype(float) - expected).max() <= 0.5
    fisheye = {**SHARED, "camera_model": "OPENCV_FISHEYE", "k1": 0.03, "k2": 0.01, "k3": 0.0, "k4": 0.0}
    write(tmp_path / "d", rows(c2w), **fisheye)
    image, (fx, fy, cx, cy), _ = open_store(tmp_path / "d").scene("d").frame(1)
    new = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    expected = cv2.fisheye.undistortImage(picture(1), K, np.array([0.03, 0.01, 0, 0]), Knew=new)
    assert np.abs(np.asarray(image).astype(float) - expected).max() <= 0.5
    write(tmp_path / "d", rows(c2w), **{**SHARED, "camera_model": "EQUIRECTANGULAR"})
    with pytest.raises(DatasetError, match="camera model EQUIRECTANGULAR, which OpenCV does not undistort"):
        open_store(tmp_path / "d").scene("d")


def test_blender_and_instant_ngp(tmp_path):
    photos(tmp_path / "lego", 3, "train/r_{}.png")
    write(tmp_path / "lego", rows(ring(3), "./train/r_{}"), "transforms_train.json", camera_angle_x=0.8)
    scene = open_store(tmp_path / "lego").scene("lego")
    np.testing.assert_allclose(scene.frame(2).fxfycxcy, [48 / np.tan(0.4)] * 2 + [48, 32])


def test_depth(tmp_path):
    folder = write(tmp_path / "deep", rows(ring(2)), **SHARED)
    frames = rows(ring(2))
    frames[0]["depth_file_path"] = "depth/1.png"
    write(folder, frames, **SHARED)
    photos(folder, 2)
    save(folder / "depth" / "1.png", np.full((32, 48), 1500, np.uint16))
    scene = open_store(folder).scene("deep")
    np.testing.assert_allclose(scene.depth(0), np.full((32, 48), 1.5))
    assert scene.depth(1) is None


def test_what_is_wrong_with_a_file(tmp_path):
    folder = tmp_path / "x"
    photos(folder, 3)

    def reason(frames, **content) -> str:
        write(folder, frames, **content)
        with pytest.raises(DatasetError) as error:
            open_store(folder).scene("x").frame(0)
        return str(error.value)

    frames = rows(ring(3))
    assert "has no intrinsics: write fl_x" in reason(frames, w=96, h=64)
    assert "has nan as fl_x, which must be a number" in reason(frames, **{**SHARED, "fl_x": float("nan")})
    assert "has no frames" in reason([], **SHARED)
    assert "frame 0 lacks file_path or transform_matrix" in reason([{"file_path": "a.png"}], **SHARED)
    broken = [{**frames[0], "transform_matrix": [[1, 2], [3]]}]
    assert "is no 4x4 matrix" in reason(broken, **SHARED)
    assert "can be inverted" in reason(frames, **SHARED, applied_transform=np.zeros((3, 4)).tolist())
    fractions = {**SHARED, "fl_x": 0.8, "fl_y": 0.8, "cx": 0.5, "cy": 0.5}
    assert "fractions of width and height where pixels are meant" in reason(frames, **fractions)
    (folder / "transforms.json").write_text('{"frames": [')
    with pytest.raises(DatasetError, match=r"transforms.json is no JSON"):
        open_store(folder).scene("x")
    for frame in frames[:2]:
        frame["transform_matrix"][0][3] = float("nan")
    write(folder, frames, **SHARED)
    scene = open_store(folder).scene("x")
    assert scene.names == ("images/frame_00003.png",)
    assert scene.notes == ("2 frames have poses with NaN and are left out",)


def test_dl3dv_takes_the_photos_that_are_there(tmp_path):
    """The file is about 3840x2160, the published photos are an eighth or a quarter of it."""
    k = {"w": 768, "h": 512, "fl_x": 640.0, "fl_y": 648.0, "cx": 376.0, "cy": 248.0, "camera_model": "OPENCV"}
    for name, inside in (("1K/aaaa", ""), ("1K/bbbb", "nerfstudio")):
        root = tmp_path / name / inside
        write(root, rows(ring(4)), **k)
        photos(root, 4, "images_8/frame_{:05d}.png")
        photos(root, 4, "images_4/frame_{:05d}.png", (192, 128))
    assert detect(tmp_path / "1K" / "aaaa") == detect(tmp_path / "1K" / "bbbb") == "dl3dv"
    store = open_store(tmp_path)
    assert list(store.keys) == ["1K/aaaa", "1K/bbbb"]
    for key in store.keys:
        scene = store.scene(key)
        assert scene.ordered and scene.frame(0).image.size == (96, 64)
        np.testing.assert_allclose(scene.frame(0).fxfycxcy, [80, 81, 47, 31])
    larger = open_store(tmp_path, "dl3dv", {"images": "images_4"}).scene("1K/bbbb")
    np.testing.assert_allclose(larger.frame(0).fxfycxcy, [160, 162, 94, 62])
    with pytest.raises(DatasetError, match="has no folder images_2; it has images_8, images_4"):
        open_store(tmp_path / "1K" / "aaaa", options={"images": "images_2"})


def test_scannetpp(tmp_path):
    dslr = tmp_path / "data" / "0a5c013435" / "dslr"
    names = "DSC{:05d}.png"
    frames = rows(ring(5), names, is_bad=False)
    frames[1]["is_bad"] = True
    fisheye = {
        **SHARED,
        "fl_x": 50.0,
        "fl_y": 51.0,
        "camera_model": "OPENCV_FISHEYE",
        "k1": 0.03,
        "k2": 0.01,
        "k3": 0.0,
        "k4": 0.0,
    }
    write(dslr, frames[:4], "nerfstudio/transforms.json", **fisheye, test_frames=frames[4:])
    photos(dslr, 5, "resized_images/" + names)
    assert detect(tmp_path / "data" / "0a5c013435") == "scannetpp"
    store = open_store(tmp_path)
    scene = store.scene("data/0a5c013435")
    assert len(scene) == 4 and scene.metric and not scene.ordered
    assert scene.notes == ("1 photos are marked as bad and left out",)
    image, fxfycxcy, w2c = scene.frame(3)
    np.testing.assert_allclose(np.linalg.inv(w2c), ring(5)[4], atol=1e-9)
    assert image.format == "PNG" and fxfycxcy[0] != 50
    assert (
        len(open_store(tmp_path / "data" / "0a5c013435", options={"test_frames": False}).scene("0a5c013435"))
        == 3
    )
    # What its toolkit undistorted is preferred.
    write(dslr, frames, "nerfstudio/transforms_undistorted.json", **{**SHARED, "camera_model": "PINHOLE"})
    photos(dslr, 5, "resized_undistorted_images/" + names)
    save(dslr / "render_depth" / "DSC00001.png", np.full((64, 96), 2500, np.uint16))
    scene = open_store(tmp_path).scene("data/0a5c013435")
    np.testing.assert_array_equal(scene.frame(0).fxfycxcy, [80, 81, 47, 31])
    np.testing.assert_allclose(scene.depth(0), 2.5)
    assert scene.depth(1) is None
