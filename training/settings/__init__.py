"""Training settings: frozen dataclasses read once from YAML, with dotted overrides from the command line.

`TrainSettings` (run.py) holds the groups of the other modules; `load_settings` (reading.py) makes it. Import from here.
"""

from .data import DataSettings, MeshSettings, Re10kSettings, StoreSettings
from .errors import SettingsError
from .objective import SCHEDULES, LossSettings, OptimSettings, RepaSettings
from .reading import build, load_settings
from .run import TrainSettings
from .sampling import BatchShape, SamplingSettings

__all__ = [
    "SCHEDULES",
    "BatchShape",
    "DataSettings",
    "LossSettings",
    "MeshSettings",
    "OptimSettings",
    "Re10kSettings",
    "RepaSettings",
    "SamplingSettings",
    "SettingsError",
    "StoreSettings",
    "TrainSettings",
    "build",
    "load_settings",
]
