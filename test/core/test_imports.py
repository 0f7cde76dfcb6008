"""Geometry of the core without torch; every public name is there."""

import subprocess
import sys

import pytest

import elvsm_core as ec


@pytest.mark.slow
def test_geometry_needs_no_torch() -> None:
    code = """
import sys
import numpy as np
import elvsm_core as ec

camera = ec.Camera(50, 50, 32, 24, 64, 48, np.eye(4))
ec.SceneFrame(np.eye(4), 1.0).pose_to_model(camera.T_world_cam)
ec.keyframes.Targets.of([camera])
ec.ModelConfig(width=64, head_dim=32)
assert "torch" not in sys.modules, "torch was imported"
"""
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr


def test_every_public_name_is_there() -> None:
    for name in ec.__all__:
        assert getattr(ec, name) is not None, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(ec, "Scen")
