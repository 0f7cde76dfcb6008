"""Models from weights and back: `load_model` by name or path, `save_model`; the device and the precision."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from .files import hub
from .files.weight_files import FORMAT, read_published, read_safetensors, write_atomically
from .model import EfficientLVSM
from .state_dicts import (
    GEOMETRY,
    CheckpointError,
    check_shapes,
    check_tensors,
    clean_state_dict,
    infer_config,
    load_into,
)

__all__ = [
    "FORMAT",
    "GEOMETRY",
    "WEIGHTS",
    "CheckpointError",
    "check_shapes",
    "check_tensors",
    "clean_state_dict",
    "infer_config",
    "load_into",
    "load_model",
    "read_published",
    "read_safetensors",
    "resolve",
    "resolve_device",
    "resolve_dtype",
    "save_model",
    "write_atomically",
]

WEIGHTS = Path(__file__).parent / "weights"
"""Bundled weights, one .safetensors per name."""


def resolve(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the weight file of a bundled name ("demo"), a published name (see hub.py) or a path.

    A published model is downloaded the first time. Raises CheckpointError if there is no such file.
    """
    path = Path(path_or_name).expanduser()
    bundled = WEIGHTS / f"{path_or_name}.safetensors"
    if path.suffix in (".pt", ".pth", ".safetensors"):
        if not path.is_file():
            raise CheckpointError(f"there is no weight file {path}")
        return path
    if bundled.is_file():
        return bundled
    if path_or_name in hub.PUBLISHED:
        return hub.fetch(str(path_or_name))
    names = sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))
    raise CheckpointError(
        f"{str(path_or_name)!r} is neither a bundled model ({', '.join(names) or 'none installed'}), a "
        f"published one ({', '.join(hub.PUBLISHED)}), nor a path to a .pt or .safetensors file"
    )


def load_model(
    path_or_name: str | os.PathLike[str],
    device: torch.device | str = "auto",
    dtype: torch.dtype | str = "auto",
    bf16_rays: bool = False,
) -> EfficientLVSM:
    """Load a model for inference.

    path_or_name: "demo" (the bundled weights); "efficient-lvsm-256", "efficient-lvsm-512" or
    "efficient-lvsm-incremental", the authors' weights, which are downloaded the first time and have a licence
    of their own (see hub.py); a .safetensors file written by `save_model`; or a .pt file in a published
    layout. device "auto" is CUDA where there is one. dtype "auto" is bfloat16 on CUDA devices
    that compute in it and float32 elsewhere; also "float32", "bfloat16" or a torch.dtype. bf16_rays: see
    ModelConfig.
    Raises CheckpointError naming the file and what is wrong with it, and ValueError for an unknown device or dtype.
    """
    path = resolve(path_or_name)
    if path.suffix == ".safetensors":
        config, state_dict = read_safetensors(path)
    else:
        state_dict = read_published(path)
        try:
            config = infer_config(state_dict)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
    if bf16_rays:
        config = dataclasses.replace(config, bf16_rays=True)
    target, precision = resolve_device(device), dtype
    with torch.device("meta"):
        model = EfficientLVSM(config)
    try:
        check_shapes(model, clean_state_dict(state_dict))  # before memory is asked for
        model.to_empty(device="cpu")
        load_into(model, state_dict)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.to(device=target, dtype=resolve_dtype(precision, target)).eval().requires_grad_(False)


def resolve_device(device: torch.device | str) -> torch.device:
    """Turn "auto" into CUDA where there is one, else the CPU; ValueError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: use 'auto', 'cpu' or 'cuda[:index]'") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} asked for, but PyTorch sees no CUDA device: use 'auto' or 'cpu'")
    return resolved


def resolve_dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    """Turn "auto" or a name into a torch.dtype; ValueError for an unknown name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if half else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise ValueError(f"unknown dtype {dtype!r}: use 'auto', {', '.join(repr(k) for k in known)}")
    return known[dtype]


def save_model(
    model: EfficientLVSM,
    path: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights and configuration to a .safetensors file, atomically.

    dtype converts the tensors (None keeps theirs); metadata adds text entries (not "format" or "config"). Raises
    CheckpointError for another ending, OSError when the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"weights are written as .safetensors, got {path.name!r}")
    tensors = {
        name: tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        for name, tensor in clean_state_dict(model.state_dict()).items()
    }
    entries = {**(metadata or {}), "format": FORMAT, "config": model.config.to_json()}
    write_atomically(path, tensors, entries)
