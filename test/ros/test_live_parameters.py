"""Parameters of a running node: which change, which refuse, what changes under load, and overrides of QoS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rig import NodeProcess, Peer, header, picture, pose_at, set_parameters, wait_until

from elvsm_core.keyframes import admit
from elvsm_ros import conversions, qos
from elvsm_ros.input.image_intake import Intake
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters import table
from elvsm_ros.parameters.table import ParameterRow, Settings
from elvsm_ros.worker import BusyError, Worker


def other_value(row: ParameterRow) -> Any:
    """Return a good value that is not the default."""
    if row.choices:
        return next(choice for choice in row.choices if choice != row.default)
    if isinstance(row.default, bool):
        return not row.default
    if isinstance(row.default, str):
        return "other"
    if isinstance(row.default, tuple):
        return [128, 128] if row.name.endswith("size") else list(row.default)
    assert row.low is not None and row.high is not None
    return type(row.default)(row.low if row.default != row.low else (row.low + row.high) / 2)


def test_every_parameter_changes_or_says_why_not(shared: tuple[NodeProcess, Peer]) -> None:
    """The table tells which; a live one takes what is good, refuses what is not, and can be put back."""
    peer = shared[1]
    live = 0
    for row in table.table():
        value = other_value(row)
        reasons = set_parameters(peer, {row.name: value})
        if row.at_start:
            assert len(reasons) == 1 and "read-only" in reasons[0], (row.name, reasons)
            continue
        if not row.live:
            assert len(reasons) == 1 and "clean the node up" in reasons[0], (row.name, reasons)
            continue
        live += 1
        assert reasons == [], (row.name, value)
        if row.choices:
            assert "must be one of" in set_parameters(peer, {row.name: "nonsense"})[0]
        elif row.high is not None and not isinstance(row.default, tuple):
            assert set_parameters(peer, {row.name: type(row.default)(row.high * 2 + 1)}) != [], row.name
        default = list(row.default) if isinstance(row.default, tuple) else row.default
        assert set_parameters(peer, {row.name: default}) == []
    assert live > 15
    assert set_parameters(peer, {"log_period": 0.0, "status_period": 0.1}) == []


def test_what_parts_keep_is_changed_there(shared: tuple[NodeProcess, Peer]) -> None:
    worker: Worker[None] = Worker(lambda: None, offers=4, calls=4)
    entered, leave = threading.Event(), threading.Event()
    worker.call(lambda _: (entered.set(), leave.wait(20)))
    entered.wait(20)
    offers = [worker.offer(lambda _: None) for _ in range(4)]
    worker.limit(offers=2, calls=1)
    worker.call(lambda _: None)
    with pytest.raises(BusyError):
        worker.call(lambda _: None)
    worker.offer(lambda _: None)
    assert [offer.cancelled() for offer in offers] == [True, True, True, False]
    leave.set()
    assert worker.stop(20)

    settings = Settings.from_values({"world_frame": "map"})
    lines: list[str] = []
    intake = Intake(settings, admit, Reports(lines.append, period=0.0))
    intake.apply(settings.replaced({"sync_timeout": 5.0, "sync_queue": 2, "pose_gap": 0.1}))
    for i in range(3):
        intake.add_image(conversions.rgb_to_image(picture(i), header(10**9 * (i + 1), "c")), float(i) / 10)
    assert intake.counters.images_dropped == 1
    intake.poll(4.0)
    assert intake.counters.images_rejected == 0
    intake.poll(6.0)
    assert intake.counters.images_rejected == 2 and "waited 5 s (sync_timeout)" in lines[-1]


def test_parameters_change_while_images_and_requests_come(shared: tuple[NodeProcess, Peer]) -> None:
    node, peer = shared
    peer.insert(picture(0), pose_at(0.0))
    done, failures, rendered = threading.Event(), [], []

    def render() -> None:
        i = 0
        while not done.is_set():
            peer.send_frame(picture(i), pose_at(0.3 * i))
            answer = peer.render([pose_at(0.1)], encoding="jpeg", width=48, height=32)
            rendered.append(len(answer.compressed_images[0].data) if answer.success else 0)
            failures.extend([] if answer.success else [answer.message])
            i += 1

    client = threading.Thread(target=render)
    client.start()
    try:
        for i in range(30):
            values = {
                "max_views": i % 4,
                "jpeg_quality": 10 if i % 2 else 95,
                "keyframe_distance": 0.1 + 0.1 * (i % 3),
            }
            assert set_parameters(peer, {**values, "insert_queue": 1 + i % 5}) == []
            assert len(set_parameters(peer, {"capacity": 3, "jpeg_quality": 1000})) == 2
    finally:
        done.set()
        client.join()
    assert not failures and len(rendered) > 5
    assert min(rendered) * 1.3 < max(rendered), "both qualities were seen"
    assert peer.fresh_status().keyframes_inserted > 3 and "Traceback" not in node.output


def test_a_profile_is_not_shared_by_what_overrides_it() -> None:
    first, second = qos.overridable(qos.SENSOR_QOS), qos.overridable(qos.SENSOR_QOS)
    first["qos_profile"].reliability = ReliabilityPolicy.RELIABLE
    assert second["qos_profile"].reliability == qos.SENSOR_QOS.reliability == ReliabilityPolicy.BEST_EFFORT
    assert qos.overridable(3)["qos_profile"].depth == 3


def test_qos_is_overridden_topic_by_topic(start_node: Callable[..., NodeProcess], peer: Peer) -> None:
    overrides = {
        "qos_overrides./image.subscription.reliability": "reliable",
        "qos_overrides./image.subscription.durability": "transient_local",
        "qos_overrides./strict/rendered/image.publisher.reliability": "best_effort",
    }
    node = start_node("-r", "__node:=strict", **overrides)
    wrong = start_node("-r", "__node:=wrong", **{"qos_overrides./image.subscription.reliability": "perfect"})
    node.wait_for("active")

    def profile(topic: str, ask: Callable[[str], Any]) -> QoSProfile:
        ends = wait_until(lambda: [e for e in ask(topic) if e.node_name == "strict"], f"{topic} of the node")
        return ends[0].qos_profile

    readers = peer.node.get_subscriptions_info_by_topic
    image, info = profile("/image", readers), profile("/camera_info", readers)
    assert (image.reliability, image.durability) == (
        ReliabilityPolicy.RELIABLE,
        DurabilityPolicy.TRANSIENT_LOCAL,
    )
    assert (info.reliability, info.durability) == (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
    rendered = profile("/strict/rendered/image", peer.node.get_publishers_info_by_topic)
    assert rendered.reliability == ReliabilityPolicy.BEST_EFFORT
    assert wrong.wait() == 1
    assert any("cannot activate" in line and "perfect" in line for line in wrong.lines), wrong.output
    assert "Traceback" not in wrong.output and node.alive()
