"""How the node is, in words for whoever runs the robot: what goes out on /diagnostics."""

from __future__ import annotations

import collections
import dataclasses
import math
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

WINDOW = 5.0
"""Seconds that rates are taken over, and for which what went wrong is shown."""
REASONS = 8
"""Kinds of faults that are listed, the most frequent ones."""

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
Finding = tuple[bytes, str]
Values = dict[str, object]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What is known at a moment. Counters count since the node was configured.

    at: seconds, steady. state: of the lifecycle; active_for: seconds. fault: what took the node down, if anything
    did. images and poses: that arrived; their ages: seconds since the newest one, inf before the first; pose_lag:
    seconds from the newest pose's stamp to the node's clock. needs_poses: False where they come from TF. reasons:
    kind, message, how often; words: kind, newest message. memory: names with bytes. *_limit: how many may wait.
    *_ms: median and 99th percentile, milliseconds.
    """

    at: float
    state: str = "unconfigured"
    active_for: float = 0.0
    fault: str = ""
    model: str = ""
    device: str = ""
    paused: bool = False
    images: int = 0
    poses: int = 0
    image_age: float = math.inf
    pose_age: float = math.inf
    pose_lag: float = math.nan
    needs_poses: bool = True
    dropped: int = 0
    rejected: int = 0
    reasons: tuple[tuple[str, str, int], ...] = ()
    keyframes: int = 0
    capacity: int = 0
    inserted: int = 0
    evicted: int = 0
    insert_ms: tuple[float, float] = (math.nan, math.nan)
    queue: int = 0
    queue_limit: int = 0
    renders: int = 0
    failures: int = 0
    render_ms: tuple[float, float] = (math.nan, math.nan)
    memory: tuple[tuple[str, int], ...] = ()
    device_warnings: int = 0
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    last_error: str = ""

    def said(self, *kinds: str) -> str:
        """Return the newest message of the first of these kinds that has one."""
        return next((self.words[kind] for kind in kinds if kind in self.words), self.last_error)


@dataclasses.dataclass(frozen=True)
class Limits:
    """When to warn: seconds without input, milliseconds of a render (99th percentile); 0: never."""

    silence: float
    latency: float


def assess(before: Snapshot, now: Snapshot, limits: Limits) -> list[DiagnosticStatus]:
    """Return the statuses of node, input, scene, renders and device. before: up to WINDOW seconds older."""
    parts = [_status("node", *_node(now))]
    if now.state == "unconfigured":
        return parts
    return [
        *parts,
        _status("input", *_input(before, now, limits)),
        _status("scene", *_scene(before, now)),
        _status("renders", *_renders(before, now, limits)),
        _status("device", *_device(before, now)),
    ]


def _node(now: Snapshot) -> tuple[list[Finding], str, Values]:
    found: list[Finding] = []
    if now.fault:
        found.append((ERROR, now.fault))
    elif now.state == "unconfigured":
        found.append((WARN, "not configured: nothing is loaded, nothing can be rendered"))
    elif now.state != "active":
        found.append((WARN, f"{now.state}: renders are served, new images are not looked at"))
    elif now.paused:
        found.append((WARN, "paused: images are counted, not used (~/pause)"))
    values: Values = {"state": now.state, "model": now.model, "last error": now.last_error}
    return found, f"active with the model {now.model}", values


def _input(before: Snapshot, now: Snapshot, limits: Limits) -> tuple[list[Finding], str, Values]:
    found: list[Finding] = []
    watching = now.state == "active"
    if watching and limits.silence and now.active_for > limits.silence:
        if now.image_age > limits.silence:
            found.append(
                (ERROR, f"no images {_since(now.image_age)}: is the camera running, and its topic remapped?")
            )
        if now.needs_poses and now.pose_age > limits.silence:
            found.append(
                (ERROR, f"no poses {_since(now.pose_age)}: is the localisation running, and tracking?")
            )
    rejected, dropped = now.rejected - before.rejected, now.dropped - before.dropped
    if rejected > 0:
        found.append(
            (WARN, f"{rejected} images were refused lately: {now.said('image', 'camera_info', 'pose')}")
        )
    if dropped > 0:
        found.append(
            (WARN, f"{dropped} images were given up lately: the device does not keep up with new keyframes")
        )
    values: Values = {
        "image rate (Hz)": _rate(before, now, "images"),
        "pose rate (Hz)": _rate(before, now, "poses"),
        "newest image (s ago)": now.image_age,
        "newest pose (s ago)": now.pose_age,
        "pose age by its stamp (s)": now.pose_lag,
        "images received": now.images,
        "poses received": now.poses,
        "images given up": now.dropped,
        "images refused": now.rejected,
    }
    for kind, text, count in now.reasons:
        values[f"{kind}: {text}"] = count
    return found, "images and poses arrive" if watching else "not watched", values


def _scene(before: Snapshot, now: Snapshot) -> tuple[list[Finding], str, Values]:
    found: list[Finding] = []
    if now.state == "active" and not now.keyframes and now.images and not now.paused:
        found.append((WARN, "no keyframe yet although images arrive: see what is said about the input"))
    values: Values = {
        "keyframes": now.keyframes,
        "encoded views that fit on the device": now.capacity,
        "inserted": now.inserted,
        "forgotten to make room": now.evicted,
        "insertion rate (Hz)": _rate(before, now, "inserted"),
        "insertion p50 (ms)": now.insert_ms[0],
        "insertion p99 (ms)": now.insert_ms[1],
    }
    return found, f"{now.keyframes} keyframes", values


def _renders(before: Snapshot, now: Snapshot, limits: Limits) -> tuple[list[Finding], str, Values]:
    found: list[Finding] = []
    failures = now.failures - before.failures
    if failures > 0:
        found.append((WARN, f"{failures} requests failed lately: {now.said('render', 'internal')}"))
    if now.queue_limit and now.queue > now.queue_limit / 2:
        found.append(
            (WARN, f"{now.queue} requests wait for the device: more is asked for than it can render")
        )
    recent = now.renders > before.renders
    if recent and limits.latency and now.render_ms[1] > limits.latency:
        found.append(
            (
                WARN,
                f"renders take up to {now.render_ms[1]:.0f} ms: ask for fewer, smaller or fewer views (max_views)",
            )
        )
    values: Values = {
        "views rendered": now.renders,
        "render rate (Hz)": _rate(before, now, "renders"),
        "requests failed": now.failures,
        "jobs waiting": now.queue,
        "latency p50 (ms)": now.render_ms[0],
        "latency p99 (ms)": now.render_ms[1],
    }
    return found, "rendering" if recent else "ready", values


def _device(before: Snapshot, now: Snapshot) -> tuple[list[Finding], str, Values]:
    found: list[Finding] = []
    if now.device_warnings > before.device_warnings:
        found.append((WARN, now.said("device")))
    values: Values = {"device": now.device, **{f"{name} (MiB)": size / 2**20 for name, size in now.memory}}
    return found, now.device, values


def _status(part: str, found: list[Finding], fine: str, values: Values) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=max((level for level, _ in found), default=OK),
        name=f"elvsm: {part}",
        message="; ".join(text for _, text in found) or fine,
        hardware_id=socket.gethostname(),
        values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if math.isfinite(value) else "none"
    return str(value)


def _since(age: float) -> str:
    return f"for {age:.0f} s" if math.isfinite(age) else "have arrived"


def _rate(before: Snapshot, now: Snapshot, counter: str) -> float:
    if now.at <= before.at:
        return math.nan
    return max(0, getattr(now, counter) - getattr(before, counter)) / (now.at - before.at)


def device_memory(device: str) -> tuple[tuple[str, int], ...]:
    """Return bytes by name: of the GPU that PyTorch uses, and of the process."""
    found: list[tuple[str, int]] = []
    torch = sys.modules.get("torch")  # loaded by the worker; seconds to import
    if torch is not None and device.startswith("cuda"):
        try:
            free, total = torch.cuda.mem_get_info(device)
            found += [
                ("device memory in tensors", torch.cuda.memory_allocated(device)),
                ("device memory held by PyTorch", torch.cuda.memory_reserved(device)),
                ("device memory free", free),
                ("device memory", total),
            ]
        except RuntimeError:  # it is out of order, and that is said elsewhere
            pass
    return (*found, ("process memory", _resident()))


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


class Diagnostics:
    """Put diagnostics together every so often.

    publish: takes the finished message. stamp: the node's clock.
    """

    def __init__(self, publish: Callable[[DiagnosticArray], object], stamp: Callable[[], Time]):
        self._publish, self._stamp = publish, stamp
        self._past: collections.deque[Snapshot] = collections.deque()
        self._next = -math.inf

    def tick(self, now: float, period: float, limits: Limits, look: Callable[[], Snapshot]) -> None:
        """Publish if it is time. now: seconds, steady. period: seconds; 0: never. look: returns what is known."""
        if not period or now < self._next:
            return
        self._next = now + period - 0.01  # ticks come a little early and late
        snapshot = look()
        if self._past and snapshot.state == "unconfigured":
            self._past.clear()
        self._past.append(snapshot)
        # The oldest one within the window, or the one before when there is no other.
        while len(self._past) > 2 and self._past[1].at <= now - WINDOW:
            self._past.popleft()
        statuses = assess(self._past[0], snapshot, limits)
        self._publish(DiagnosticArray(header=Header(stamp=self._stamp()), status=statuses))
