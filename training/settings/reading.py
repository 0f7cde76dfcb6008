"""From YAML and dotted overrides to settings, strictly: unknown keys and values of a wrong type are errors."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import SettingsError
from .run import TrainSettings

T = TypeVar("T")


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
        values = _expanded(loaded)
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
    return build(TrainSettings, _expanded(values))


def _expanded(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with a list of datasets in place of the group `data` written out."""
    if not isinstance(values.get("data"), list):
        return values
    model = values.get("model")
    size = model.get("image_size") if isinstance(model, dict) else None
    group = {"source": "mixture", "stores": values["data"], **({"size": size} if size else {})}
    return {**values, "data": group}


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
    if origin is dict:
        if not isinstance(value, dict):
            raise SettingsError(f"{name} must be a mapping, got {value!r}")
        return dict(value)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise SettingsError(f"{name} must be of type {hint.__name__}, got {value!r}")
