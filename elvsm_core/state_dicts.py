"""Tensors by name: the published names, what model they are of, and whether they fit one. All strict."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .config import ConfigError, ModelConfig

_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.)+")
_TRAINING_ONLY = ("loss_computer.", "repa_encoder.", "repa_projector.")

GEOMETRY = ("depth_head.", "confidence_head.")
"""Beginnings of the names of tensors that only models with ModelConfig.geometry_heads have."""


class CheckpointError(ValueError):
    """A weight file that cannot be used, with the reason and what to do about it."""


def clean_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the model's tensors under their published names.

    Any chain of `module.` and `_orig_mod.` prefixes (DDP, torch.compile) is stripped, also in the middle of a
    name; tensors of the training losses and of REPA are dropped. Raises CheckpointError for a name that comes twice
    and for what is no tensor.
    """
    cleaned: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name = _PREFIX.sub("", key).replace("._orig_mod.", ".")
        if name.startswith(_TRAINING_ONLY):
            continue
        if name in cleaned:
            raise CheckpointError(f"the checkpoint holds {name!r} twice, under different prefixes")
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"entry {key!r} is a {type(value).__name__}, not a tensor: not a state_dict"
            )
        cleaned[name] = value
    return cleaned


def infer_config(state_dict: Mapping[str, Tensor]) -> ModelConfig:
    """Read width, head size, depth and patch size off the shapes of a cleaned state_dict.

    The native image size is not in the shapes and stays at its default, 256x256. Raises CheckpointError for shapes
    that no network has.
    """
    head = _tensor(state_dict, "image_token_decoder.1.weight", 2)
    norm = _tensor(state_dict, "self_cross_blocks.0.cross_attn.q_norm.weight", 1)
    mlp = _tensor(state_dict, "self_cross_blocks.0.mlp.mlp.0.weight", 2)
    indices = {int(m[1]) for m in (re.match(r"self_cross_blocks\.(\d+)\.", k) for k in state_dict) if m}
    width = head.shape[1]
    patch = round((head.shape[0] / 3) ** 0.5)
    if 3 * patch * patch != head.shape[0]:
        raise CheckpointError(
            f"'image_token_decoder.1.weight' has {head.shape[0]} rows, which is not 3 x a square number"
        )
    try:
        return ModelConfig(
            width=width,
            head_dim=norm.shape[0],
            layers=max(indices) + 1,
            patch_size=patch,
            mlp_ratio=mlp.shape[0] // width,
            geometry_heads=any(key.startswith(GEOMETRY) for key in state_dict),
        )
    except ConfigError as error:
        raise CheckpointError(f"the tensors' shapes do not fit together: {error}") from error


def _tensor(state_dict: Mapping[str, Tensor], name: str, ndim: int) -> Tensor:
    if name not in state_dict:
        raise CheckpointError(f"tensor {name!r} is missing: this is not an Efficient-LVSM checkpoint")
    if state_dict[name].ndim != ndim:
        raise CheckpointError(
            f"tensor {name!r} has shape {list(state_dict[name].shape)}, expected {ndim} axes"
        )
    return state_dict[name]


def load_into(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Copy weights into a model; every tensor must be there, with its shape, and nothing else.

    Raises CheckpointError naming the tensors that are missing, unexpected, misshaped or not finite. The model
    is unchanged then.
    """
    cleaned = clean_state_dict(state_dict)
    check_tensors(model, cleaned)
    model.load_state_dict(cleaned)


def check_tensors(model: nn.Module, cleaned: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless a cleaned state_dict is one of the model's, see `load_into`."""
    check_shapes(model, cleaned)
    for name, tensor in cleaned.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"tensor {name!r} ({tensor.dtype}) holds values that are not finite numbers"
            )


def check_shapes(model: nn.Module, cleaned: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the names and shapes of a cleaned state_dict are the model's."""
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - cleaned.keys())
    extra = sorted(cleaned.keys() - wanted.keys())
    for names, verb, setting in ((missing, "lacks", False), (extra, "holds", True)):
        if names and all(name.startswith(GEOMETRY) for name in names):
            raise CheckpointError(
                f"the checkpoint {verb} geometry heads, unlike the model ({_names(names)}): build the model with "
                f"ModelConfig(geometry_heads={setting}, ...)"
            )
    if missing:
        raise CheckpointError(
            f"{_names(missing)} missing from the checkpoint: it is of another architecture, or cut"
        )
    if extra:
        raise CheckpointError(
            f"{_names(extra)} in the checkpoint but not in the model: it is of another architecture"
        )
    for name, tensor in cleaned.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"tensor {name!r} has shape {list(tensor.shape)}, the model needs {list(wanted[name].shape)}"
            )


def _names(names: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:3])
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {listed}{rest}"
