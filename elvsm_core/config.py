"""The model's hyper-parameters and its named presets."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any


class ConfigError(ValueError):
    """A configuration value that the model cannot be built from."""


LIMITS = {"width": 16384, "head_dim": 1024, "layers": 256, "patch_size": 128, "mlp_ratio": 64}
"""The most of each: twenty times the published model. A file that says more is none of ours."""
LARGEST_SIDE = 8192
"""Of an image, pixels."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Describe one Efficient-LVSM network.

    width: token width d. head_dim: width of one attention head (d must be a multiple of it).
    layers: number of encoder blocks, equal to the number of decoder blocks.
    patch_size: side of a square patch, pixels. mlp_ratio: hidden width of the MLPs over d.
    image_size: native (height, width) in pixels, the size that the weights were trained at. No parameter
    depends on it; a Scene uses it when it is not told a size.
    bf16_rays: round ray directions as bfloat16 autocast does. The published weights were trained with such
    rays; switch it on to reproduce published metrics bit by bit, leave it off otherwise.
    geometry_heads: two linear maps more on the decoder's last tokens, which give the depth of each pixel and the
    probability that an input saw it (`EfficientLVSM.decode_geometry`). The published weights have none.

    Raises ConfigError for values that no network can have.
    """

    width: int = 768
    head_dim: int = 64
    layers: int = 12
    patch_size: int = 8
    mlp_ratio: int = 4
    image_size: tuple[int, int] = (256, 256)
    bf16_rays: bool = False
    geometry_heads: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "head_dim", "layers", "patch_size", "mlp_ratio"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"ModelConfig.{name} must be a positive integer, got {value!r}")
        for name, most in LIMITS.items():
            if getattr(self, name) > most:
                raise ConfigError(f"ModelConfig.{name} must be {most} at most, got {getattr(self, name)}")
        if self.width % self.head_dim:
            raise ConfigError(
                f"ModelConfig.width ({self.width}) must be a multiple of head_dim ({self.head_dim})"
            )
        try:
            size = tuple(int(s) for s in self.image_size)
        except (TypeError, ValueError, OverflowError):
            size = ()
        if (
            len(size) != 2
            or min(size) < self.patch_size
            or any(s % self.patch_size for s in size)
            or max(size) > LARGEST_SIDE
        ):
            raise ConfigError(
                f"ModelConfig.image_size must be (height, width), both multiples of the patch size "
                f"{self.patch_size} and {LARGEST_SIDE} at most, got {self.image_size!r}"
            )
        object.__setattr__(self, "image_size", size)

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // self.head_dim

    def tokens(self, size: tuple[int, int]) -> int:
        """Return the number of tokens of a view of size (height, width) pixels."""
        return (size[0] // self.patch_size) * (size[1] // self.patch_size)

    def to_json(self) -> str:
        """Return all values as a JSON object, with sorted keys; see `from_json`."""
        values = dataclasses.asdict(self)
        if not self.geometry_heads:
            del values["geometry_heads"]  # what earlier versions wrote and can read
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Parse what `to_json` wrote. Raises ConfigError as `from_mapping` does, and for other text."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"model configuration is not valid JSON: {error}") from error
        if not isinstance(values, Mapping):
            raise ConfigError(f"model configuration must be a JSON object, got {type(values).__name__}")
        return cls.from_mapping(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build a configuration; what is left out keeps its default.

        Raises ConfigError for unknown keys, naming the nearest known one, and for values that no network can have.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
                raise ConfigError(f"unknown model configuration key {key!r}{hint}")
        kwargs = dict(values)
        if isinstance(kwargs.get("image_size"), list):
            kwargs["image_size"] = tuple(kwargs["image_size"])
        return cls(**kwargs)


PRESETS: dict[str, ModelConfig] = {
    "efficient-lvsm": ModelConfig(),
    "efficient-lvsm-512": ModelConfig(image_size=(512, 512)),
    "demo": ModelConfig(width=384, head_dim=64, layers=6, image_size=(128, 128)),
}
"""Architectures by name: the published ones, and that of the bundled weights."""
