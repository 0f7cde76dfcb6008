"""Which engine runs a model: the readable one anywhere, the fused one where CUDA is."""

from __future__ import annotations

from .cache import ViewCache
from .engine import Engine
from .model import EfficientLVSM

ENGINES = ("auto", "eager", "fused")


def default_engine(model: EfficientLVSM) -> str:
    """Return the name of the engine that is fastest where the model is."""
    return "fused" if model.device.type == "cuda" and not model.config.bf16_rays else "eager"


def make_engine(name: str, model: EfficientLVSM, cache: ViewCache, image_size: tuple[int, int]) -> Engine:
    """Return the engine of that name (see `Scene`). Raises ValueError for a name that is none."""
    if name not in ENGINES:
        raise ValueError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")
    if name == "auto":
        name = default_engine(model)
    if name == "eager":
        return Engine(model, cache, image_size)
    from .cuda.engine_fused import FusedEngine  # Triton is not everywhere

    return FusedEngine(model, cache, image_size)
