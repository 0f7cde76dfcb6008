"""TF in a recording: which frames its chain of transforms leads through, and poses at the images' stamps."""

from __future__ import annotations

import collections
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from std_msgs.msg import Header

from elvsm_ros.conversions import matrix_to_pose, stamp_of
from elvsm_ros.input.pose_source import PoseError
from elvsm_ros.recordings.bag_reader import TF, Bag, BagError, RecordedTopic, Streams
from elvsm_ros.recordings.tf_buffer import TfBuffer

LOOK = 5000
"""Messages in which the frames are looked for."""
POSE_TOPIC = "/elvsm_bag_player/pose"
"""Where poses made of TF are published."""


class Ends(NamedTuple):
    """The ends of a chain of transforms."""

    world_frame: str
    camera_frame: str


def tf_ends(bag: Bag, streams: Streams, world_frame: str = "", camera_frame: str = "") -> Ends | None:
    """Return the frames that a recording's TF is asked for; None where poses are messages.

    An empty camera_frame means the frame_id of the first image, an empty world_frame `map` where that is above the
    camera, the root of the camera's tree elsewhere. Raises BagError when the two are not connected.
    """
    if streams.pose.type != TF:
        return None
    return _ends(bag, streams, world_frame.lstrip("/"), camera_frame.lstrip("/"))


def open_tf(
    bag: Bag,
    static: Sequence[RecordedTopic],
    ends: Ends,
    T_body_cam: NDArray[np.float64] | None = None,
    length: float = 10.0,
) -> TfBuffer:
    """Return a buffer that has the recording's static transforms: whoever listened to TF had them at once.

    static: topics that they are on. The rest: see TfBuffer.
    """
    buffer = TfBuffer(*ends, T_body_cam, length)
    if static:
        for _, _, message in bag.messages([topic.name for topic in static]):
            buffer.add(message, static=True)
    return buffer


def _ends(bag: Bag, streams: Streams, world: str, camera: str) -> Ends:
    if not camera:
        _, _, image = next(bag.messages([streams.image.name]))
        camera = image.header.frame_id.lstrip("/")
        if not camera:
            raise BagError(
                f"{bag.path}: images on {streams.image.name} name no frame, so that nothing in TF is theirs: "
                f"name the camera's optical frame with --camera-frame"
            )
    buffer = open_tf(bag, streams.static, Ends(world, camera))
    wanted = world or "map"
    for count, (_, _, message) in enumerate(bag.messages([streams.pose.name])):
        buffer.add(message, static=False)
        if wanted in buffer.chain(camera) or count >= LOOK:
            break
    chain, known = buffer.chain(camera), ", ".join(sorted(buffer.frames))
    if len(chain) == 1 and camera != world:
        raise BagError(
            f"{bag.path}: {streams.pose.name} has no transform of {camera!r}, the frame of the images on "
            f"{streams.image.name}: name the camera's optical frame with --camera-frame, one of {known}"
        )
    if wanted in chain:
        return Ends(wanted, camera)
    # A world beside the chain does as well: TF leads up to what both hang on, and down again.
    if world and buffer.chain(world)[-1] == chain[-1]:
        return Ends(world, camera)
    if world:
        raise BagError(
            f"{bag.path}: {streams.pose.name} leads from {camera!r} up to {chain[-1]!r}, and not to {world!r}: "
            f"name a frame that does not move with --world-frame, such as one of {', '.join(chain[1:])}"
        )
    return Ends(chain[-1], camera)


class PosesFromTf:
    """Poses of the camera at the images' stamps, as soon as the transforms around them are known."""

    def __init__(self, buffer: TfBuffer, world_frame: str):
        self._buffer, self._world_frame = buffer, world_frame
        self._waiting: collections.deque[int] = collections.deque(maxlen=1000)

    def add_image(self, cdr: bytes) -> None:
        """Take a serialised image, of which the stamp alone is read."""
        order = "<" if cdr[1] & 1 else ">"  # the encapsulation of CDR (DDSI-RTPS 10.5)
        seconds, nanoseconds = struct.unpack_from(f"{order}iI", cdr, 4)
        self._waiting.append(seconds * 1_000_000_000 + nanoseconds)

    def add_transforms(self, message: object) -> list[PoseStamped]:
        """Take transforms, and return the poses that have become known."""
        self._buffer.add(message, static=False)
        found = []
        while self._waiting:
            stamp = self._waiting[0]
            try:
                T = self._buffer.lookup(stamp)
            except PoseError:
                self._waiting.popleft()
                continue
            if T is None:
                break
            self._waiting.popleft()
            header = Header(stamp=stamp_of(stamp), frame_id=self._world_frame)
            found.append(PoseStamped(header=header, pose=matrix_to_pose(T)))
        return found
