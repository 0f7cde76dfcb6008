"""Efficient-LVSM and the scene that a robot fills with it: torch and numpy, no ROS, no dataset formats."""

from . import keyframes, metrics
from .cache import CacheFullError, ViewCache
from .cameras import Camera, CameraError, compute_rays, normalize_poses
from .checkpoint import CheckpointError, load_model, save_model
from .config import PRESETS, ConfigError, ModelConfig
from .frame import SceneFrame
from .frame_policy import FramePolicy
from .images import ImageError, resize_and_crop
from .model import EfficientLVSM
from .persistence import Keyframe, SceneFileError
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
    "PendingRendering",
    "Plan",
    "Rendering",
    "Scene",
    "SceneError",
    "SceneFileError",
    "SceneFrame",
    "ViewCache",
    "compute_rays",
    "keyframes",
    "load_model",
    "metrics",
    "normalize_poses",
    "resize_and_crop",
    "save_model",
]
