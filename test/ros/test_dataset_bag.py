"""Recordings as training data: rosbag2 and ROS 1, through the node's own intake, and what cannot be used."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")

from PIL import Image as Pillow
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_typestore

from elvsm_ros.conversions import Intrinsics
from elvsm_ros.recordings import dataset
from elvsm_ros.recordings.bag_writer import CameraBagWriter
from elvsm_training.data.formats import detect, find_format, open_store
from elvsm_training.data.store import DatasetError
from elvsm_training.dataset import main

CAMERA = Intrinsics(70.0, 71.0, 47.0, 31.0, 96, 64)
STEP = 100_000_000
START = 1_700_000_000_000_000_000


def picture(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (12, 18, 3), dtype=np.uint8)
    return np.asarray(Pillow.fromarray(small).resize((96, 64), Pillow.Resampling.BICUBIC))


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(picture(seed)).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def pose(i: float) -> np.ndarray:
    T = np.eye(4)
    a = 0.02 * i
    T[:3, :3] = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
    T[:3, 3] = [0.05 * i, 0.01 * i, 0.0]
    return T


def write(path: Path, count: int = 30, poses=range, clock: int = 0) -> Path:
    """Write a walk: images at 10 Hz, a pose at each of them and a last one."""
    with CameraBagWriter(path) as bag:
        for i in range(count):
            stamp = START + i * STEP
            if i in poses(count):
                bag.add_pose(stamp + clock, pose(i))
            bag.add_encoded(stamp, jpeg(i), "jpeg", CAMERA)
        if poses(count):
            bag.add_pose(START + count * STEP + clock, pose(count))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ELVSM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_format_is_found_by_its_entry_point(tmp_path):
    path = write(tmp_path / "walk", 10)
    try:
        found = find_format("bag")
    except DatasetError:
        pytest.skip("needs elvsm installed with its entry points: run make")
    assert found.__name__ == dataset.__name__
    assert detect(path) == detect(next(path.glob("*.mcap"))) == "bag"
    assert detect(tmp_path) is None


def test_a_rosbag2_becomes_scenes_with_the_bytes_that_were_recorded(tmp_path, cache):
    path = write(tmp_path / "walk")
    store = dataset.open_store(path)
    assert list(store.keys) == ["walk_000"]
    scene = store.scene("walk_000")
    assert len(scene) == 30 and scene.metric and scene.ordered
    np.testing.assert_allclose(np.linalg.inv(scene.w2c), [pose(i) for i in range(30)], atol=1e-6)
    np.testing.assert_allclose(scene.intrinsics, np.tile([70, 71, 47, 31], (30, 1)))
    assert all(scene.encoded(i) == jpeg(i) for i in range(30))
    np.testing.assert_array_equal(scene.stamps, START + STEP * np.arange(30))
    # The second time nothing is read again, whatever has become of the recording's content.
    (complete,) = cache.rglob("complete.json")
    before = complete.stat().st_mtime_ns
    assert dataset.open_store(path).keys == store.keys and complete.stat().st_mtime_ns == before
    # Other options are another dataset: 12 cm between frames, scenes of 8 frames.
    sparse = dataset.open_store(path, spacing=0.12, angle=90, stretch=8)
    assert list(sparse.keys) == ["walk_000"] and len(sparse.scene("walk_000")) == 8
    assert any("2 frames in stretches of fewer than 8" in note for note in sparse.scene("walk_000").notes)
    every = dataset.open_store(path, spacing=0, angle=0, stretch=10)
    assert [len(every.scene(key)) for key in every.keys] == [10, 10, 10]


def test_a_ros_1_recording(tmp_path):
    types = get_typestore(Stores.ROS1_NOETIC)
    kinds = types.types
    time = kinds["builtin_interfaces/msg/Time"]

    def header(i: int, frame: str):
        stamp = START + i * STEP
        return kinds["std_msgs/msg/Header"](i, time(stamp // 10**9, stamp % 10**9), frame)

    path = tmp_path / "walk.bag"
    with Ros1Writer(path) as writer:
        topics = {
            "image": ("/cam/image/compressed", "sensor_msgs/msg/CompressedImage"),
            "info": ("/cam/camera_info", "sensor_msgs/msg/CameraInfo"),
            "pose": ("/pose", "geometry_msgs/msg/PoseStamped"),
        }
        c = {name: writer.add_connection(*topic, typestore=types) for name, topic in topics.items()}
        roi = kinds["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        for i in range(20):
            x, y, z = pose(i)[:3, 3]
            a = 0.01 * i
            messages = {
                "info": kinds[topics["info"][1]](
                    header(i, "cam"), 64, 96, "plumb_bob", np.array([0.1, -0.05, 0, 0, 0.0]),
                    np.array([70, 0, 47, 0, 71, 31, 0, 0, 1.0]), np.eye(3).ravel(), np.zeros(12), 0, 0, roi,
                ),
                "image": kinds[topics["image"][1]](header(i, "cam"), "jpeg", np.frombuffer(jpeg(i), np.uint8)),
                "pose": kinds[topics["pose"][1]](
                    header(i, "map"),
                    kinds["geometry_msgs/msg/Pose"](
                        kinds["geometry_msgs/msg/Point"](x, y, z),
                        kinds["geometry_msgs/msg/Quaternion"](0.0, np.sin(a), 0.0, np.cos(a)),
                    ),
                ),
            }  # fmt: skip
            for name, message in messages.items():
                writer.write(c[name], START + i * STEP, types.serialize_ros1(message, topics[name][1]))
    scene = dataset.open_store(path).scene("walk_000")
    assert len(scene) == 20
    np.testing.assert_allclose(np.linalg.inv(scene.w2c), [pose(i) for i in range(20)], atol=1e-6)
    # Distorted as it was: rectified as the node does, with the camera of the rectified picture.
    assert scene.intrinsics[0][0] != 70
    assert scene.frame(3).image.size == (96, 64) and scene.encoded(3) != jpeg(3)


def test_a_clock_that_is_set_back_begins_another_scene(tmp_path):
    with CameraBagWriter(tmp_path / "twice") as bag:
        for run in range(2):
            for i in range(15):
                # The recorder's clock goes on; rosbags writes in the order of calls.
                bag.add_pose(START + i * STEP, pose(i))
                bag.add_encoded(START + i * STEP, jpeg(i + 100 * run), "jpeg", CAMERA)
    store = dataset.open_store(tmp_path / "twice")
    lengths = [len(store.scene(key)) for key in store.keys]
    assert all((np.diff(store.scene(key).stamps) > 0).all() for key in store.keys)
    assert len(lengths) in (1, 2)  # players sort by the recorder's time


def test_recordings_that_cannot_be_used(tmp_path, capsys):
    def reason(path: Path, **options) -> str:
        with pytest.raises(DatasetError) as error:
            dataset.open_store(path, **options)
        return str(error.value)

    without = reason(write(tmp_path / "without", poses=lambda count: range(0)))
    assert "pose" in without and "holds no messages" in without
    other = reason(write(tmp_path / "other", clock=-(10**9) * 86400 * 365))
    assert "the stamps of all must be of the same clock" in other
    three = reason(write(tmp_path / "three", 3))
    assert "3 frames are usable, 8 are needed for a scene" in three
    standing = reason(write(tmp_path / "standing", 10), spacing=50.0, angle=170.0)
    assert "lower spacing and angle" in standing
    (tmp_path / "broken.mcap").write_bytes(b"\x89MCAP0\r\n" + b"x" * 100)
    assert "truncated or damaged" in reason(tmp_path / "broken.mcap")
    assert "stretch must be at least 8" in reason(tmp_path / "other", stretch=2)
    assert "no topic /nowhere" in reason(tmp_path / "other", image_topic="/nowhere")
    assert not list((tmp_path / "cache").rglob("*.json")), "nothing half-made stays"


def test_a_full_disk(tmp_path, cache, monkeypatch, capsys):
    path, written = write(tmp_path / "walk"), []

    def full(file, data):
        written.append(file)
        if len(written) > 12:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return file.open("wb").write(data)

    command = ["inspect", str(path), "--store", dataset.__file__, "--sheet", str(tmp_path / "sheet.jpg")]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert main(command) == 2
    assert "00012.jpg: No space left on device" in capsys.readouterr().err
    assert not list(cache.rglob("*.jpg")), "half of a recording stays"
    assert main(command) in (0, 1)
    assert "walk_000: 30 frames, 2.9 s, a path" in capsys.readouterr().out


def test_a_bag_to_chunks_in_one_command(tmp_path, capsys):
    path = write(tmp_path / "walk")
    store = ["--store", dataset.__file__]
    command = [
        "convert",
        str(path),
        str(tmp_path / "out"),
        "--to",
        "chunks",
        *store,
        "--option",
        "stretch=15",
    ]
    assert main(command) == 0
    assert "2 scenes written, 0 were there, 0 failed" in capsys.readouterr().out
    chunks = open_store(tmp_path / "out")
    assert list(chunks.keys) == ["walk_000", "walk_001"]
    scene = chunks.scene("walk_001")
    np.testing.assert_allclose(np.linalg.inv(scene.w2c), [pose(i) for i in range(15, 30)], atol=1e-6)
    np.testing.assert_allclose(scene.frame(0).fxfycxcy, [70, 71, 47, 31], rtol=1e-6)
    assert scene.encoded(0) == jpeg(15)
    assert main(command) == 0
    assert "0 scenes written, 2 were there" in capsys.readouterr().out
    assert main([*command[:-1], "strech=15"]) == 2
    assert "has no option 'strech': did you mean 'stretch'" in capsys.readouterr().err
