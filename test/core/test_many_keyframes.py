"""Thousands of keyframes in a scene: memory stays what it is by calculation, and selection stays quick to do."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import elvsm_core as ec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def many(repository: Path) -> Iterator[ModuleType]:
    """Return benchmarks/many_keyframes.py as a module."""
    spec = importlib.util.spec_from_file_location(
        "many_keyframes", repository / "benchmarks" / "many_keyframes.py"
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules["many_keyframes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["many_keyframes"]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc to see memory")
def test_memory_is_bounded_as_calculated(many: ModuleType) -> None:
    torch.manual_seed(0)
    model = ec.EfficientLVSM(ec.ModelConfig(width=64, head_dim=32, layers=2, patch_size=16)).eval()
    size, limit = (128, 128), 600
    filling = many.Filling(model, size, limit, capacity=8)
    filling.insert(100)
    cache = filling.scene._cache
    allocated, before = cache.nbytes, many.resident()
    assert allocated == 2 * 2 * 8 * 64 * 64 * 4  # layers, keys and values, slots, tokens, width, float32
    filling.insert(limit - 100)
    pictures = (limit - 100) * 3 * size[0] * size[1]
    grown = many.resident() - before
    assert 0.8 * pictures < grown <= many.calculated(limit - 100, size)
    # Full: from now on each one takes the place of another, on the host as on the device.
    full = many.resident()
    filling.insert(300)
    assert len(filling.scene) == limit and filling.scene.views[-1] == limit + 299
    assert many.resident() - full < 0.25 * 300 * 3 * size[0] * size[1]
    assert cache.nbytes == allocated and filling.scene.capacity == 8
    times = filling.select(20, 8)
    assert len(times) == 20
    plan = filling.scene.plan([filling.camera()], 4)
    assert len(plan.views) == 4 and all(view in filling.scene for view in plan.views)
