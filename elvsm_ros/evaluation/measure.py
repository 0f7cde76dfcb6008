"""Run an evaluation: replay a recording, render what is held out, compare."""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import elvsm_core as ec
import elvsm_ros
from elvsm_core.checkpoint import resolve
from elvsm_ros import SceneClientError
from elvsm_ros.conversions import RGB
from elvsm_ros.device_scene import DeviceScene
from elvsm_ros.evaluation.baselines import Metrics, Quality, psnr, warped
from elvsm_ros.evaluation.convention import ConventionCheck, Verdict
from elvsm_ros.evaluation.journal import Journal, Record, code, digest, fingerprint
from elvsm_ros.evaluation.noise import LEVELS, sensitivity
from elvsm_ros.evaluation.options import EvaluationOptions
from elvsm_ros.evaluation.replay import Complaints, Recording, nothing_usable, replay
from elvsm_ros.evaluation.results import (
    NEAREST,
    OFFLINE,
    ONLINE,
    RENDER,
    ROTATION,
    EvaluationResults,
    HeldOutFrame,
    Key,
    NodeRun,
    keyframe_steps,
)
from elvsm_ros.input.camera_input import T_body_cam
from elvsm_ros.input.image_intake import Candidate
from elvsm_ros.parameters.table import Settings
from elvsm_ros.recordings.bag_reader import SECOND, BagError
from elvsm_ros.tools.processes import ProcessDied

GAP = 2.0
"""Seconds without a usable image that are told about."""
UNFINISHED = "unfinished"
"""Folder of what an evaluation that did not end has measured, beside its results."""
INTERRUPTED = "ended by Ctrl-C: the results are those up to then, and the same command goes on from there"


Progress = Callable[[str, int, int], None]
"""Is told how far the evaluation is: stage, done, total."""


class BagEvaluation:
    """One run over a recording; `run` does it.

    The scene is the node's (Engine), the images go through the node's intake, and everything happens in the order
    of the recording, so that two runs give the same figures on one machine.
    """

    def __init__(self, source: Recording, settings: Settings, options: EvaluationOptions, progress: Progress):
        self._source, self._settings, self._options = source, settings, options
        self._bag, self._streams = source.bag, source.streams
        self._tell = progress
        self._engine = DeviceScene(settings)
        self._complaints = Complaints()
        self._intake = source.intake(settings, self._complaints.reports)
        self._metrics = Metrics(options.lpips, self._engine.native_size)
        self._max_views = settings.max_views or None
        self._convention = ConventionCheck(T_body_cam(settings))
        self._journal = Journal(options.out / UNFINISHED, self._key())
        self._places: dict[int, int] = {}
        self.stamps: dict[int, int] = {}
        """Stamps (nanoseconds) of every keyframe that ever was, by view, oldest first."""
        self._path: list[np.ndarray] = []
        self._views: list[HeldOutFrame] = []
        self._insert_ms: list[float] = []
        self._evicted = self._held_out = 0
        self._last_keyframe = self._last_image = self._start = 0
        self._gaps: list[tuple[float, float]] = []
        share = 1.0 if options.seconds is None else min(1.0, options.seconds / max(self._bag.duration, 1e-9))
        self._images = max(1, math.ceil(share * self._streams.image.count))
        self._stride = math.ceil(self._images / options.frames)

    def run(self) -> EvaluationResults:
        """Evaluate. Raises BagError for a recording without a usable image.

        A recording that turns out to be damaged on the way, and Ctrl-C, give the results so far.
        """
        begin = time.perf_counter()
        incomplete, failed, noise, node = "", "", [], None
        try:
            self._replay()
        except BagError as error:
            incomplete = str(error)
        except KeyboardInterrupt:
            incomplete = INTERRUPTED
        if not self._path:
            raise BagError(incomplete) if incomplete else nothing_usable(self._source, self._complaints)
        try:
            if incomplete != INTERRUPTED:
                self._render_offline()
            if self._options.pose_noise and self._views and not incomplete:
                noise = self._disturb()
            if self._options.through_node and self._views and not incomplete:
                node = self._go_through_node()
        except KeyboardInterrupt:
            incomplete = incomplete or INTERRUPTED
        except (SceneClientError, ProcessDied) as error:
            incomplete = failed = f"through the node: {error}"
        verdict, scene = self._convention.verdict(), self._engine.scene
        return EvaluationResults(
            facts=self._facts(),
            views=self._views,
            path=np.stack(self._path),
            keyframes=scene.poses,
            counts=self._counts(),
            warnings=self._warnings(verdict),
            convention=verdict,
            pose_noise=noise,
            timing=self._timing(time.perf_counter() - begin),
            keyframe_steps=keyframe_steps(scene.poses, [self.stamps[view] for view in scene.views]),
            incomplete=incomplete,
            goes_on=bool(failed) or incomplete == INTERRUPTED,
            through_node=node,
        )

    # The replay

    def _replay(self) -> None:
        done = 0

        def passed() -> None:
            nonlocal done
            done += 1
            self._tell("replay", min(done, self._images), self._images)

        for decision in replay(self._source, self._intake, self._options.seconds, passed):
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
        self.stamps[inserted.view] = candidate.stamp
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
        scene, given = self._engine.scene, candidate.camera
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
        poses = scene.poses
        nearest = self._nearest(camera, poses)
        metres, radians = ec.keyframes.differences(camera.T_world_cam, poses[nearest][None])
        record = self._render(f"{candidate.stamp}", camera, truth, self._options.sweep)
        view = HeldOutFrame(
            index=len(self._views),
            stamp=candidate.stamp,
            time=self._seconds(candidate.stamp),
            camera=camera,
            truth=truth,
            since=(candidate.stamp - self._last_keyframe) / SECOND,
            distance=float(metres[0]),
            angle=math.degrees(float(radians[0])),
            keyframes=len(poses),
            used=record.values["used"],
            support=record.values["support"],
            render_ms=record.values["render_ms"],
            pictures={},
            quality={},
            sweep={int(n): value for n, value in record.values["sweep"].items()},
        )
        self._compare(view, ONLINE, record, f"{candidate.stamp}", scene.views[nearest])
        self._views.append(view)
        return True

    def _nearest(self, camera: ec.Camera, poses: np.ndarray) -> int:
        settings = self._settings
        angle = math.radians(settings.keyframe_angle)
        return ec.keyframes.nearest(camera.T_world_cam, poses, settings.keyframe_distance, angle)[0]

    def _render(self, name: str, camera: ec.Camera, truth: RGB, sweep: Sequence[int] = ()) -> Record:
        """Render a held-out frame from what there is now, or take over what an unfinished run rendered."""
        record = self._journal.get(name)
        if record is not None:
            return record
        scene = self._engine.scene
        start = time.perf_counter()
        rendering = scene.render([camera], self._max_views)
        values: dict[str, Any] = {
            "render_ms": 1e3 * (time.perf_counter() - start),
            "used": len(rendering.views),
            "support": float(rendering.support[0]),
            "sweep": {
                n: psnr(scene.render([camera], min(n, scene.capacity)).images[0], truth) for n in sweep
            },
        }
        return Record(rendering.images[0], values)

    def _compare(self, view: HeldOutFrame, column: str, record: Record, name: str, nearest: int) -> None:
        keyframe = self._engine.scene.keyframe(nearest)
        copy = keyframe.image.numpy()
        pictures: dict[Key, RGB] = {
            (column, RENDER): record.image,
            (column, NEAREST): copy,
            (column, ROTATION): warped(copy, keyframe.camera, view.camera),
        }
        if "quality" not in record.values:
            # Often no keyframe that came later is nearer: the baselines are what they were.
            known = [view.quality[ONLINE, m] for m in (NEAREST, ROTATION) if view.nearest == nearest]
            compared = list(pictures.values())[: len(pictures) - len(known)]
            qualities = [*self._metrics.compare(compared, view.truth), *known]
            record.values["quality"] = [dataclasses.asdict(quality) for quality in qualities]
            self._journal.put(name, record)
        view.nearest = nearest
        qualities = [Quality(**values) for values in record.values["quality"]]
        view.quality.update(zip(pictures, qualities, strict=True))
        if column == OFFLINE:  # the baselines are shown once
            pictures = {(OFFLINE, RENDER): record.image}
        view.pictures.update(pictures)

    # Afterwards

    def _render_offline(self) -> None:
        scene = self._engine.scene
        if not len(scene):
            return
        views, poses = scene.views, scene.poses
        for done, view in enumerate(self._views, 1):
            name = f"{view.stamp}-offline"
            record = self._render(name, view.camera, view.truth)
            self._compare(view, OFFLINE, record, name, views[self._nearest(view.camera, poses)])
            self._tell("everything seen", done, len(self._views))

    def _disturb(self) -> list[dict[str, float]]:
        settings, scene = self._settings, self._engine.scene
        done = 0

        def make() -> ec.Scene:
            return ec.Scene(
                self._engine.model, scene.capacity, scene.image_size, max_keyframes=settings.max_keyframes
            )

        def step() -> None:
            nonlocal done
            done += 1
            self._tell("pose noise", done, len(LEVELS))

        keyframes = [scene.keyframe(view) for view in scene.views]
        return sensitivity(make, keyframes, self._views, self._max_views, self._journal, step)

    def _go_through_node(self) -> NodeRun:
        from elvsm_ros.evaluation.through_node import NodeCheck

        torch.set_num_threads(1)  # the node needs the cores
        scene = self._engine.scene
        kept = [self.stamps[view] for view in scene.views]
        check = NodeCheck(self._source, self._settings, self._options, self._engine.model, self._tell)
        return check.run(self._views, list(self.stamps.values()), kept)

    def _key(self) -> dict[str, Any]:
        """Return everything that the figures depend on."""
        source, options = self._source, self._options
        return {
            "recording": fingerprint(source.bag.path),
            "topics": source.streams.names,
            "ends": source.ends,
            "model": digest(resolve(self._settings.model)),
            "settings": dataclasses.asdict(self._settings),
            "options": [options.frames, options.seconds, options.lpips, options.sweep],
            "device": self._engine.device,
            "code": [code(ec, elvsm_ros), torch.__version__],
        }

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
        timing = {
            "seconds": seconds,
            "peak_memory_bytes": float(_peak_memory()),
            "taken_over": float(self._journal.found),
        }
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
    source: Recording,
    settings: Settings,
    options: EvaluationOptions,
    progress: Progress = lambda stage, done, total: None,
) -> EvaluationResults:
    """Evaluate a recording. Raises BagError, and ValueError for a model or a device that cannot be."""
    return BagEvaluation(source, settings, options, progress).run()
