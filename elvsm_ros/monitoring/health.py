"""What the parts of a node say about themselves, put together for ~/status and /diagnostics."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from std_msgs.msg import Header

from elvsm.msg import Status
from elvsm_ros.input.image_intake import Intake
from elvsm_ros.input.subscriptions import Subscriptions
from elvsm_ros.keyframes.keyframe_queue import KeyframeFeed
from elvsm_ros.monitoring.diagnostics import REASONS, Snapshot, device_memory
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.monitoring.stats import Window
from elvsm_ros.parameters.table import Settings
from elvsm_ros.rendering.render_service import RenderDesk
from elvsm_ros.worker import Worker

if TYPE_CHECKING:
    from elvsm_core import Scene

DEVICE_KIND = "device"
"""Kind of the reports about what the device is short of."""

DEVICE_FAULTS = (
    "CUDA error: ", "CUDA driver error: ", "cuDNN error: ", "cuBLAS error: ", "CUBLAS_STATUS_", "CUDNN_STATUS_",
    "Triton Error [CUDA]: ", "NVML_SUCCESS ==",
)  # fmt: skip
"""What PyTorch and Triton begin with where they have no type for it (torch.AcceleratorError is the driver's only). Text
from outside, the name of a file for one, comes later in a message."""


def is_device_fault(error: BaseException) -> bool:
    """Tell whether an exception says that the device is out of order, and not just out of memory.

    What PyTorch has on a GPU is lost then, and every later call would fail.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names:
        return False
    if "AcceleratorError" in names:
        return True
    return type(error) is RuntimeError and str(error).startswith(DEVICE_FAULTS)


LOGGERS = ("elvsm_core", "elvsm_ros.device_scene")
"""Where model, scene and device say what they are short of."""


class CoreWarnings(logging.Handler):
    """Pass on what they warn of, on whatever thread: memory that is short, kernels that do not work."""

    def __init__(self, warn: Callable[[str], None]):
        super().__init__(logging.WARNING)
        self._warn = warn
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._warn(record.getMessage())

    def close(self) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
        super().close()


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a configured node that count and measure.

    scene: asked for its capacity only, which shrinks when the device's memory is short.
    """

    worker: Worker[Any]
    intake: Intake
    feed: KeyframeFeed
    desk: RenderDesk
    reports: Reports
    insert_ms: Window
    scene: Scene
    device: str


def status(parts: Parts, settings: Settings, header: Header) -> Status:
    """Put ~/status together."""
    intake, feed, desk = parts.intake, parts.feed, parts.desk
    return Status(
        header=header, model=settings.model, device=parts.device, paused=intake.paused,
        keyframes=len(feed.keyframes), capacity=parts.scene.capacity,
        images_received=intake.counters.images_received, poses_received=intake.counters.poses_received,
        images_dropped=intake.counters.images_dropped, images_rejected=intake.counters.images_rejected,
        keyframes_inserted=feed.inserted, keyframes_evicted=feed.evicted,
        queue_length=len(parts.worker) + intake.backlog, renders=desk.renders, render_failures=desk.failures,
        insert_ms_p50=parts.insert_ms.percentile(50), insert_ms_p95=parts.insert_ms.percentile(95),
        render_ms_p50=desk.latency_ms.percentile(50), render_ms_p95=desk.latency_ms.percentile(95),
        last_error=parts.reports.last,
    )  # fmt: skip


def snapshot(
    parts: Parts | None,
    inputs: Subscriptions | None,
    settings: Settings,
    state: str,
    fault: str,
    now: float,
    clock: int,
) -> Snapshot:
    """Return what /diagnostics are made of. now: seconds, steady; clock: the node's, nanoseconds."""
    if parts is None:
        return Snapshot(now, state, fault=fault)
    intake, feed, desk = parts.intake, parts.feed, parts.desk
    topics = inputs.topics if inputs else []
    poses = [topic for topic in topics if topic.what == "poses"]
    newest = max((topic.newest for topic in poses if topic.newest is not None), default=None)
    return Snapshot(
        now, state, now - inputs.since if inputs else 0.0, fault,
        model=settings.model, device=parts.device, paused=intake.paused,
        images=intake.counters.images_received, poses=intake.counters.poses_received,
        # The camera that has been silent for longest: one that is unplugged must not hide behind the others.
        image_age=_age([topic for topic in topics if topic.what.startswith("images")], now),
        pose_age=_age(poses, now), needs_poses=bool(poses),
        pose_lag=math.nan if newest is None else (clock - newest) / 1e9,
        dropped=intake.counters.images_dropped, rejected=intake.counters.images_rejected,
        reasons=tuple(parts.reports.reasons(REASONS)),
        keyframes=len(feed.keyframes), capacity=parts.scene.capacity,
        inserted=feed.inserted, evicted=feed.evicted, insert_ms=_percentiles(parts.insert_ms),
        queue=len(parts.worker), queue_limit=settings.render_queue,
        renders=desk.renders, failures=desk.failures, render_ms=_percentiles(desk.latency_ms),
        memory=device_memory(parts.device), device_warnings=parts.reports.counts[DEVICE_KIND],
        words=dict(parts.reports.last_of), last_error=parts.reports.last,
    )  # fmt: skip


def _age(topics: list[Any], now: float) -> float:
    return max((now - topic.seen if topic.count else math.inf for topic in topics), default=math.inf)


def _percentiles(window: Window) -> tuple[float, float]:
    return window.percentile(50), window.percentile(99)
