"""Weight files: the published .pt layouts and our own .safetensors, read without running any code in them."""

from __future__ import annotations

import contextlib
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

from ..config import ConfigError, ModelConfig
from ..state_dicts import CheckpointError, clean_state_dict
from . import atomic

FORMAT = "elvsm-1"
MAX_PICKLE = 16 << 20
"""Bytes of what a .pt file holds besides its tensors' data."""
MAX_OBJECTS = 500_000
"""Steps of the unpickler: a checkpoint of a thousand tensors takes 30,000."""


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
