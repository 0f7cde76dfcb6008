"""Recordings as training data: the format `bag` of elvsm_training, found by its entry point.

A recording is replayed once through the node's own intake (poses or TF, rectification, admission), and the frames that
it admits are written as images with a cameras.json into a cache folder. Scenes are stretches of `stretch` frames, so
that neither memory nor files grow with the recording.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elvsm_core.files import owned
from elvsm_core.files.atomic import write_bytes
from elvsm_core.files.hub import cache_folder
from elvsm_training.data import formats
from elvsm_training.data.conversion import encode
from elvsm_training.data.readers import cameras
from elvsm_training.data.store import DatasetError, PosedScene, Scenes, Store

if TYPE_CHECKING:
    from elvsm_ros.evaluation.replay import Decision, Recording
    from elvsm_ros.input.image_intake import Candidate

SUMMARY = "recordings of a posed camera: rosbag2 (mcap, sqlite3) and ROS 1 bags"
SUFFIXES = (".mcap", ".db3", ".bag")
KIND = "recording"
"""What the markers of folders say in which a recording is extracted."""
VERSION = 1
"""Of what is written into the cache: raised when that changes, so that nothing old is taken from it."""
FEWEST = 8
"""Frames without which a stretch is of no use: a sample has eight views as published."""


@dataclasses.dataclass(frozen=True)
class ExtractionOptions:
    """How a recording becomes scenes.

    image_topic, camera_info_topic, pose_topic: as for elvsm_evaluate_bag, where a recording has several. world_frame,
    camera_frame: with TF. body_to_camera: the node's parameter, seven numbers. spacing: metres, angle: degrees from
    every frame before that make an image a new frame; 0, 0 takes every image with a pose. stretch: frames of a scene.
    rectified: the images have no distortion any more. encoding: of images that are not JPEG or PNG as they are.
    """

    image_topic: str | None = None
    camera_info_topic: str | None = None
    pose_topic: str | None = None
    world_frame: str = ""
    camera_frame: str = ""
    body_to_camera: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    spacing: float = 0.03
    angle: float = 2.0
    stretch: int = 400
    rectified: bool = False
    encoding: str = "jpeg"


def detect(path: Path) -> bool:
    """Tell whether a path is a recording."""
    if path.is_dir():
        head = path / "metadata.yaml"
        return head.is_file() and b"rosbag2_bagfile_information" in head.read_bytes()[:4096]
    return path.is_file() and path.suffix in SUFFIXES


def open_store(
    path: Path,
    image_topic: str | None = None,
    camera_info_topic: str | None = None,
    pose_topic: str | None = None,
    world_frame: str = "",
    camera_frame: str = "",
    body_to_camera: Sequence[float] = ExtractionOptions.body_to_camera,
    spacing: float = ExtractionOptions.spacing,
    angle: float = ExtractionOptions.angle,
    stretch: int = ExtractionOptions.stretch,
    rectified: bool = False,
    encoding: str = ExtractionOptions.encoding,
    cache: str = "",
) -> Store:
    """Open a recording, extracting its frames into the cache unless they are there. See `ExtractionOptions`.

    cache: folder for the extracted frames; empty: below ELVSM_CACHE. Raises DatasetError for a recording that cannot
    be used, with the reason, and OSError for a full disk.
    """
    options = ExtractionOptions(
        image_topic, camera_info_topic, pose_topic, world_frame, camera_frame, tuple(map(float, body_to_camera)),
        float(spacing), float(angle), stretch, rectified, encoding,
    )  # fmt: skip
    if options.stretch < FEWEST:
        raise DatasetError(f"stretch must be at least {FEWEST} frames, got {options.stretch}")
    folder = (Path(cache) if cache else cache_folder() / "recordings") / _name(path, options)
    if not (folder / "complete.json").is_file():
        extract(path, options, folder, lambda done, total: formats.on_progress("recording", done, total))
    facts = json.loads((folder / "complete.json").read_text())
    openers = {
        name: functools.partial(_scene, name, folder / name, tuple(facts["notes"]))
        for name in facts["scenes"]
    }
    return Scenes(openers)


def _name(path: Path, options: ExtractionOptions) -> str:
    """Return a name that changes with the recording and the options."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    states = [(str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    digest = hashlib.sha256(repr((VERSION, states, dataclasses.astuple(options))).encode()).hexdigest()
    return f"{path.absolute().stem}-{digest[:16]}"


def _scene(name: str, folder: Path, notes: tuple[str, ...]) -> PosedScene:
    store = cameras.open_store(folder)
    return dataclasses.replace(store.scene(store.keys[0]), key=name, notes=notes)


def extract(
    path: Path,
    options: ExtractionOptions,
    folder: Path,
    passed: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the frames of a recording as scenes into a folder, which appears when it is complete.

    passed: called after every image with the number of images so far, and of all. Raises DatasetError, OSError.
    """
    # Before rclpy is imported: the ROS packages of PyPI take the virtual environment as their prefix.
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    try:
        from elvsm_ros.evaluation.replay import Recording
        from elvsm_ros.recordings.bag_reader import Bag, find_streams
        from elvsm_ros.recordings.bag_tf import tf_ends
    except ImportError as error:
        raise DatasetError(
            f"{path} is a recording, and reading it needs the ROS packages ({error}): source a ROS installation, or "
            f"pip install 'elvsm[ros]'"
        ) from error
    if folder.exists():
        raise DatasetError(f"{folder} is in the way and was not written by this program: move it away")
    try:
        with owned.temporary(folder, KIND) as temporary, Bag(path, salvage=True) as bag:
            fresh = temporary / folder.name
            fresh.mkdir()
            streams = find_streams(bag, options.image_topic, options.camera_info_topic, options.pose_topic)
            source = Recording(bag, streams, tf_ends(bag, streams, options.world_frame, options.camera_frame))
            facts = _Extraction(source, options, fresh, passed).run()
            write_bytes(fresh / "complete.json", json.dumps(facts).encode())
            if not folder.exists():  # two at the same time make the same
                os.replace(fresh, folder)
    except OSError:
        raise
    except DatasetError:
        raise
    except ValueError as error:  # BagError, ParameterError: they say what to do
        raise DatasetError(str(error)) from error


class _Extraction:
    """One pass over a recording. What it holds in memory is one image and the cameras of one stretch."""

    def __init__(
        self, source: Recording, options: ExtractionOptions, folder: Path, passed: Callable[[int, int], None]
    ) -> None:
        self.source, self.options, self.folder, self.passed = source, options, folder, passed
        self.rows: list[dict[str, Any]] = []
        self.scenes: list[str] = []
        self.short = self.images = self.damaged = 0
        self.last: int | None = None

    def run(self) -> dict[str, Any]:
        """Write all scenes; return what is to be known of them."""
        from elvsm_ros.conversions import ConversionError
        from elvsm_ros.evaluation.replay import Complaints, nothing_usable, replay
        from elvsm_ros.parameters.table import Settings
        from elvsm_ros.recordings.bag_reader import BagError

        complaints, options = Complaints(), self.options
        settings = Settings.from_values(
            {
                "keyframe_distance": max(options.spacing, 1e-3),
                "keyframe_angle": max(options.angle, 0.1),
                "keyframe_max_rate": 0.0,
                "images_rectified": options.rectified,
                "body_to_camera": list(options.body_to_camera),
            }
        )
        intake = self.source.intake(settings, complaints.reports)
        intake.on_restart = self.finish  # the clock was set back: what follows is another walk
        try:
            for decision in replay(self.source, intake, passed=self._passed):
                if not self._wanted(decision):
                    continue
                try:
                    self.add(decision.candidate)
                except ConversionError as error:
                    self.damaged += 1
                    complaints.reports.add("image", str(error))
                    if decision.keyframe:
                        intake.admission.release(decision.candidate.key)
        except BagError as error:
            if not (self.rows or self.scenes):
                raise
            complaints.reports.add("bag", f"read up to here only: {error}")
        self.finish()
        if not self.scenes:
            if self.short:
                raise DatasetError(
                    f"{self.source.bag.path}: {self.short} frames are usable, {FEWEST} are needed for a scene: record "
                    f"a longer walk, or lower spacing and angle ({'; '.join(complaints.lines()) or 'no complaints'})"
                )
            raise nothing_usable(self.source, complaints)
        notes = complaints.lines()
        if self.short:
            notes.append(f"{self.short} frames in stretches of fewer than {FEWEST} are left out")
        return {"scenes": self.scenes, "notes": notes}

    def _passed(self) -> None:
        self.images += 1
        self.passed(self.images, self.source.streams.image.count)

    def _wanted(self, decision: Decision) -> bool:
        return decision.keyframe or (self.options.spacing <= 0 and self.options.angle <= 0)

    def add(self, candidate: Candidate) -> None:
        """Write a frame. Raises ConversionError."""
        if self.last is not None and candidate.stamp <= self.last:
            self.finish()
        self.last = candidate.stamp
        data, suffix = self._encoded(candidate)
        number, camera = len(self.rows), candidate.camera
        file = f"{number:05d}.{suffix}"
        target = self.folder / self._scene_name() / "images" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.rows.append(
            {
                "file": file, "stamp": candidate.stamp / 1e9, "c2w": np.asarray(candidate.T_world_cam).tolist(),
                "fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy,
                "w": camera.width, "h": camera.height,
            }
        )  # fmt: skip
        if len(self.rows) >= self.options.stretch:
            self.finish()

    def _encoded(self, candidate: Candidate) -> tuple[bytes, str]:
        """Return the picture's bytes: as they were recorded where that is a JPEG or PNG without distortion."""
        from elvsm_ros.conversions import ConversionError

        rgb = candidate.picture()  # decoded in any case, so that damaged ones are found here
        if rgb.shape[:2] != (candidate.camera.height, candidate.camera.width):
            raise ConversionError(
                f"image is {rgb.shape[1]}x{rgb.shape[0]} but its camera is calibrated for {candidate.camera.width}x"
                f"{candidate.camera.height}: let the driver publish camera_info for the size of its images"
            )
        if candidate.lens is None and hasattr(candidate.message, "format"):
            data = bytes(candidate.message.data)
            if data[:2] == b"\xff\xd8":
                return data, "jpg"
            if data[:4] == b"\x89PNG":
                return data, "png"
        return encode(rgb, self.options.encoding), "jpg" if self.options.encoding == "jpeg" else "png"

    def _scene_name(self) -> str:
        return f"{self.source.bag.path.absolute().stem}_{len(self.scenes):03d}"

    def finish(self) -> None:
        """End a scene."""
        name, rows = self._scene_name(), self.rows
        self.rows, self.last = [], None
        if not rows:
            return
        if len(rows) < FEWEST:
            self.short += len(rows)  # the next scene takes their place
            return
        content = {"convention": "opencv cam-to-world 4x4, metres", "metric": True, "frames": rows}
        write_bytes(self.folder / name / cameras.FILE, json.dumps(content).encode())
        self.scenes.append(name)
