"""/diagnostics: what is said of which state of things, and that the node says it."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from rig import NodeProcess, Peer, change, header, picture, pose_at, set_parameters, wait_until
from std_srvs.srv import SetBool

from elvsm_ros import conversions
from elvsm_ros.monitoring import health
from elvsm_ros.monitoring.diagnostics import Diagnostics, Limits, Snapshot, assess
from elvsm_ros.monitoring.fault_log import Reports

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
LIMITS = Limits(silence=5.0, latency=500.0)
BEFORE = Snapshot(
    100.0, "active", active_for=60.0, model="demo", device="cpu", images=200, poses=400, image_age=0.05,
    pose_age=0.02, pose_lag=0.03, keyframes=10, capacity=64, inserted=12, evicted=2, queue_limit=256, renders=50,
    render_ms=(20.0, 40.0),
)  # fmt: skip
FINE = dataclasses.replace(BEFORE, at=105.0, images=350, poses=650, inserted=22, renders=60)


def parts(now: Snapshot) -> dict[str, DiagnosticStatus]:
    return {status.name.removeprefix("elvsm: "): status for status in assess(BEFORE, now, LIMITS)}


def test_when_all_is_well() -> None:
    found = parts(FINE)
    assert list(found) == ["node", "input", "scene", "renders", "device"]
    assert all(status.level == OK and status.hardware_id for status in found.values())
    values = {v.key: v.value for status in found.values() for v in status.values}
    assert values["image rate (Hz)"] == "30.000" and values["pose rate (Hz)"] == "50.000"
    assert values["pose age by its stamp (s)"] == "0.030" and values["keyframes"] == "10"
    assert values["forgotten to make room"] == "2" and values["latency p99 (ms)"] == "40.000"
    assert values["insertion p50 (ms)"] == "none"


CASES = {
    "no images": ("input", ERROR, {"image_age": 8.0}, "no images for 8 s: is the camera running"),
    "never an image": ("input", ERROR, {"image_age": math.inf}, "no images have arrived"),
    "no poses": ("input", ERROR, {"pose_age": 8.0}, "no poses for 8 s: is the localisation running"),
    "poses from TF": ("input", OK, {"pose_age": math.inf, "needs_poses": False}, "arrive"),
    "just activated": ("input", OK, {"image_age": math.inf, "pose_age": math.inf, "active_for": 1.0}, "arrive"),
    "refused": (
        "input", WARN, {"rejected": 3, "words": {"image": "image is torn"}, "last_error": "else"},
        "3 images were refused lately: image is torn",
    ),
    "given up": ("input", WARN, {"dropped": 4}, "4 images were given up lately"),
    "no keyframe": ("scene", WARN, {"keyframes": 0}, "no keyframe yet although images arrive"),
    "failures": ("renders", WARN, {"failures": 2, "last_error": "why"}, "2 requests failed lately: why"),
    "queue": ("renders", WARN, {"queue": 200}, "200 requests wait"),
    "slow": ("renders", WARN, {"render_ms": (300.0, 900.0)}, "renders take up to 900 ms"),
    "slow once": ("renders", OK, {"render_ms": (300.0, 900.0), "renders": 50}, "ready"),
    "memory": ("device", WARN, {"device_warnings": 1, "words": {"device": "out of memory"}}, "out of memory"),
    "paused": ("node", WARN, {"paused": True}, "paused"),
    "inactive": ("node", WARN, {"state": "inactive"}, "inactive: renders are served"),
    "fault": ("node", ERROR, {"fault": "the device failed"}, "the device failed"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_in_words(case: str) -> None:
    part, level, changes, text = CASES[case]
    status = parts(dataclasses.replace(FINE, **changes))[part]
    assert status.level == level and text in status.message, status


def test_an_unconfigured_node_says_so_and_no_more() -> None:
    found = parts(Snapshot(105.0))
    assert list(found) == ["node"] and found["node"].level == WARN
    assert "not configured" in found["node"].message
    assert parts(Snapshot(105.0, fault="cannot configure: no such file"))["node"].level == ERROR


def test_rates_and_faults_are_of_the_last_seconds() -> None:
    sent: list[DiagnosticArray] = []
    diagnostics = Diagnostics(sent.append, lambda: header(0, "").stamp)
    for second in range(20):
        now = dataclasses.replace(
            FINE, at=float(second), images=10 * second, rejected=1 if second >= 3 else 0
        )
        for tick in range(10):
            diagnostics.tick(second + tick / 10, 1.0, LIMITS, lambda now=now: now)
    assert len(sent) == 20
    levels = [message.status[1].level for message in sent]
    assert levels == [OK] * 3 + [WARN] * 5 + [OK] * 12
    assert {v.key: v.value for v in sent[-1].status[1].values}["image rate (Hz)"] == "10.000"
    diagnostics.tick(30.0, 0.0, LIMITS, lambda: FINE)
    assert len(sent) == 20, "a period of 0 means none"


def test_reasons_are_counted_without_their_numbers() -> None:
    reports = Reports(lambda line: None)
    for i in range(5):
        reports.add("image", f"image is {i}x-4.5, not 3")
    reports.add("pose", "pose has NaN")
    assert reports.reasons(8) == [("image", "image is #x#, not #", 5), ("pose", "pose has NaN", 1)]
    for i in range(2000):
        reports.add("x", "message " + f"{i:b}".replace("0", "a").replace("1", "b"))
    assert len(reports.reasons(10_000)) == 256 and reports.reasons(1)[0][2] == 5


def test_a_device_that_is_out_of_order_is_told_from_a_full_one() -> None:
    class AcceleratorError(RuntimeError): ...

    class OutOfMemoryError(RuntimeError): ...

    assert health.is_device_fault(AcceleratorError("unspecified launch failure"))
    assert health.is_device_fault(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not health.is_device_fault(OutOfMemoryError("CUDA out of memory, CUDA error: ..."))
    assert not health.is_device_fault(RuntimeError("shapes do not fit"))
    assert not health.is_device_fault(ValueError("CUDA error"))


def test_what_the_core_warns_of_is_passed_on_until_the_node_is_cleaned_up() -> None:
    lines: list[str] = []
    handler = health.CoreWarnings(lines.append)
    logger = logging.getLogger("elvsm_core.paging")
    logger.warning("out of device memory: rendering %d targets at once from now on", 4)
    logger.info("nothing of interest")
    handler.close()
    logger.warning("too late")
    assert lines == ["out of device memory: rendering 4 targets at once from now on"]


def test_the_node_tells_how_it_is(start_node: Callable[..., NodeProcess], peer: Peer, small_model) -> None:
    node = start_node(
        autostart=False, diagnostics_period=0.2, silence_warning=1.0, status_period=0.1, model="/nowhere/x.pt"
    )
    arrays: list[DiagnosticArray] = []
    peer.node.create_subscription(DiagnosticArray, "/diagnostics", arrays.append, 10)

    def wait_for(part: str, level: bytes, text: str) -> DiagnosticStatus:
        def found() -> DiagnosticStatus | None:
            statuses = {s.name: s for s in arrays[-1].status} if arrays else {}
            status = statuses.get(f"elvsm: {part}")
            return status if status and status.level == level and text in status.message else None

        return wait_until(found, f"{part} to say {text!r}: {arrays[-1:]}")

    wait_for("node", WARN, "not configured")
    assert not change(peer, Transition.TRANSITION_CONFIGURE)
    wait_for("node", ERROR, "cannot configure")
    assert set_parameters(peer, {"model": str(small_model)}) == []
    assert change(peer, Transition.TRANSITION_CONFIGURE)
    wait_for("node", WARN, "inactive")
    assert change(peer, Transition.TRANSITION_ACTIVATE)
    wait_for("input", ERROR, "no images have arrived")
    wait_until(peer.connected, "the node and its peer to find each other")
    peer.insert(picture(0), pose_at(0.0))
    wait_for("input", OK, "arrive")
    assert wait_for("scene", OK, "1 keyframes")
    wait_for("input", ERROR, "no poses for ")
    peer.send_frame(picture(1), pose_at(1.0))
    stamp = peer.next_stamp()
    peer.send_info(stamp)
    peer.send_pose(stamp, pose_at(2.0))
    message = conversions.rgb_to_image(picture(3), header(stamp, "camera"))
    message.encoding = "nonsense"
    peer.image.publish(message)
    wait_for("input", WARN, "images were refused lately: image encoding 'nonsense'")
    assert peer.render([pose_at(0.1)]).success and not peer.render([]).success
    status = wait_for("renders", WARN, "1 requests failed lately: the request holds no pose")
    assert float({v.key: v.value for v in status.values}["latency p99 (ms)"]) > 0
    status = wait_for("device", OK, "cpu")
    assert float({v.key: v.value for v in status.values}["process memory (MiB)"]) > 50
    assert peer.call(SetBool, "/elvsm/pause", SetBool.Request(data=True)).success
    wait_for("node", WARN, "paused")
    assert change(peer, Transition.TRANSITION_DEACTIVATE) and change(peer, Transition.TRANSITION_CLEANUP)
    wait_for("node", WARN, "not configured")
    assert node.alive() and "Traceback" not in node.output, node.output
