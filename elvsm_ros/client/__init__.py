"""The way into a running node from Python: SceneClient, what it returns, and what it raises.

From outside, import from elvsm_ros. Start reading at scene_client.py; connection.py is the ROS side of it.
"""

from .results import (
    CallTimeout,
    KeyframeList,
    NodeUnavailable,
    RenderedViews,
    RequestRejected,
    SceneClientError,
)
from .scene_client import SceneClient

__all__ = [
    "CallTimeout", "KeyframeList", "NodeUnavailable", "RenderedViews", "RequestRejected", "SceneClient",
    "SceneClientError",
]  # fmt: skip
