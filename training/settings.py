"""Training settings: frozen dataclasses read once from YAML, with dotted overrides from the command line."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from elvsm_core import ModelConfig

from .scenes import SceneConfig

T = TypeVar("T")


class SettingsError(ValueError):
    """A training configuration that cannot be used."""


@dataclass(frozen=True)
class DataSettings:
    """Procedural scenes and the pool that training samples are drawn from.

    size: images' (height, width), pixels. views: images per scene, consecutive on its walk. draw_batch: scenes drawn
    at a time on each GPU; draw_every: gradient steps between draws; pool: scenes kept on each GPU, the oldest leave.
    tiles, texture_size: the texture bank. scenes: how rooms and cameras are drawn.
    """

    size: tuple[int, int] = (128, 128)
    views: int = 12
    draw_batch: int = 64
    draw_every: int = 6
    pool: int = 768
    tiles: int = 1536
    texture_size: int = 256
    scenes: SceneConfig = field(default_factory=SceneConfig)


@dataclass(frozen=True)
class SamplingSettings:
    """How inputs, targets and the frame of a sample are chosen.

    inputs: numbers of input views, one of them is drawn per step with the shares input_shares. targets: target views.
    between: share of samples whose first two inputs enclose all other views on the walk.
    published: share of samples in the published normalisation (all views of the sample, largest coordinate 1/1.35);
    the others get a frame that knows nothing of the targets: anchored at another pose of the walk, with the largest
    |coordinate| log-uniform in reach. pose_noise: (degrees, metres), standard deviations of errors on input poses of
    noisy_share of the samples. crop: share of steps with non-square images, crop_size (height, width).
    """

    inputs: tuple[int, ...] = (2, 3, 4, 6, 8)
    input_shares: tuple[float, ...] = (0.2, 0.2, 0.3, 0.15, 0.15)
    targets: int = 4
    between: float = 0.5
    published: float = 0.4
    reach: tuple[float, float] = (0.08, 0.95)
    pose_noise: tuple[float, float] = (0.15, 0.003)
    noisy_share: float = 0.3
    crop: float = 0.15
    crop_size: tuple[int, int] = (96, 128)


@dataclass(frozen=True)
class OptimSettings:
    """Optimiser and schedule.

    name: "muon" (block matrices by Muon, the rest by AdamW) or "adamw". lr: learning rate; Muon's updates are scaled
    to AdamW's size, so that the same rate serves both. warmup: steps. decay: the last share of the time, in which the
    rate falls to zero. clip: largest gradient norm; steps beyond skip times that are left out. ema: decay per step of
    the averaged weights that are exported (0: off). edge: weight of the loss on image gradients.
    """

    name: str = "muon"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    weight_decay: float = 0.02
    warmup: int = 400
    decay: float = 0.35
    clip: float = 1.0
    skip: float = 20.0
    ema: float = 0.999
    edge: float = 0.0


@dataclass(frozen=True)
class TrainSettings:
    """A training run.

    minutes: wall time from the first step on; the schedule follows it. steps: stop after so many steps even if time is
    left (0: no limit). batch: scenes per step and GPU. out: folder for logs and exports. init: weights to start from.
    compile: compile the blocks. eval_scenes: procedural test scenes. frames: folder of a walk with cameras.json to
    evaluate on while training (never trained on). eval_minutes, export_minutes: between evaluations and exports.
    """

    minutes: float = 25.0
    steps: int = 0
    batch: int = 64
    seed: int = 1
    out: str = "runs/demo"
    init: str | None = None
    compile: bool = True
    device: str = "auto"
    log_every: int = 100
    eval_scenes: int = 64
    eval_minutes: float = 2.0
    export_minutes: float = 2.0
    frames: str | None = None
    model: ModelConfig = field(default_factory=lambda: ModelConfig(384, 64, 6, 8, image_size=(128, 128)))
    data: DataSettings = field(default_factory=DataSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)


def load_settings(path: str | Path | None, overrides: list[str] | None = None) -> TrainSettings:
    """Read settings from a YAML file (None: the defaults) and `key.subkey=value` overrides.

    Raises SettingsError for a file that is no mapping, for unknown keys, naming the nearest known one, and for values
    of a wrong type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(Path(path).read_text())
        except OSError as error:
            raise SettingsError(f"cannot read the configuration {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise SettingsError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(loaded, dict):
            raise SettingsError(f"{path} must hold a mapping of settings, got {type(loaded).__name__}")
        values = loaded
    for item in overrides or []:
        key, equals, text = item.partition("=")
        if not equals:
            raise SettingsError(f"override {item!r} is not of the form key=value")
        target = values
        *parents, last = key.strip().split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise SettingsError(f"override {item!r}: {parent!r} is a value, not a group of settings")
        target[last] = yaml.safe_load(text)
    return build(TrainSettings, values)


def build(cls: type[T], values: dict[str, Any], prefix: str = "") -> T:
    """Build a settings dataclass from a mapping, strictly. Raises SettingsError."""
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    kwargs = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
            hint = f"did you mean {prefix + near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"unknown setting {prefix + str(key)!r}: {hint}")
        kwargs[key] = _convert(value, hints[key], prefix + key)
    try:
        return cls(**kwargs)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _convert(value: Any, hint: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise SettingsError(f"{name} is a group of settings, got {value!r}")
        return build(hint, value, name + ".")  # type: ignore[arg-type]
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None else _convert(value, inner[0], name)
    if origin is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise SettingsError(f"{name} must be a list, got {value!r}")
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(value) != len(kinds):
            raise SettingsError(f"{name} needs {len(kinds)} values, got {len(value)}")
        return tuple(_convert(v, k, name) for v, k in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise SettingsError(f"{name} must be of type {hint.__name__}, got {value!r}")
