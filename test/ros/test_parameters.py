"""The table of parameters, and what is made from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from elvsm_ros.parameters import table
from elvsm_ros.parameters.table import ParameterError, Settings
from elvsm_ros.parameters.yaml_file import yaml_text


def test_the_yaml_file_is_in_step(repository: Path) -> None:
    text = (repository / "config" / "elvsm.yaml").read_text()
    assert text == yaml_text(), "run: python -m elvsm_ros.parameters.yaml_file > config/elvsm.yaml"


def test_the_yaml_file_says_the_defaults(repository: Path) -> None:
    values = yaml.safe_load((repository / "config" / "elvsm.yaml").read_text())["/**"]["ros__parameters"]
    assert list(values) == [row.name for row in table.table()]
    # ROS distinguishes 1 from 1.0, and would refuse the file.
    for row in table.table():
        value = values[row.name]
        assert type(value) is (list if isinstance(row.default, tuple) else type(row.default))
    assert Settings.from_values(values) == Settings()


@pytest.mark.parametrize("row", table.table(), ids=lambda row: row.name)
def test_every_parameter_is_described_and_bounded(row: table.ParameterRow) -> None:
    assert row.description.endswith(".") and len(row.description) > 15
    descriptor = row.descriptor()
    assert descriptor.description == row.description
    if type(row.default) is int:
        (bounds,) = descriptor.integer_range
        assert bounds.from_value <= row.default <= bounds.to_value
    elif type(row.default) is float:
        (bounds,) = descriptor.floating_point_range
        assert bounds.from_value <= row.default <= bounds.to_value
    elif row.choices:
        assert all(choice in descriptor.additional_constraints for choice in row.choices)
    assert ("unconfigured" in descriptor.additional_constraints) is not (row.live or row.at_start)
    assert descriptor.read_only is row.at_start and not (row.live and row.at_start)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"capacity": -1}, "capacity must be from 0 to 4096, got -1"),
        ({"capacity": True}, "type int"),
        ({"keyframe_distance": -1.0}, "keyframe_distance must be from 0.001"),
        ({"keyframe_distance": float("nan")}, "keyframe_distance"),
        ({"keyframe_distance": 1}, "type float"),
        ({"pose_source": "odometry"}, "one of pose, odom, pose_with_covariance, tf, got 'odometry'"),
        ({"image_transport": "compresed"}, "'compressed' perhaps"),
        ({"image_size": [128]}, "2 numbers"),
        ({"image_size": [128.5, 128.5]}, "whole numbers"),
        ({"body_to_camera": ["0"] * 7}, "must hold numbers"),
        ({"image_size": [0, 128]}, "both height and width"),
        ({"body_to_camera": [0.0] * 7}, "unit quaternion"),
        ({"body_to_camera": [0.0] * 6}, "7 numbers"),
        ({"keyframe_distence": 1.0}, "'keyframe_distance' perhaps"),
    ],
)
def test_bad_values_are_refused(values: dict, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        Settings.from_values(values)


def test_mistyped_overrides_are_refused_and_those_of_other_nodes_are_not() -> None:
    table.check_names(
        ["use_sim_time", "qos_overrides./image.subscription.depth", "keyframe_angle", "frequency"]
    )
    with pytest.raises(ParameterError, match="'keyframe_distance' perhaps"):
        table.check_names(["keyframe_angle", "keyframe_distence"])


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.capacity = 3  # type: ignore[misc]
    assert settings.replaced({"capacity": 3}).capacity == 3 and settings.capacity == 0


def test_only_live_parameters_change_at_run_time() -> None:
    table.refuse_frozen(["keyframe_distance", "max_views"])
    with pytest.raises(ParameterError, match="capacity is read when the node is configured"):
        table.refuse_frozen(["max_views", "capacity"])
