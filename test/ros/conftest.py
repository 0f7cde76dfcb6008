"""What the tests of the node share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# For `rig`, which is no test and in no package.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from rig import NodeProcess, Peer, running, save_small_model


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small model with random weights; its own size is 32x32."""
    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def start_node(small_model: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Return a function that starts nodes, which end with the test."""
    nodes: list[NodeProcess] = []

    def start(*arguments: str, **parameters: Any) -> NodeProcess:
        nodes.append(NodeProcess(*arguments, **{"model": str(small_model), **parameters}))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


@pytest.fixture(scope="module")
def shared(small_model: Path) -> Iterator[tuple[NodeProcess, Peer]]:
    """Return a node that the tests of a module share, with every log line, and a peer for it."""
    with running(model=str(small_model), log_period=0.0) as pair:
        yield pair
