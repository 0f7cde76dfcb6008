"""The ROS 2 node of elvsm, its tools, and SceneClient, which programs talk to the node with.

Importing this package imports neither rclpy nor PyTorch. Start reading at node.py, or at client/ for the way in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import (
        CallTimeout,
        KeyframeList,
        NodeUnavailable,
        RenderedViews,
        RequestRejected,
        SceneClient,
        SceneClientError,
    )

__all__ = [
    "CallTimeout", "KeyframeList", "NodeUnavailable", "RenderedViews", "RequestRejected", "SceneClient",
    "SceneClientError",
]  # fmt: skip
REMEDIES = {
    "rclpy": "set up ROS 2 in this shell (source /opt/ros/.../setup.bash), or run make and use .venv/bin/python",
    "elvsm": "the interfaces are not built: run make, or colcon build and source install/local_setup.bash",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module("elvsm_ros.client"), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in REMEDIES:
            raise
        raise ImportError(f"{name} needs the Python module {missing!r}: {REMEDIES[missing]}") from error
