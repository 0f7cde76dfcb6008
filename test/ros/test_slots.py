"""How many encoded views the device holds when nobody says it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import elvsm_core as ec
from elvsm_core.cache import ViewCache
from elvsm_ros.rendering.cache_capacity import slots

FULL = ec.ModelConfig()  # 768 wide, 12 layers
VIEW = 37_748_736
"""Bytes of a view of 256x256 pixels of it in bfloat16."""


def test_a_views_memory_is_what_the_cache_allocates() -> None:
    sizes = (FULL.layers, FULL.tokens((256, 256)), FULL.heads, FULL.head_dim)
    assert ViewCache.view_nbytes(*sizes, torch.bfloat16) == VIEW
    cache = ViewCache(2, 3, 5, 4, 8, dtype=torch.float32)
    assert ViewCache.view_nbytes(2, 5, 4, 8, torch.float32) * 3 == cache.nbytes


@pytest.mark.parametrize(
    ("capacity", "device", "free_views", "expected"),
    [
        (0, "cpu", None, 64),
        (7, "cuda", 4000, 7),  # what is asked for, however much room there is
        (0, "cuda", 4000, 256),
        (0, "cuda", 400, 100),
        (0, "cuda", 40, 64),  # as before: it may fail, and is told then
    ],
)
def test_more_slots_where_there_is_room(
    capacity: int, device: str, free_views: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is a stand-in: what it says of its memory cannot be had on a machine without one."""
    if free_views is not None:
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda device: (free_views * VIEW, 2 * free_views * VIEW)
        )
    model = SimpleNamespace(device=torch.device(device), config=FULL, dtype=torch.bfloat16)
    assert slots(capacity, model, (256, 256)) == expected
