"""docs/interface.md against the graph of the real node: names, types and QoS, both ways."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")

import rclpy
from rclpy.action import get_action_server_names_and_types_by_node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rig import NodeProcess, save_small_model, wait_until

pytestmark = pytest.mark.ros

EVERY_NODE = ("rcl_interfaces/", "type_description_interfaces/")
OTHER_SETTINGS = {"/image/compressed", "/odom"}
"""Topics of the page that this node does not read, because it reads others in their place."""

Rows = dict[str, list[str]]


def rows(page: str, heading: str) -> Rows:
    """Return the table under a heading of the page: full name -> the cells behind it."""
    text = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = {}
    for line in re.findall(r"^\| `(.*)\|$", text, re.M):
        name, *cells = (cell.strip(" `") for cell in line.split(" | "))
        found[re.sub(r"^(?!/)", "/", name.replace("~", "/elvsm"))] = cells
    assert found, heading
    return found


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "interface.md").read_text()


@pytest.fixture(scope="module")
def looker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rclpy.node.Node]:
    """Return a node that sees the graph of a running elvsm_node."""
    model = save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors")
    process = NodeProcess(model=str(model))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]))
    looker = rclpy.create_node("looker", context=context)
    try:
        process.wait_for("active")
        wait_until(
            lambda: (
                ("elvsm", "/") in looker.get_node_names_and_namespaces()
                and any(
                    name.endswith("render_pose")
                    for name, _ in looker.get_subscriber_names_and_types_by_node("elvsm", "/")
                )
            ),
            "the node in the graph",
        )
        time.sleep(0.5)  # the rest of its endpoints
        yield looker
    finally:
        looker.destroy_node()
        rclpy.shutdown(context=context)
        process.close()


def own(pairs: list[tuple[str, list[str]]]) -> dict[str, str]:
    return {
        name: types[0]
        for name, types in pairs
        if not types[0].startswith(EVERY_NODE) and name != "/clock" and "/_action/" not in name
    }


def quality(infos: list, node: str = "elvsm") -> str:
    (qos,) = (info.qos_profile for info in infos if info.node_name == node)
    if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        return "latched"
    return "reliable" if qos.reliability == ReliabilityPolicy.RELIABLE else "best effort"


def test_what_it_reads(page: str, looker: rclpy.node.Node) -> None:
    described = rows(page, "Subscribed topics")
    real = own(looker.get_subscriber_names_and_types_by_node("elvsm", "/"))
    assert {n: cells[0] for n, cells in described.items() if n not in OTHER_SETTINGS} == real
    for name in real:
        assert described[name][1] == quality(looker.get_subscriptions_info_by_topic(name)), name


def test_what_it_publishes(page: str, looker: rclpy.node.Node) -> None:
    described = rows(page, "Published topics")
    real = own(looker.get_publisher_names_and_types_by_node("elvsm", "/"))
    assert {n: cells[0] for n, cells in described.items()} == real
    for name in real:
        assert described[name][1] == quality(looker.get_publishers_info_by_topic(name)), name


def test_its_services_and_its_action(page: str, looker: rclpy.node.Node) -> None:
    described = {n: cells[0] for n, cells in rows(page, "Services").items()}
    assert described == own(looker.get_service_names_and_types_by_node("elvsm", "/"))
    described = {n: cells[0] for n, cells in rows(page, "Action").items()}
    actions = get_action_server_names_and_types_by_node(looker, "elvsm", "/")
    assert described == {name: types[0] for name, types in actions}
