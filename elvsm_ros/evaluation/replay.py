"""A recording through the node's own intake, in recorded time: which images become keyframes, which are held out."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from elvsm_core.keyframes import admit
from elvsm_ros.conversions import stamp_ns
from elvsm_ros.input.admission import Admission, Rule
from elvsm_ros.input.camera_input import T_body_cam
from elvsm_ros.input.image_intake import Candidate, Intake
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings
from elvsm_ros.recordings.bag_reader import SECOND, TF, Bag, BagError, Streams, pose_in
from elvsm_ros.recordings.bag_tf import Ends, open_tf
from elvsm_ros.recordings.tf_buffer import TfBuffer

NO_PLACE = -1
"""The key of a candidate that was refused."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """An image whose pose is known, and whether the node would make it a keyframe; otherwise it is held out."""

    candidate: Candidate
    keyframe: bool


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording: the file, its topics, and with TF for poses the frames that it is asked for."""

    bag: Bag
    streams: Streams
    ends: Ends | None = None

    def intake(self, settings: Settings, reports: Reports) -> ReplayIntake:
        """Make the intake that the recording is fed to. reports: where faults go. Raises BagError."""
        if settings.extrinsics == "tf":
            raise BagError(
                f"{self.bag.path}: extrinsics 'tf' is for live transforms: give --body-to-camera, or take the camera's "
                f"poses from TF as a whole with --pose-topic"
            )
        if self.ends is None:
            return ReplayIntake(settings.replaced({"pose_source": "pose"}), admit, reports)
        body = T_body_cam(settings)
        tf = open_tf(self.bag, self.streams.static, self.ends, body, settings.pose_buffer)
        values = {"pose_source": "tf", "world_frame": self.ends.world_frame}
        return ReplayIntake(settings.replaced(values), admit, reports, tf)


class _Witnessed(Admission):
    """An admission that tells about every decision: T_world_cam, stamp, and the key or None."""

    def __init__(self, admit: Callable[..., bool], tell: Callable[[tuple[Any, int, int | None]], None]):
        super().__init__(admit)
        self._tell = tell

    def offer(self, T_world_cam: NDArray[np.float64], stamp: int, rule: Rule, camera: int = 0) -> int | None:
        key = super().offer(T_world_cam, stamp, rule, camera)
        self._tell((T_world_cam, stamp, key))
        return key


class ReplayIntake(Intake):
    """The node's intake, which hands out the images that are refused as keyframes as well.

    admit: elvsm_core.keyframes.admit. reports: where faults go. tf: where poses come from if not from messages;
    settings say so, then.
    """

    def __init__(
        self, settings: Settings, admit: Callable[..., bool], reports: Reports, tf: TfBuffer | None = None
    ):
        super().__init__(settings, admit, reports, tf)
        self._transforms, self._faults = tf, reports
        self._decided: list[tuple[NDArray[np.float64], int, int | None]] = []
        self.admission = _Witnessed(admit, self._decided.append)
        self._messages: dict[int, Image | CompressedImage] = {}
        self._remembered = settings.sync_queue + 2

    def add_image(self, message: Image | CompressedImage, now: float) -> None:
        """Take an image. now: seconds of the recording."""
        self._messages[stamp_ns(message.header.stamp)] = message
        while len(self._messages) > self._remembered:
            del self._messages[next(iter(self._messages))]
        super().add_image(message, now)

    def add_transforms(self, message: Any) -> None:
        """Take a tf2_msgs/msg/TFMessage."""
        assert self._transforms is not None
        self.counters.poses_received += 1
        for complaint in self._transforms.add(message, static=False):
            self._faults.add("pose", complaint)

    def decide(self, now: float) -> Iterator[Decision]:
        """Yield what can be decided by now, by the images' stamps. Deal with each before asking for the next."""
        self.collect(now)
        while True:
            candidate = self.next(now)
            for T, stamp, key in self._decided:
                known, message = self.calibration_at(stamp), self._messages.get(stamp)
                if key is None and known is not None and message is not None:
                    held_out = Candidate(message, stamp, T, known.camera, NO_PLACE, known.lens)
                    yield Decision(held_out, False)
            self._decided.clear()
            if candidate is None:
                return
            yield Decision(candidate, True)


def replay(
    source: Recording,
    intake: ReplayIntake,
    seconds: float | None = None,
    passed: Callable[[], None] = lambda: None,
) -> Iterator[Decision]:
    """Feed a recording to an intake and yield its decisions.

    seconds: stop so long after the bag's start. passed: called after every image. The clock is the recorder's,
    so that timeouts mean what they meant then. Raises BagError where the file is damaged.
    """
    bag, streams = source.bag, source.streams
    now = bag.start / SECOND
    for topic, time, message in bag.messages(streams.names, seconds):
        now = time / SECOND
        if topic is streams.image:
            intake.add_image(message, now)
        elif topic is streams.camera_info:
            intake.add_camera_info(message)
        elif topic.type == TF:
            intake.add_transforms(message)
        else:
            header, body = message.header, getattr(message, "child_frame_id", "")
            intake.add_pose(header.stamp, header.frame_id, pose_in(message), body.lstrip("/"))
        yield from intake.decide(now)
        if topic is streams.image:
            passed()
    # Nothing comes any more: what still waits for a pose is given up.
    yield from intake.decide(now + 1e6)


class Complaints:
    """What the intake reports, with how often: the messages of a replay in words."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        # A period of zero: every report arrives here, none is throttled.
        self.reports = Reports(self._take, period=0.0)

    def _take(self, line: str) -> None:
        key = "".join(c for c in line if not c.isdigit())
        self._first.setdefault(key, line)
        self._counts[key] += 1

    def lines(self) -> list[str]:
        """Return each complaint once, in the order of appearance, with its count."""
        return [
            f"{line}" + (f" ({self._counts[key]} times)" if self._counts[key] > 1 else "")
            for key, line in self._first.items()
        ]


def nothing_usable(source: Recording, complaints: Complaints) -> BagError:
    """Return the error for a recording without a single usable image, with what the intake said."""
    bag, streams = source.bag, source.streams
    why = "; ".join(complaints.lines()) or "the topics never overlap in time"
    return BagError(
        f"{bag.path}: no image on {streams.image.name} could be used with the poses on {streams.pose.name} and "
        f"{streams.camera_info.name}: {why}; the stamps of all must be of the same clock"
    )
