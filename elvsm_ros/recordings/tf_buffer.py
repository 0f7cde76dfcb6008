"""Camera poses from the transforms of a recording, without ROS: chains of frames, each interpolated.

Live transforms are tf2_ros's business (tf_source.py); messages here are those that rosbags reads.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elvsm_ros.conversions import ConversionError, check_pose, parts_to_matrix, stamp_ns
from elvsm_ros.input.pose_source import PoseBuffer, PoseError

Matrix = NDArray[np.float64]

GAP = 2.0
"""Seconds between two transforms beyond which nothing is interpolated: maps are corrected once a second or so."""
DEPTH = 64
"""Frames that a chain may have: more are a loop."""


class TfBuffer:
    """Where the camera was, from transforms between frames that form a tree; a PoseSource.

    world_frame, camera_frame: the ends of the chain; an empty camera_frame is that of the first image (`see_image`).
    T_body_cam: 4x4, the optical frame in camera_frame. length: seconds of transforms that are kept.
    """

    def __init__(
        self,
        world_frame: str,
        camera_frame: str = "",
        T_body_cam: Matrix | None = None,
        length: float = 10.0,
        gap: float = GAP,
    ):
        self._world_frame, self._camera_frame = world_frame.lstrip("/"), camera_frame.lstrip("/")
        self._T_body_cam = np.eye(4) if T_body_cam is None else T_body_cam
        self._length, self._gap = length, gap
        self._parents: dict[str, str] = {}
        self._static: dict[str, Matrix] = {}
        self._moving: dict[str, PoseBuffer] = {}
        self._why = "no transform has arrived"

    def see_image(self, frame_id: str) -> None:
        """Take note of the frame_id of an image."""
        self._camera_frame = self._camera_frame or frame_id.lstrip("/")

    def add(self, message: Any, static: bool) -> list[str]:
        """Store the transforms of a tf2_msgs/msg/TFMessage; return what was wrong with any, in words.

        Repeated and late transforms, which TF is full of, are passed over.
        """
        complaints = []
        for item in message.transforms:
            child, parent = item.child_frame_id.lstrip("/"), item.header.frame_id.lstrip("/")
            p, q = item.transform.translation, item.transform.rotation
            translation, xyzw = np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])
            try:
                if static:
                    self._static[child] = parts_to_matrix(translation, check_pose(translation, xyzw))
                elif child not in self._static:
                    series = self._moving.setdefault(child, PoseBuffer(self._length, self._gap))
                    series.add(stamp_ns(item.header.stamp), translation, xyzw)
            except ConversionError as error:
                complaints.append(f"transform from {child!r} to {parent!r}: {error}")
                continue
            except PoseError as error:
                if error.reason == "invalid":
                    complaints.append(f"transform from {child!r} to {parent!r}: {error}")
                    continue
            self._parents[child] = parent
        return complaints

    @property
    def frames(self) -> set[str]:
        """All frames that any transform has named."""
        return {*self._parents, *self._parents.values()}

    def chain(self, frame: str) -> list[str]:
        """Return a frame and those above it, up to the root of its tree."""
        found = [frame]
        while found[-1] in self._parents and len(found) < DEPTH:
            found.append(self._parents[found[-1]])
        return found

    def lookup(self, stamp: int) -> Matrix | None:
        """Return T_world_cam [4, 4] at a stamp (ns); None while it may still become known (`missing` says why).

        Raises PoseError for a stamp before the oldest transform of the chain, and in a gap.
        """
        up, down = self.chain(self._camera_frame), self.chain(self._world_frame)
        common = next((frame for frame in up if frame in down), None)
        if common is None or not self._camera_frame:
            self._why = f"the recording has {', '.join(sorted(self.frames)) or 'no frames'}"
            return None
        camera, world = (
            self._to(common, chain, stamp) for chain in (up[: up.index(common)], down[: down.index(common)])
        )
        if camera is None or world is None:
            return None
        return np.linalg.inv(world) @ camera @ self._T_body_cam

    def _to(self, ancestor: str, chain: list[str], stamp: int) -> Matrix | None:
        """Return the 4x4 transform from the first frame of a chain to the ancestor that follows its last."""
        T = np.eye(4)
        for frame in chain:
            step = self._static.get(frame)
            if step is None:
                series = self._moving[frame]
                try:
                    step = series.lookup(stamp)
                except PoseError as error:
                    raise PoseError(
                        error.reason,
                        f"transform from {frame!r} to {self._parents[frame]!r}: {_words(error, self._gap)}",
                    ) from error
                if step is None:
                    self._why = f"nothing at or after it from {frame!r} to {self._parents[frame]!r}"
                    return None
            T = step @ T
        return T

    @property
    def missing(self) -> str:
        """Say what the newest lookup that found nothing was about, and what to do."""
        return (
            f"TF has no transform from {self._camera_frame!r} to {self._world_frame!r} at an image's stamp "
            f"({self._why}): --world-frame and --camera-frame name the ends"
        )

    def clear(self) -> None:
        """Forget all transforms but the static ones."""
        for child in self._moving:
            with contextlib.suppress(KeyError):
                del self._parents[child]
        self._moving.clear()


def _words(error: PoseError, gap: float) -> str:
    if error.reason == "gap":
        return f"the image falls into a gap of more than {gap:g} s: the localisation paused"
    if error.reason == "before":
        return "the image is older than the first of them: TF was recorded from later on"
    return str(error)
