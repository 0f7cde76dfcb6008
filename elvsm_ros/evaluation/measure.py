"""Run an evaluation: replay a recording, render what is held out, compare."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import elvsm_core as ec
from elvsm_ros import conversions
from elvsm_ros.bag_reader import SECOND, Bag, BagError, Streams
from elvsm_ros.conversions import RGB
from elvsm_ros.engine import Engine
from elvsm_ros.evaluation.baselines import Metrics, psnr, warped
from elvsm_ros.evaluation.convention import ConventionCheck, Verdict
from elvsm_ros.evaluation.noise import LEVELS, sensitivity
from elvsm_ros.evaluation.options import Options
from elvsm_ros.evaluation.replay import Complaints, ReplayIntake, nothing_usable, replay
from elvsm_ros.evaluation.results import (
    NEAREST,
    OFFLINE,
    ONLINE,
    RENDER,
    ROTATION,
    HeldOut,
    Key,
    Results,
)
from elvsm_ros.intake import Candidate
from elvsm_ros.parameters import Settings

GAP = 2.0
"""Seconds without a usable image that are told about."""
INTERRUPTED = "ended by Ctrl-C: the results are those up to then"


Progress = Callable[[str, int, int], None]
"""Is told how far the evaluation is: stage, done, total."""


class Evaluation:
    """One run over a recording; `run` does it.

    The scene is the node's (Engine), the images go through the node's intake, and everything happens in the order
    of the recording, so that two runs give the same figures on one machine.
    """

    def __init__(self, bag: Bag, streams: Streams, settings: Settings, options: Options, progress: Progress):
        self._bag, self._streams, self._settings, self._options = bag, streams, settings, options
        self._tell = progress
        self._engine = Engine(settings)
        self._complaints = Complaints()
        self._intake = ReplayIntake(settings, ec.keyframes.admit, self._complaints.reports)
        self._metrics = Metrics(options.lpips, self._engine.native_size)
        self._max_views = settings.max_views or None
        values = np.array(settings.body_to_camera)
        T_body_cam = conversions.parts_to_matrix(values[:3], values[3:] / np.linalg.norm(values[3:]))
        self._convention = ConventionCheck(T_body_cam)
        self._places: dict[int, int] = {}
        self._path: list[np.ndarray] = []
        self._views: list[HeldOut] = []
        self._insert_ms: list[float] = []
        self._evicted = self._held_out = 0
        self._last_keyframe = self._last_image = self._start = 0
        self._gaps: list[tuple[float, float]] = []
        share = 1.0 if options.seconds is None else min(1.0, options.seconds / max(bag.duration, 1e-9))
        self._images = max(1, math.ceil(share * streams.image.count))
        self._stride = math.ceil(self._images / options.frames)

    def run(self) -> Results:
        """Evaluate. Raises BagError for a recording without a usable image.

        A recording that turns out to be damaged on the way, and Ctrl-C, give the results so far.
        """
        begin = time.perf_counter()
        incomplete, noise = "", []
        try:
            self._replay()
        except BagError as error:
            incomplete = str(error)
        except KeyboardInterrupt:
            incomplete = INTERRUPTED
        if not self._path:
            raise (
                BagError(incomplete)
                if incomplete
                else nothing_usable(self._bag, self._streams, self._complaints)
            )
        try:
            self._render_offline()
            if self._options.pose_noise and self._views:
                noise = self._disturb()
        except KeyboardInterrupt:
            incomplete = incomplete or INTERRUPTED
        verdict = self._convention.verdict()
        return Results(
            facts=self._facts(),
            views=self._views,
            path=np.stack(self._path),
            keyframes=self._engine.scene.poses,
            counts=self._counts(),
            warnings=self._warnings(verdict),
            convention=verdict,
            pose_noise=noise,
            timing=self._timing(time.perf_counter() - begin),
            incomplete=incomplete,
        )

    # The replay

    def _replay(self) -> None:
        done = 0

        def passed() -> None:
            nonlocal done
            done += 1
            self._tell("replay", min(done, self._images), self._images)

        for decision in replay(self._bag, self._streams, self._intake, self._options.seconds, passed):
            candidate = decision.candidate
            if decision.keyframe:
                used = self._insert(candidate)
            else:
                due = self._held_out % self._stride == 0
                self._held_out += 1
                used = self._measure(candidate) if due else True
            if used:
                self._note(candidate)

    def _note(self, candidate: Candidate) -> None:
        if not self._path:
            self._start = candidate.stamp
        elif candidate.stamp - self._last_image > GAP * SECOND:
            self._gaps.append((self._seconds(self._last_image), self._seconds(candidate.stamp)))
        self._path.append(candidate.T_world_cam)
        self._last_image = candidate.stamp

    def _insert(self, candidate: Candidate) -> bool:
        """Make a keyframe as the node does; tell whether that worked."""
        start = time.perf_counter()
        try:
            inserted = self._engine.insert(candidate)
        except ValueError as error:
            self._intake.admission.release(candidate.key)
            self._intake.reject(str(error))
            return False
        self._insert_ms.append(1e3 * (time.perf_counter() - start))
        self._places[inserted.view] = candidate.key
        for view in inserted.evicted:
            self._evicted += 1
            self._intake.admission.release(self._places.pop(view))
        self._last_keyframe = candidate.stamp
        if inserted.view in self._places:
            keyframe = self._engine.scene.keyframe(inserted.view)
            self._convention.add(candidate.stamp, keyframe.image.numpy(), keyframe.camera)
        return True

    def _measure(self, candidate: Candidate) -> bool:
        """Render a held-out frame from what there is now; tell whether the frame is usable."""
        scene, settings = self._engine.scene, self._settings
        given = candidate.camera
        try:
            rgb = candidate.picture()
            full = ec.Camera(
                given.fx, given.fy, given.cx, given.cy, given.width, given.height, candidate.T_world_cam
            )
            image, camera = ec.resize_and_crop(rgb, full, scene.image_size)
        except ValueError as error:
            self._intake.reject(str(error))
            return False
        truth = image.numpy()
        self._convention.add(candidate.stamp, truth, camera)
        if not len(scene):
            return True
        start = time.perf_counter()
        rendering = scene.render([camera], self._max_views)
        render_ms = 1e3 * (time.perf_counter() - start)
        poses = scene.poses
        nearest = self._nearest(camera, poses)
        metres, radians = ec.keyframes.differences(camera.T_world_cam, poses[nearest][None])
        view = HeldOut(
            index=len(self._views),
            time=self._seconds(candidate.stamp),
            camera=camera,
            truth=truth,
            since=(candidate.stamp - self._last_keyframe) / SECOND,
            distance=float(metres[0]),
            angle=math.degrees(float(radians[0])),
            keyframes=len(poses),
            used=len(rendering.views),
            support=float(rendering.support[0]),
            render_ms=render_ms,
            pictures={},
            quality={},
            sweep={
                n: psnr(scene.render([camera], min(n, settings.capacity)).images[0], truth)
                for n in self._options.sweep
            },
        )
        self._compare(view, ONLINE, rendering.images[0], scene.views[nearest])
        self._views.append(view)
        return True

    def _nearest(self, camera: ec.Camera, poses: np.ndarray) -> int:
        settings = self._settings
        angle = math.radians(settings.keyframe_angle)
        return ec.keyframes.nearest(camera.T_world_cam, poses, settings.keyframe_distance, angle)[0]

    def _compare(self, view: HeldOut, column: str, render: RGB, nearest: int) -> None:
        keyframe = self._engine.scene.keyframe(nearest)
        copy = keyframe.image.numpy()
        pictures: dict[Key, RGB] = {
            (column, RENDER): render,
            (column, NEAREST): copy,
            (column, ROTATION): warped(copy, keyframe.camera, view.camera),
        }
        qualities = self._metrics.compare(list(pictures.values()), view.truth)
        view.quality.update(zip(pictures, qualities, strict=True))
        if column == OFFLINE:  # the baselines are shown once
            pictures = {(OFFLINE, RENDER): render}
        view.pictures.update(pictures)

    # Afterwards

    def _render_offline(self) -> None:
        scene = self._engine.scene
        if not len(scene):
            return
        views, poses = scene.views, scene.poses
        for done, view in enumerate(self._views, 1):
            render = scene.render([view.camera], self._max_views).images[0]
            self._compare(view, OFFLINE, render, views[self._nearest(view.camera, poses)])
            self._tell("everything seen", done, len(self._views))

    def _disturb(self) -> list[dict[str, float]]:
        settings, scene = self._settings, self._engine.scene
        done = 0

        def make() -> ec.Scene:
            return ec.Scene(
                self._engine.model, settings.capacity, scene.image_size, max_keyframes=settings.max_keyframes
            )

        def step() -> None:
            nonlocal done
            done += 1
            self._tell("pose noise", done, len(LEVELS))

        keyframes = [scene.keyframe(view) for view in scene.views]
        return sensitivity(make, keyframes, self._views, self._max_views, step)

    def _seconds(self, stamp: int) -> float:
        return (stamp - self._start) / SECOND

    def _facts(self) -> dict[str, Any]:
        bag, streams, options = self._bag, self._streams, self._options
        height, width = self._engine.native_size
        return {
            "bag": bag.path.name,
            "duration": bag.duration if options.seconds is None else min(options.seconds, bag.duration),
            "topics": {"image": streams.image.name, "camera_info": streams.camera_info.name, "pose": streams.pose.name},
            "model": self._settings.model,
            "device": self._engine.device,
            "image_size": [height, width],
            "max_views": self._settings.max_views,
            "keyframe_distance": self._settings.keyframe_distance,
            "keyframe_angle": self._settings.keyframe_angle,
        }  # fmt: skip

    def _counts(self) -> dict[str, int]:
        counters = self._intake.counters
        return {
            "images": counters.images_received,
            "images_without_pose_or_camera": counters.images_dropped + counters.images_rejected,
            "poses": counters.poses_received,
            "keyframes_inserted": len(self._insert_ms),
            "keyframes_evicted": self._evicted,
            "keyframes": len(self._engine.scene),
            "held_out": self._held_out,
            "held_out_rendered": len(self._views),
        }

    def _warnings(self, verdict: Verdict) -> list[str]:
        warnings = self._complaints.lines()
        for start, end in self._gaps[:5]:
            warnings.append(
                f"gap: no usable image from {start:.1f} s to {end:.1f} s: frames after it are far from what was seen"
            )
        if len(self._gaps) > 5:
            warnings.append(f"gap: {len(self._gaps) - 5} more of more than {GAP:g} s")
        if verdict.warning:
            warnings.append(f"pose: {verdict.warning}")
        if self._metrics.missing:
            warnings.append(f"metrics: {self._metrics.missing}")
        return warnings

    def _timing(self, seconds: float) -> dict[str, float]:
        timing = {"seconds": seconds, "peak_memory_bytes": float(_peak_memory())}
        for name, values in {
            "insert_ms": self._insert_ms,
            "render_ms": [view.render_ms for view in self._views],
        }.items():
            if values:
                timing[f"{name}_p50"], timing[f"{name}_p95"] = (
                    float(np.percentile(values, p)) for p in (50, 95)
                )
        if torch.cuda.is_available() and self._engine.device.startswith("cuda"):
            timing["peak_device_memory_bytes"] = float(torch.cuda.max_memory_allocated())
        return timing


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def evaluate(
    bag: Bag,
    streams: Streams,
    settings: Settings,
    options: Options,
    progress: Progress = lambda stage, done, total: None,
) -> Results:
    """Evaluate a recording. Raises BagError, and ValueError for a model or a device that cannot be."""
    return Evaluation(bag, streams, settings, options, progress).run()
