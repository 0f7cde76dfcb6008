"""Recordings: what is written is read back; topics are found by type; what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from recordings import CAMERA, SECOND, message, picture, pose, write_topics, write_walk
from rosbags.rosbag1 import Writer as Writer1
from rosbags.typesys import Stores, get_typestore

from elvsm_ros.conversions import stamp_ns
from elvsm_ros.recordings.bag_reader import Bag, BagError, PosedFrames, PosedImage, find_streams
from elvsm_ros.recordings.bag_writer import STREAMS, CameraBagWriter

COMPRESSED, RAW = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"
INFO, POSE, ODOM = "sensor_msgs/msg/CameraInfo", "geometry_msgs/msg/PoseStamped", "nav_msgs/msg/Odometry"
CAMERA_TOPICS = {"/cam/image/compressed": COMPRESSED, "/cam/camera_info": INFO, "/cam/pose": POSE}


def frames(path: Path, **options) -> list[PosedImage]:
    with Bag(path) as bag:
        return list(PosedFrames(bag, find_streams(bag), **options))


# Writing and reading


def test_what_was_written_is_read_back(small_walk: Path) -> None:
    read = frames(small_walk)
    assert [f.stamp for f in read] == [round((1 + k / 5) * SECOND) for k in range(10)]
    for k, frame in enumerate(read):
        assert frame.intrinsics == CAMERA
        # Poses were recorded at other moments: these are interpolated.
        np.testing.assert_allclose(frame.T_world_cam, pose(k / 5), atol=1e-6)
        assert np.abs(frame.rgb().astype(int) - picture(k)).mean() < 4  # JPEG


def test_images_and_poses_have_stamps_of_their_own(small_walk: Path) -> None:
    with Bag(small_walk) as bag:
        stamps = {topic: [] for topic in bag.topics}
        for topic, time, received in bag.messages(tuple(bag.topics)):
            assert stamp_ns(received.header.stamp) == time
            stamps[topic.name].append(time)
    assert len(stamps[STREAMS.pose.name]) == 31
    assert not set(stamps[STREAMS.image.name]) & set(stamps[STREAMS.pose.name])
    assert stamps[STREAMS.image.name] == stamps[STREAMS.camera_info.name]


def test_messages_are_what_was_written(tmp_path: Path) -> None:
    path = write_topics(tmp_path / "bag", CAMERA_TOPICS, count=2)
    with Bag(path) as bag:
        read = list(bag.messages(tuple(CAMERA_TOPICS)))
    assert len(read) == 6
    for topic, time, received in read:
        assert received == message(topic.type, (time - SECOND) / SECOND)


def test_seconds_cut_a_recording(small_walk: Path) -> None:
    assert len(frames(small_walk, seconds=1.0)) in (4, 5)


@pytest.mark.parametrize("inside", ["", "walk.mcap"])
def test_a_folder_and_its_file_are_the_same(small_walk: Path, inside: str) -> None:
    assert len(frames(small_walk / inside)) == 10


def test_sqlite(tmp_path: Path) -> None:
    assert len(frames(write_topics(tmp_path / "bag", CAMERA_TOPICS, sqlite=True))) == 4


def test_ros1(tmp_path: Path) -> None:
    """A bag of ROS 1 comes out as CDR, sequence numbers and capital letters left behind."""
    store1, store2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_KILTED)
    with Writer1(tmp_path / "old.bag") as writer:
        connections = {
            n: writer.add_connection(n, kind, typestore=store1) for n, kind in CAMERA_TOPICS.items()
        }
        for k in range(3):
            for name, kind in CAMERA_TOPICS.items():
                new = store2.deserialize_cdr(serialize_message(message(kind, k / 10)), kind)
                writer.write(
                    connections[name], SECOND + k, store1.serialize_ros1(_as_ros1(new, store1), kind)
                )
    read = frames(tmp_path / "old.bag")
    assert len(read) == 3
    assert read[1].intrinsics == CAMERA
    np.testing.assert_allclose(read[1].T_world_cam, pose(0.1), atol=1e-9)
    np.testing.assert_array_equal(read[1].rgb(), picture(3))


def _as_ros1(new, store):
    """Rebuild a ROS 2 message of rosbags as ROS 1 has it: a seq in the header, capital D K R P in CameraInfo."""
    types = store.types
    header = types["std_msgs/msg/Header"](seq=7, stamp=new.header.stamp, frame_id=new.header.frame_id)
    names = {"d": "D", "k": "K", "r": "R", "p": "P"} if new.__msgtype__ == INFO else {}
    values = {names.get(k, k): v for k, v in vars(new).items() if not k.startswith("__")}
    return types[new.__msgtype__](**{**values, "header": header})


def test_odometry_and_where_the_camera_sits_on_the_body(tmp_path: Path) -> None:
    path = write_topics(tmp_path / "bag", {"/image": RAW, "/camera_info": INFO, "/odom": ODOM})
    offset = pose(2.0)
    for k, frame in enumerate(frames(path, T_body_cam=offset)):
        np.testing.assert_allclose(frame.T_world_cam, pose(k / 10) @ offset, atol=1e-9)


def test_images_without_a_pose_are_counted(tmp_path: Path) -> None:
    with CameraBagWriter(tmp_path / "bag") as writer:
        writer.add_image(1 * SECOND, picture(0), CAMERA)  # before the first pose
        for seconds in (2, 3, 3.2):
            writer.add_pose(round(seconds * SECOND), pose(seconds))
        writer.add_image(round(2.5 * SECOND), picture(0), CAMERA)  # in a gap of a second
        writer.add_image(round(3.1 * SECOND), picture(0), CAMERA)
        writer.add_image(round(3.9 * SECOND), picture(0), CAMERA)  # after the last pose
    with Bag(tmp_path / "bag") as bag:
        posed = PosedFrames(bag, find_streams(bag))
        assert [f.stamp for f in posed] == [round(3.1 * SECOND)]
        assert sum(posed.skipped.values()) == 3
        assert posed.skipped["image: gap"] == posed.skipped["image: before"] == 1


def test_an_interrupted_recording_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), CameraBagWriter(tmp_path / "bag") as writer:
        writer.add_pose(SECOND, pose(0))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(small_walk: Path) -> None:
    with pytest.raises(FileExistsError, match="is there already"):
        CameraBagWriter(small_walk)


def test_office_bag(office_bag: Path) -> None:
    read = frames(office_bag)
    assert len(read) == 120
    assert read[0].rgb().shape == (256, 384, 3)
    assert read[0].intrinsics.width == 384


# Finding topics


def streams(tmp_path: Path, topics: dict[str, str], **names: str) -> tuple[str, str, str]:
    with Bag(write_topics(tmp_path / "bag", topics, count=1)) as bag:
        return find_streams(bag, **names).names


def test_the_only_ones_are_found(tmp_path: Path) -> None:
    assert streams(tmp_path, CAMERA_TOPICS) == tuple(CAMERA_TOPICS)


def test_compressed_goes_before_its_raw_sibling(tmp_path: Path) -> None:
    topics = {"/cam/image": RAW, "/cam/image/compressedDepth": COMPRESSED, **CAMERA_TOPICS}
    assert streams(tmp_path, topics)[0] == "/cam/image/compressed"


def test_the_camera_info_beside_the_image_is_taken(tmp_path: Path) -> None:
    assert streams(tmp_path, {"/aux/camera_info": INFO, **CAMERA_TOPICS})[1] == "/cam/camera_info"


def test_empty_topics_do_not_count(tmp_path: Path) -> None:
    assert streams(tmp_path, {"/other/image": f"!{RAW}", "/odom": f"!{ODOM}", **CAMERA_TOPICS}) == tuple(
        CAMERA_TOPICS
    )


def test_names_given_are_taken(tmp_path: Path) -> None:
    topics = {"/left/image": RAW, "/odom": ODOM, **CAMERA_TOPICS}
    assert streams(tmp_path, topics, image="/left/image", pose="odom") == (
        "/left/image",
        "/cam/camera_info",
        "/odom",
    )


@pytest.mark.parametrize(
    ("topics", "names", "words"),
    [
        (
            {"/left/image": RAW, **CAMERA_TOPICS},
            {},
            ["--image-topic", "/left/image", "/cam/image/compressed"],
        ),
        ({"/odom": ODOM, **CAMERA_TOPICS}, {}, ["--pose-topic", "/odom", "/cam/pose"]),
        (
            {"/a/camera_info": INFO, "/b/camera_info": INFO, "/image": RAW, "/pose": POSE},
            {},
            ["--camera-info-topic"],
        ),
        ({"/image": RAW, "/camera_info": INFO}, {}, ["no pose topic", POSE, ODOM, "/image"]),
        ({"/pose": POSE, "/camera_info": INFO}, {}, ["no image topic", RAW, COMPRESSED]),
        ({"/image": RAW, "/camera_info": INFO, "/pose": f"!{POSE}"}, {}, ["/pose", "no messages"]),
        (CAMERA_TOPICS, {"image": "/nowhere"}, ["no topic /nowhere", "--image-topic", "/cam/pose"]),
        (CAMERA_TOPICS, {"pose": "/cam/camera_info"}, ["/cam/camera_info", INFO, "must be", POSE]),
    ],
)
def test_what_is_missing_or_ambiguous_is_said(
    tmp_path: Path, topics: dict[str, str], names: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(BagError) as caught:
        streams(tmp_path, topics, **names)
    for word in [str(tmp_path / "bag"), *words]:
        assert word in str(caught.value)


# Damage


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="no such file"):
        Bag(tmp_path / "nothing")


def test_folders_and_files_that_are_no_recording(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"metadata\.yaml"):
        Bag(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BagError, match="no recording"):
        Bag(tmp_path / "notes.txt")


@pytest.mark.parametrize("sqlite", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file(tmp_path: Path, sqlite: bool, share: float) -> None:
    path = write_topics(tmp_path / "bag", CAMERA_TOPICS, count=20, sqlite=sqlite)
    (file,) = (f for f in path.iterdir() if f.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(BagError, match=str(path)) as caught:
        frames(path)
    assert "truncated or damaged" in str(caught.value)


def test_a_lost_file(tmp_path: Path) -> None:
    path = write_walk(tmp_path / "bag", images=2)
    next(path.glob("*.mcap")).unlink()
    with pytest.raises(BagError, match="missing"):
        Bag(path)


def test_a_lost_metadata_file(tmp_path: Path) -> None:
    path = write_walk(tmp_path / "bag", images=2)
    (path / "metadata.yaml").unlink()
    with pytest.raises(BagError, match=r"bag\.mcap"):
        Bag(path)


def test_an_empty_recording(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="holds no messages"):
        Bag(write_topics(tmp_path / "bag", {"/image": f"!{RAW}"}))
