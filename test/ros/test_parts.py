"""The small parts of the node: admission, percentiles, reports, a punctual end."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from concurrent.futures import Future

import numpy as np
import pytest
import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor
from rig import PATIENCE, pose_at, wait_until
from std_srvs.srv import Trigger

from elvsm_core.keyframes import admit
from elvsm_ros.input.admission import SECOND, Admission, Rule
from elvsm_ros.monitoring.fault_log import BURST, KNOWN_LIMIT, Reports
from elvsm_ros.monitoring.health import is_device_fault
from elvsm_ros.monitoring.stats import Window
from elvsm_ros.quoting import quoted
from elvsm_ros.rclpy_support import answer_by_future

RULE = Rule(distance=0.2, angle=math.radians(15), rate=0.0)


def test_admits_by_distance_or_angle_to_the_nearest_keyframe() -> None:
    admission = Admission(admit)
    assert admission.offer(pose_at(0.0), 0, RULE) is not None
    assert admission.offer(pose_at(0.19), 1, RULE) is None
    assert admission.offer(pose_at(0.2), 2, RULE) is not None
    assert admission.offer(pose_at(0.1, math.radians(16)), 3, RULE) is not None
    # Far from the last one, but close to the first: not new.
    assert admission.offer(pose_at(0.05), 4, RULE) is None
    assert len(admission) == 3


def test_a_released_place_is_free_again() -> None:
    admission = Admission(admit)
    keys = [admission.offer(pose_at(x), i, RULE) for i, x in enumerate((0.0, 1.0, 2.0))]
    assert admission.offer(pose_at(0.05), 9, RULE) is None
    admission.release(keys[0])
    admission.release(keys[0])
    assert len(admission) == 2
    assert admission.offer(pose_at(1.05), 9, RULE) is None
    assert admission.offer(pose_at(2.05), 9, RULE) is None
    assert admission.offer(pose_at(0.05), 9, RULE) is not None
    admission.clear()
    admission.release(keys[1])
    assert len(admission) == 0
    assert admission.offer(pose_at(1.0), 9, RULE) is not None


def test_holds_the_rate_by_the_images_own_clock() -> None:
    admission = Admission(admit)
    rule = Rule(distance=0.2, angle=1.0, rate=5.0)
    assert admission.offer(pose_at(0.0), 0, rule) is not None
    assert admission.offer(pose_at(1.0), SECOND // 5 - 1, rule) is None
    key = admission.offer(pose_at(1.0), SECOND // 5, rule)
    assert key is not None
    assert admission.offer(pose_at(2.0), SECOND * 3 // 10, rule) is None
    admission.release(key)  # it was no good: the next one need not wait for it
    assert admission.offer(pose_at(2.0), SECOND * 3 // 10, rule) is not None


def test_thousands_of_places() -> None:
    admission = Admission(admit)
    for i in range(1000):
        assert admission.offer(pose_at(i * 0.25), i, RULE) is not None
    assert admission.offer(pose_at(100.05), 2000, RULE) is None


def test_percentiles_of_the_newest_values() -> None:
    window = Window(length=100)
    assert math.isnan(window.percentile(50))
    for value in range(1000):
        window.add(value)
    assert len(window) == 100
    assert (window.percentile(50), window.percentile(95), window.percentile(100)) == (949, 994, 999)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_same_line_is_throttled_and_other_lines_are_not(clock: Clock) -> None:
    lines: list[str] = []
    reports = Reports(lines.append, period=5.0, clock=clock)
    for i in range(10):
        reports.add("image", f"image {i} is bad")
    reports.add("image", "camera is bad")
    assert lines == ["image: image 0 is bad", "image: camera is bad"]
    clock.now = 5.1
    reports.add("image", "image 11 is bad")
    assert lines[2:] == ["image: image 11 is bad (9 more like this since)"]
    assert reports.counts == {"image": 12}
    assert reports.last == "image 11 is bad"


def test_reports_remember_a_bounded_number_of_lines(clock: Clock) -> None:
    reports = Reports(lambda line: None, clock=clock)
    for i in range(3 * KNOWN_LIMIT):
        reports.add("x", "message " + "ab"[i % 2] * i)
    assert len(reports._logged) == KNOWN_LIMIT


def test_what_is_quoted_makes_no_other_line_and_a_kind_has_few(clock: Clock) -> None:
    lines: list[str] = []
    reports = Reports(lines.append, clock=clock)
    for name in ("a", "b'c", 'd"e', "\x1b[2J\n", "x" * 10**6):
        reports.add("pose", f"pose is given in frame {quoted(name)}")
    assert len(lines) == 1
    assert len(reports.last) < 200 and reports.last.isprintable()
    assert reports.reasons(5) == [("pose", "pose is given in frame '...'", 5)]
    for i in range(1000):
        reports.add("clock", "nobody quoted " + "ab"[i % 2] * i + "\x1b[31m" + "z" * 10**4)
    assert len(lines) == 1 + BURST and all(line.isprintable() and len(line) < 1100 for line in lines)
    clock.now = 5.1
    reports.add("clock", "another period")
    assert lines[-1] == "clock: another period"


def test_faults_of_the_device_are_told_from_what_a_message_quotes() -> None:
    for text in (
        "CUDA error: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    ):
        assert is_device_fault(RuntimeError(text))
        assert not is_device_fault(RuntimeError(f"Symlink loop from '/tmp/{text}/NVML'"))
        assert not is_device_fault(OSError(text))
    assert is_device_fault(torch.AcceleratorError("of the driver"))
    assert not is_device_fault(torch.OutOfMemoryError("CUDA error: out of memory"))


def test_unforeseen_faults_name_the_exception(clock: Clock) -> None:
    lines: list[str] = []
    details: list[str] = []
    reports = Reports(lines.append, debug=details.append, clock=clock)
    try:
        np.zeros(3).reshape(2)
    except ValueError as error:
        text = reports.fault("rendering failed", error)
    assert text.startswith("rendering failed: ValueError: cannot reshape")
    assert lines == ["internal: " + text]
    assert "Traceback" in details[0]


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "status"), [(60, 1), (0, 0)])
def test_a_process_that_gets_stuck_while_leaving_ends(seconds: int, status: int) -> None:
    """Stuck as Fast DDS is: in a library, with Python's lock in its hands."""
    code = f"""
import ctypes
from elvsm_ros.rclpy_support import leaving
with leaving(0.5):
    ctypes.PyDLL(None).sleep({seconds})
ctypes.CDLL(None).sleep(1)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=40)
    assert ended.returncode == status, ended.stderr
    assert ("Timeout" in ended.stderr) is bool(status)


@pytest.mark.ros
def test_whoever_completes_an_answer_sends_it() -> None:
    """Also one that the callback itself has completed, or returns without a future, or that comes too late."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("answers", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    kinds, waiting = iter(("later", "at once", "plain", "nothing", "never")), []
    failed: list[Exception] = []

    def callback(request: Trigger.Request, response: Trigger.Response) -> object:
        response.message = next(kinds)
        answer: Future[Trigger.Response] = Future()
        if response.message == "plain":
            return response
        if response.message == "at once":
            answer.set_result(response)
        else:
            waiting.append((answer, response))
        return answer

    service = node.create_service(Trigger, "~/answer", callback)
    answer_by_future(service, failed.append)
    client = node.create_client(Trigger, "/answers/answer")
    threading.Thread(target=executor.spin, daemon=True).start()
    try:
        assert client.wait_for_service(PATIENCE)
        calls = [client.call_async(Trigger.Request()) for _ in range(5)]
        wait_until(lambda: len(waiting) == 3 and calls[1].done() and calls[2].done(), "the answers at hand")
        assert not calls[0].done()
        answer, response = waiting[0]
        answer.set_result(response)
        wait_until(calls[0].done, "the answer that was waited for")
        assert [call.result().message for call in calls[:3]] == ["later", "at once", "plain"]
        waiting[1][0].set_result(None)
        assert len(failed) == 1 and isinstance(failed[0], TypeError)
        node.destroy_service(service)
        answer, response = waiting[2]
        answer.set_result(response)
        assert len(failed) == 1 and not calls[3].done() and not calls[4].done()
    finally:
        executor.shutdown(PATIENCE)
        node.destroy_node()
        rclpy.shutdown(context=context)
