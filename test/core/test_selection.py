"""The script behind the figures about which keyframes are used."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import elvsm_core as ec


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    """Return benchmarks/selection.py as a module."""
    spec = importlib.util.spec_from_file_location("selection", repository / "benchmarks" / "selection.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frames(count: int) -> list[tuple[np.ndarray, ec.Camera]]:
    """Return pictures 5 cm apart: every third becomes a keyframe."""
    rng = np.random.default_rng(0)
    walk = []
    for step in range(count):
        T = np.eye(4)
        T[0, 3] = 0.0501 * step
        image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        walk.append((image, ec.Camera(25, 25, 16, 16, 32, 32, T)))
    return walk


@pytest.mark.parametrize("afterwards", [False, True])
def test_what_the_scene_does_is_scored_as_its_own_renders(script, tiny_model, afterwards, tmp_path):
    measurement = script.Measurement(tiny_model, ["scene", "recency"], [1, 3], every=2)
    walk = frames(24)
    assert measurement.walk(iter(walk), afterwards) == "8 keyframes, 5 frames rendered"
    rows = {(name, count): (*means, number) for name, count, means, number in measurement.table()}
    assert rows.keys() == {(name, count) for name in ("scene", "recency") for count in (1, 3)}
    if not afterwards:  # the same by hand
        scene, scores, held_out = ec.Scene(tiny_model), [], 0
        for step, (image, camera) in enumerate(walk):
            if step % 3 == 0:
                scene.insert(image, camera)
            elif len(scene) >= script.FIRST:
                held_out += 1
                if held_out % 2 == 0:
                    out = scene.render_tensor([camera], 3)
                    truth = np.moveaxis(image, -1, 0)[None] / np.float32(255)
                    scores.append(float(ec.metrics.psnr(out, out.new_tensor(truth))))
        assert rows["scene", 3][0] == pytest.approx(np.mean(scores), abs=1e-4)
        assert rows["scene", 3][2] == len(scores) == 5
    script.write(tmp_path / "way.csv", measurement.metrics, measurement.table())
    assert script.read(tmp_path / "way.csv") == measurement.table()
    script.draw(tmp_path / "chart.svg", measurement.table(), [1, 3])
    drawn = ET.parse(tmp_path / "chart.svg").getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) == 2
