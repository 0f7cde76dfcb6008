"""Quality of service of the node's topics, and how parameters override it."""

from __future__ import annotations

import copy
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

SENSOR_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
# Poses are small and many: none may be lost because images keep the executor busy for a moment.
POSE_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
# The usual depth of 10 loses requests of a burst, and whoever sent them waits for ever.
SERVICE_QOS = QoSProfile(depth=1000)
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

_POLICIES = (
    QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY,
)  # fmt: skip


def overridable(qos: QoSProfile | int) -> dict[str, Any]:
    """Return arguments for a publisher or subscription whose QoS parameters may override.

    The parameters are qos_overrides.<topic>.publisher (or .subscription) and .reliability, .durability, .history
    or .depth; they are read when the topic is made and cannot change while the node runs.
    """
    # A copy, because rclpy writes what is overridden into the profile, and others share it.
    profile = QoSProfile(depth=qos) if isinstance(qos, int) else copy.copy(qos)
    return {"qos_profile": profile, "qos_overriding_options": QoSOverridingOptions(_POLICIES)}
