"""Recordings of a camera: which topics a bag has, its messages with their types, images with their poses.

rosbags reads rosbag2 (sqlite3 and mcap, folders and single files) and ROS 1 bags; messages come out as rclpy's
own.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore
from sensor_msgs.msg import CompressedImage, Image

from elvsm_ros.conversions import RGB, ConversionError, Intrinsics, image_to_rgb, pose_to_parts, stamp_ns
from elvsm_ros.input import rectification
from elvsm_ros.input.pose_source import PoseBuffer, PoseError
from elvsm_ros.input.rectification import Calibration, Lens
from elvsm_ros.recordings import bounded_decompression
from elvsm_ros.recordings.tf_buffer import TfBuffer

if TYPE_CHECKING:
    from elvsm_ros.recordings.bag_salvage import CutOffFile

SECOND = 1_000_000_000
COMPRESSED, RAW = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POSE, ODOMETRY = "geometry_msgs/msg/PoseStamped", "nav_msgs/msg/Odometry"
POSE_WITH_COVARIANCE = "geometry_msgs/msg/PoseWithCovarianceStamped"
TF = "tf2_msgs/msg/TFMessage"


class BagError(ValueError):
    """A recording that cannot be used. The text names the file, the topic, and what to do about it."""


@dataclasses.dataclass(frozen=True)
class RecordedTopic:
    """A topic of a bag: its name, its type as in sensor_msgs/msg/Image, and how many messages there are."""

    name: str
    type: str
    count: int


@functools.cache
def message_class(type_name: str) -> Any:
    """Return rclpy's class of a type such as sensor_msgs/msg/Image.

    Raises BagError when it is not installed.
    """
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise BagError(
            f"messages of type {type_name} are unknown here: install or source the package {package}"
        ) from error


@functools.cache
def _typestore() -> Typestore:
    return get_typestore(Stores.LATEST)


def _rest_of(path: Path) -> CutOffFile | None:
    try:
        from elvsm_ros.recordings.bag_salvage import salvaged
    except ModuleNotFoundError:  # mcap's own package, which nothing else needs
        return None
    return salvaged(path)


class Bag:
    """An open recording; a context manager.

    path: the folder of a rosbag2, one of its .mcap or .db3 files, or a ROS 1 .bag. Raises BagError for a path
    that is missing, truncated or no recording. salvage: read an mcap file that was cut off up to there, and raise
    then. Times are nanoseconds on the recorder's clock.
    """

    def __init__(self, path: str | Path, salvage: bool = False):
        self.path, self._salvage = Path(path).expanduser(), salvage
        if not self.path.exists():
            raise BagError(f"{self.path}: there is no such file or folder")
        if self.path.is_dir() and not (self.path / "metadata.yaml").exists():
            raise BagError(self._no_metadata())
        if self.path.is_file() and self.path.suffix not in (".bag", ".db3", ".mcap"):
            raise BagError(
                f"{self.path} is no recording: give the folder of a rosbag2, or a .mcap, .db3 or .bag file"
            )
        self._reader = self._guarded(self._open)
        self.topics = {
            name: RecordedTopic(name, info.msgtype or "several types", info.msgcount)
            for name, info in sorted(self._reader.topics.items())
        }
        if not any(topic.count for topic in self.topics.values()):
            self.close()
            raise BagError(
                f"{self.path} holds no messages: was the recording stopped before anything was published?"
            )
        self.start, self.end = self._reader.start_time, self._reader.end_time

    def _open(self) -> AnyReader | CutOffFile:
        bounded_decompression.install()
        reader = AnyReader([self.path], default_typestore=_typestore())
        try:
            reader.open()
        except Exception:
            rest = _rest_of(self.path) if self._salvage else None
            if rest is None:
                raise
            return rest
        return reader

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. May be called twice."""
        reader, self._reader = self._reader, None  # type: ignore[assignment]
        if reader is not None:
            reader.close()

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        return (self.end - self.start) / SECOND

    def raw(
        self, topics: Collection[str], seconds: float | None = None
    ) -> Iterator[tuple[RecordedTopic, int, bytes]]:
        """Yield topic, time (nanoseconds) and CDR of every message of some topics, in the order of time.

        seconds: stop so long after the bag's start. Raises BagError for topics that are not there, and where
        the file is damaged.
        """
        missing = [name for name in topics if name not in self.topics]
        if missing:
            raise BagError(f"{self.path} has no topic {missing[0]}; it has {_listed(self.topics.values())}")
        connections = [c for c in self._reader.connections if c.topic in topics]
        stop = None if seconds is None else self.start + round(seconds * SECOND)
        messages = self._reader.messages(connections, stop=stop)
        while True:
            try:
                connection, time, data = self._guarded(next, messages)
            except StopIteration:
                return
            if not self._reader.is2:
                # With ROS 2's definitions: they know that headers had a number in ROS 1.
                data = self._guarded(_typestore().ros1_to_cdr, data, connection.msgtype)
            yield self.topics[connection.topic], time, bytes(data)

    def messages(
        self, topics: Collection[str], seconds: float | None = None
    ) -> Iterator[tuple[RecordedTopic, int, Any]]:
        """Yield what `raw` yields, with rclpy messages in place of CDR; transforms are messages of rosbags."""
        for topic, time, cdr in self.raw(topics, seconds):
            yield topic, time, self.decoded(topic, cdr)

    def decoded(self, topic: RecordedTopic, cdr: bytes) -> Any:
        """Return the message of a topic that was serialised. Raises BagError."""
        if topic.type == TF:  # PyPI has no tf2_msgs
            return self._guarded(_typestore().deserialize_cdr, cdr, TF)
        try:
            return deserialize_message(cdr, message_class(topic.type))
        except RuntimeError as error:
            raise BagError(
                f"{self.path}: a message on {topic.name} is no {topic.type}, or damaged: {error}"
            ) from error

    def _guarded(self, function: Any, *arguments: Any) -> Any:
        """Call into rosbags: its readers raise whatever damaged bytes lead to, and all becomes BagError."""
        try:
            return function(*arguments)
        except (StopIteration, KeyboardInterrupt, BagError):
            raise
        except bounded_decompression.TooLargeError as error:
            raise BagError(f"{self.path} is not read: {error}") from error
        except PermissionError as error:
            raise BagError(f"{self.path} may not be read: {error}") from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BagError(
                f"{self.path} cannot be read, it is truncated or damaged ({reason}): copy it again; "
                f"`ros2 bag reindex` or `mcap recover` may save a recording that was cut off"
            ) from error

    def _no_metadata(self) -> str:
        files = sorted(p.name for p in self.path.iterdir() if p.suffix in (".mcap", ".db3", ".bag"))
        if files:
            first = self.path / files[0]
            return f"{self.path} has no metadata.yaml: give {first} itself, or run `ros2 bag reindex`"
        return f"{self.path} is no recording: a rosbag2 folder has a metadata.yaml"


# Which topics -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Streams:
    """The three topics that a posed camera is recorded on. static: those of TF's static transforms, with TF."""

    image: RecordedTopic
    camera_info: RecordedTopic
    pose: RecordedTopic
    static: tuple[RecordedTopic, ...] = ()

    @property
    def names(self) -> tuple[str, str, str]:
        """Names of the topics of images, calibrations and poses."""
        return self.image.name, self.camera_info.name, self.pose.name


def find_streams(
    bag: Bag, image: str | None = None, camera_info: str | None = None, pose: str | None = None
) -> Streams:
    """Find a bag's image, camera_info and pose topics by their types; names given are taken.

    Of an image topic and its compressed sibling the compressed one is taken, of several camera_info topics the
    one beside the image. TF is taken where no topic has poses, or when it is named. Raises BagError listing the
    candidates when none or more than one is left.
    """
    picture = _choose(bag, "image", (COMPRESSED, RAW), image, _without_duplicates)
    info = _choose(
        bag,
        "camera_info",
        (CAMERA_INFO,),
        camera_info,
        lambda found: _beside(picture, found) if len(found) > 1 else found,
    )
    posed = _choose(bag, "pose", (POSE, ODOMETRY, POSE_WITH_COVARIANCE, TF), pose, _moving)
    static = [topic for topic in bag.topics.values() if topic.type == TF and topic.name.endswith("tf_static")]
    return Streams(picture, info, posed, tuple(static) if posed.type == TF else ())


def pose_in(message: Any) -> Any:
    """Return the geometry_msgs/Pose in a message of any of the types that have one."""
    return message.pose.pose if hasattr(message.pose, "pose") else message.pose


def _choose(
    bag: Bag, role: str, types: tuple[str, ...], name: str | None, narrow: Any = list
) -> RecordedTopic:
    option = f"--{role.replace('_', '-')}-topic"
    kinds = " or ".join(types)
    if name is not None:
        name = name if name.startswith("/") else f"/{name}"
        topic = bag.topics.get(name)
        if topic is None:
            raise BagError(
                f"{bag.path} has no topic {name} ({option}); it has {_listed(bag.topics.values())}"
            )
        if topic.type not in types:
            raise BagError(f"{bag.path}: {name} ({option}) is of type {topic.type}, but must be {kinds}")
        if not topic.count:
            raise BagError(f"{bag.path}: {name} ({option}) holds no messages")
        return topic
    found = [topic for topic in bag.topics.values() if topic.type in types]
    if not found:
        raise BagError(
            f"{bag.path} has no {role} topic, none of type {kinds}: record one as well; it has "
            f"{_listed(bag.topics.values())}"
        )
    filled = [topic for topic in found if topic.count]
    if not filled:
        raise BagError(f"{bag.path}: {_listed(found)} holds no messages: was it published while recording?")
    left = narrow(filled)
    if not left:
        raise BagError(
            f"{bag.path} has no {role} topic, {_listed(filled)} alone does not do: record one as well"
        )
    if len(left) != 1:
        raise BagError(f"{bag.path} has several {role} topics: choose with {option} among {_listed(filled)}")
    return left[0]


def _without_duplicates(found: list[RecordedTopic]) -> list[RecordedTopic]:
    names = {topic.name for topic in found if topic.type == COMPRESSED}
    return [
        topic
        for topic in found
        if f"{topic.name}/compressed" not in names and not topic.name.endswith("/compressedDepth")
    ]


def _moving(found: list[RecordedTopic]) -> list[RecordedTopic]:
    poses = [topic for topic in found if topic.type != TF]
    return poses or [topic for topic in found if not topic.name.endswith("tf_static")]


def _beside(image: RecordedTopic, found: list[RecordedTopic]) -> list[RecordedTopic]:
    folder = image.name.removesuffix("/compressed").rsplit("/", 1)[0]
    return [topic for topic in found if topic.name.rsplit("/", 1)[0] == folder] or found


def _listed(topics: Collection[RecordedTopic]) -> str:
    return ", ".join(f"{topic.name} ({topic.type}, {topic.count})" for topic in topics) or "no topics at all"


# Images with their poses --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class PosedImage:
    """An image of a recording: stamp (nanoseconds), T_world_cam (4x4, metres), intrinsics, and the message.

    intrinsics: of `rgb()`, which has no distortion in it.
    """

    stamp: int
    T_world_cam: NDArray[np.float64]
    intrinsics: Intrinsics
    message: Image | CompressedImage
    lens: Lens | None = None

    def rgb(self) -> RGB:
        """Decode and rectify the image, uint8 [H, W, 3]. Raises ConversionError."""
        rgb = image_to_rgb(self.message)
        return rgb if self.lens is None else self.lens.rectify(rgb)


class PosedFrames:
    """Iterate over a bag's images whose pose is known, oldest first, as the node sees them.

    Poses are interpolated at the images' stamps, images rectified. T_body_cam: 4x4, the camera's optical frame in
    the frame whose poses were recorded. gap: seconds between two poses beyond which nothing is interpolated.
    seconds: stop so long after the bag's start. tf: makes an empty buffer, where TF has the poses. Images, poses
    and camera_info that are unusable are left out, and counted in `skipped` for the newest pass.
    """

    def __init__(
        self,
        bag: Bag,
        streams: Streams,
        T_body_cam: NDArray[np.float64] | None = None,
        gap: float = 0.5,
        seconds: float | None = None,
        tf: Callable[[], TfBuffer] | None = None,
    ):
        self._bag, self._streams, self._seconds = bag, streams, seconds
        self._make_poses: Callable[[], PoseBuffer | TfBuffer] = tf or functools.partial(
            PoseBuffer, length=30.0, gap=gap, T_body_cam=T_body_cam
        )
        self.skipped: collections.Counter[str] = collections.Counter()

    def __iter__(self) -> Iterator[PosedImage]:
        self.skipped.clear()
        poses, calibration = self._make_poses(), None
        cache: dict[tuple, Calibration] = {}  # a lens's maps are made once
        waiting: collections.deque[Image | CompressedImage] = collections.deque()
        for topic, _, message in self._bag.messages(self._streams.names, self._seconds):
            if topic is self._streams.image:
                waiting.append(message)
            elif topic is self._streams.camera_info:
                try:
                    key = rectification.key(message)
                    if key not in cache:
                        cache[key] = rectification.read(message)
                    calibration = cache[key]
                except ConversionError as error:
                    self._skip(f"camera_info: {error}")
            else:
                self._add(poses, message)
            while waiting and calibration is not None:
                stamp = stamp_ns(waiting[0].header.stamp)
                try:
                    T = poses.lookup(stamp)
                except PoseError as error:
                    self._skip(f"image: {error.reason}")
                    waiting.popleft()
                    continue
                if T is None:
                    break
                yield PosedImage(stamp, T, calibration.camera, waiting.popleft(), calibration.lens)
        if waiting:
            self.skipped["image: no pose or camera_info after it"] += len(waiting)

    def _add(self, poses: PoseBuffer | TfBuffer, message: Any) -> None:
        if isinstance(poses, TfBuffer):
            for complaint in poses.add(message, static=False):
                self._skip(f"pose: {complaint}")
            return
        try:
            translation, xyzw = pose_to_parts(pose_in(message))
            poses.add(stamp_ns(message.header.stamp), translation, xyzw)
        except (ConversionError, PoseError) as error:
            self._skip(f"pose: {getattr(error, 'reason', error)}")

    def _skip(self, reason: str) -> None:
        self.skipped[reason] += 1
