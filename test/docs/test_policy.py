"""config/sros2/elvsm.policy.xml allows what the node and the viewer do, and nothing else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from elvsm_ros.parameters.table import Settings

Rules = dict[tuple[str, str], set[str]]
"""(kind, permission) -> full names."""

SERVED_BY_EVERY_NODE = {
    "describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters",
    "set_parameters_atomically", "get_type_description",
}  # fmt: skip


def full(name: str, node: str) -> str:
    return re.sub(r"^(?!/)", "/", name.replace("~", f"/{node}"))


@pytest.fixture(scope="module")
def policy(repository: Path) -> dict[str, Rules]:
    """Return the rules of each node, as its enclave is named."""
    root = ElementTree.parse(repository / "config" / "sros2" / "elvsm.policy.xml").getroot()
    assert root.tag == "policy" and root.get("version") == "0.2.0"
    found: dict[str, Rules] = {}
    for enclave in root.iterfind("enclaves/enclave"):
        for profile in enclave.iterfind("profiles/profile"):
            node = profile.get("node", "")
            assert enclave.get("path") == f"/{node}" and profile.get("ns") == "/"
            rules = found.setdefault(node, {})
            for rule in profile:
                for permission, value in rule.attrib.items():
                    assert value == "ALLOW"
                    names = rules.setdefault((rule.tag, permission), set())
                    for item in rule:
                        assert item.tag == rule.tag.removesuffix("s") and item.text
                        names.add(full(item.text, node))
    return found


def described(repository: Path, heading: str) -> set[str]:
    """Return the names in a table of docs/interface.md, which another test holds against the real node."""
    text = (repository / "docs" / "interface.md").read_text()
    table = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return {full(name, "elvsm") for name in re.findall(r"^\| `([^`]+)`", table, re.M)}


def test_the_node_may_do_what_it_does(policy: dict[str, Rules], repository: Path) -> None:
    rules = policy["elvsm"]
    reads = described(repository, "Subscribed topics") | {"/tf", "/tf_static", "/clock"}
    assert rules["topics", "subscribe"] == reads
    writes = described(repository, "Published topics") | {"/rosout", "/parameter_events"}
    assert rules["topics", "publish"] == writes
    services = described(repository, "Services") | {f"/elvsm/{name}" for name in SERVED_BY_EVERY_NODE}
    assert rules["services", "reply"] == services
    assert rules["actions", "execute"] == described(repository, "Action")
    assert set(rules) == {
        ("topics", "subscribe"), ("topics", "publish"), ("services", "reply"), ("actions", "execute")
    }  # fmt: skip
    assert set(Settings().image_topics + Settings().camera_info_topics) <= {n[1:] for n in reads}


@pytest.fixture
def viewer() -> Iterator[object]:
    """Return the ROS node of a viewer."""
    pytest.importorskip("rclpy", reason="needs the ROS packages: run make")
    pytest.importorskip("viser", reason="needs the extra [viewer]: run make")
    from elvsm_ros.viewer.options import ViewerOptions
    from elvsm_ros.viewer.run import Viewer

    with Viewer(ViewerOptions(port=18280)) as viewer:
        yield viewer.client.node


@pytest.mark.ros
def test_the_viewer_may_do_what_it_does(policy: dict[str, Rules], viewer, repository: Path) -> None:
    from rclpy.action import get_action_client_names_and_types_by_node

    rules = policy["elvsm_viewer"]

    def names(pairs: list) -> set[str]:
        return {name for name, _ in pairs if "/_action/" not in name}

    subscribed = names(viewer.get_subscriber_names_and_types_by_node("elvsm_viewer", "/"))
    assert rules["topics", "subscribe"] == subscribed | {"/clock"}
    published = names(viewer.get_publisher_names_and_types_by_node("elvsm_viewer", "/"))
    assert rules["topics", "publish"] == published
    called = names(viewer.get_client_names_and_types_by_node("elvsm_viewer", "/"))
    assert rules["services", "request"] == called
    served = names(viewer.get_service_names_and_types_by_node("elvsm_viewer", "/"))
    assert rules["services", "reply"] == served
    actions = names(get_action_client_names_and_types_by_node(viewer, "elvsm_viewer", "/"))
    assert rules["actions", "call"] == actions == described(repository, "Action")
