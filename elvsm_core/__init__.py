"""Efficient-LVSM and the scene that a robot fills with it: torch and numpy, no ROS, no dataset formats.

Cameras, frames, configurations and the choice of keyframes need no torch; everything else is imported when it is first
used. Start at `scene`, then `model`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import keyframes
from .cameras import Camera, CameraError
from .config import PRESETS, ConfigError, ModelConfig
from .frame import SceneFrame
from .frame_policy import FramePolicy

if TYPE_CHECKING:
    from . import checkpoint, metrics
    from .cache import CacheFullError, ViewCache
    from .checkpoint import CheckpointError, load_model, save_model
    from .engine import NotFiniteError
    from .files.persistence import Keyframe, SceneFileError
    from .images import ImageError, resize_and_crop
    from .model import EfficientLVSM
    from .rays import compute_rays, normalize_poses
    from .rendering import PendingRendering, Plan, Rendering, SceneError
    from .scene import Scene

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "CacheFullError",
    "Camera",
    "CameraError",
    "CheckpointError",
    "ConfigError",
    "EfficientLVSM",
    "FramePolicy",
    "ImageError",
    "Keyframe",
    "ModelConfig",
    "NotFiniteError",
    "PendingRendering",
    "Plan",
    "Rendering",
    "Scene",
    "SceneError",
    "SceneFileError",
    "SceneFrame",
    "ViewCache",
    "checkpoint",
    "compute_rays",
    "keyframes",
    "load_model",
    "metrics",
    "normalize_poses",
    "resize_and_crop",
    "save_model",
]

_MODULES = ("checkpoint", "metrics")
_PLACES = {
    "CacheFullError": "cache",
    "ViewCache": "cache",
    "CheckpointError": "checkpoint",
    "load_model": "checkpoint",
    "save_model": "checkpoint",
    "NotFiniteError": "engine",
    "ImageError": "images",
    "resize_and_crop": "images",
    "EfficientLVSM": "model",
    "Keyframe": "files.persistence",
    "SceneFileError": "files.persistence",
    "compute_rays": "rays",
    "normalize_poses": "rays",
    "PendingRendering": "rendering",
    "Plan": "rendering",
    "Rendering": "rendering",
    "SceneError": "rendering",
    "Scene": "scene",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = value  # the next access does not come here
    return value
