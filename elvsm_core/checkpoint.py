"""Weights on disk: the published .pt layouts and our own .safetensors, both strict."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .config import ConfigError, ModelConfig
from .files import atomic
from .model import EfficientLVSM

FORMAT = "elvsm-1"
WEIGHTS = Path(__file__).parent / "weights"
"""Bundled weights, one .safetensors per name."""

MAX_PICKLE = 16 << 20
"""Bytes of what a .pt file holds besides its tensors' data."""
MAX_OBJECTS = 500_000
"""Steps of the unpickler: a checkpoint of a thousand tensors takes 30,000."""

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


def load_into(model: EfficientLVSM, state_dict: Mapping[str, Tensor]) -> None:
    """Copy weights into a model; every tensor must be there, with its shape, and nothing else.

    Raises CheckpointError naming the tensors that are missing, unexpected, misshaped or not finite. The model
    is unchanged then.
    """
    cleaned = clean_state_dict(state_dict)
    check_tensors(model, cleaned)
    model.load_state_dict(cleaned)


def check_tensors(model: EfficientLVSM, cleaned: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless a cleaned state_dict is one of the model's, see `load_into`."""
    check_shapes(model, cleaned)
    for name, tensor in cleaned.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"tensor {name!r} ({tensor.dtype}) holds values that are not finite numbers"
            )


def check_shapes(model: EfficientLVSM, cleaned: Mapping[str, Tensor]) -> None:
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


def read_published(path: Path) -> dict[str, Tensor]:
    """Read a .pt file, {"model": state_dict, ...} or a bare state_dict, without running any code in it.

    Returns the tensors under their published names (`clean_state_dict`). Raises CheckpointError for a file that is
    damaged, holds no state_dict, or holds more than tensors.
    """
    _check_pickle(path)
    try:
        payload: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler fails in many ways on a file that is none
        foreign = re.search(r"GLOBAL [\w.]+|Unsupported \w+ \S+", str(error))
        if foreign and _starts_with(path, b"\x80", b"PK"):  # a pickle, or a zip file with one in it
            raise CheckpointError(
                f"{path} was refused: it holds more than tensors, and loading it could run code "
                f"({foreign[0]}). Do not load it by other means unless you trust its author"
            ) from error
        raise CheckpointError(
            f"{path} cannot be read: truncated or not a PyTorch checkpoint; copy it again ({_first(error)})"
        ) from error
    if isinstance(payload, Mapping) and isinstance(payload.get("model"), Mapping):
        payload = payload["model"]
    if not isinstance(payload, Mapping) or not payload:
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a state_dict")
    return clean_state_dict(payload)


def _check_pickle(path: Path) -> None:
    """Raise CheckpointError for a pickle that would keep PyTorch's unpickler busy: it takes a second for MAX_OBJECTS.

    What cannot be read at all is left to the unpickler, which says why.
    """
    count = 0
    try:
        with contextlib.ExitStack() as stack:
            if zipfile.is_zipfile(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                inside = next(info for info in archive.infolist() if info.filename.endswith("data.pkl"))
                if inside.file_size > MAX_PICKLE:
                    raise CheckpointError(
                        f"{path} was rejected: it describes its tensors in {inside.file_size >> 20} MiB, where "
                        f"{MAX_PICKLE >> 20} MiB are the most; it is not a checkpoint of this model"
                    )
                streams, file = 1, stack.enter_context(archive.open(inside))
            else:  # PyTorch's old format: four pickles in a row, and the tensors' data
                streams, file = 4, stack.enter_context(path.open("rb"))  # type: ignore[assignment]
            for _ in range(streams):
                for _ in pickletools.genops(file):
                    count += 1
                    if count > MAX_OBJECTS:
                        raise CheckpointError(
                            f"{path} was rejected: it holds more than {MAX_OBJECTS} objects, nested or in a row; it "
                            f"is not a checkpoint of this model"
                        )
    except CheckpointError:
        raise
    except Exception:
        return


def _starts_with(path: Path, *magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(magic)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def resolve(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the weight file of a bundled name ("demo"), a published name (see hub.py) or a path.

    A published model is downloaded the first time. Raises CheckpointError if there is no such file.
    """
    from .files.hub import PUBLISHED, fetch  # it writes what this module reads

    path = Path(path_or_name).expanduser()
    bundled = WEIGHTS / f"{path_or_name}.safetensors"
    if path.suffix in (".pt", ".pth", ".safetensors"):
        if not path.is_file():
            raise CheckpointError(f"there is no weight file {path}")
        return path
    if bundled.is_file():
        return bundled
    if path_or_name in PUBLISHED:
        return fetch(str(path_or_name))
    names = sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))
    raise CheckpointError(
        f"{str(path_or_name)!r} is neither a bundled model ({', '.join(names) or 'none installed'}), a "
        f"published one ({', '.join(PUBLISHED)}), nor a path to a .pt or .safetensors file"
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


def read_safetensors(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read our own weight file: the configuration from its metadata, and the tensors. Raises CheckpointError."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} is a safetensors file without an elvsm configuration (metadata format {FORMAT!r}): "
                f"write it with elvsm_core.save_model"
            )
        return ModelConfig.from_json(metadata["config"]), safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ConfigError) as error:
        raise CheckpointError(f"{path} cannot be read: truncated or not ours ({_first(error)})") from error


def write_atomically(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that is there as a whole or not at all, whenever the process is killed.

    Folders are made as needed. Raises OSError when it cannot be written; an old file of that name stays then.
    """
    with atomic.replacing_path(path) as partial:
        safetensors.torch.save_file(dict(tensors), partial, metadata=dict(metadata))


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
