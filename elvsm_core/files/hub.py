"""The authors' published weights by name: fetched from their hub repository once, converted to our format, kept.

Nothing here runs for bundled weights or for a path, and the package huggingface_hub is optional: a file that somebody
copied into the cache folder by hand will do.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..config import ModelConfig
from ..model import EfficientLVSM
from ..state_dicts import CheckpointError, check_tensors, infer_config
from .weight_files import FORMAT, read_published, write_atomically

log = logging.getLogger(__name__)

REPOSITORY = "Ayakaee/efficient-lvsm"
LICENCE = "CC BY-NC-SA 4.0"
VARIABLE = "ELVSM_CACHE"
"""Environment variable that names another cache folder than ~/.cache/elvsm."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A published weight file: its name in the repository, and the model that it must fit."""

    file: str
    config: ModelConfig

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{REPOSITORY}/resolve/main/{self.file}"


PUBLISHED: Mapping[str, Published] = {
    "efficient-lvsm-256": Published("efficient_lvsm_res256.pt", ModelConfig()),
    "efficient-lvsm-512": Published("efficient_lvsm_res512.pt", ModelConfig(image_size=(512, 512))),
    # For numbers of views that change, as the authors' interactive demo has them.
    "efficient-lvsm-incremental": Published("efficient_lvsm_inc_demo.pt", ModelConfig()),
}
"""The published models by our names; the three differ in their weights and native size only."""


def cache_folder() -> Path:
    """Return where converted weights are kept: $ELVSM_CACHE, $XDG_CACHE_HOME/elvsm or ~/.cache/elvsm."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "elvsm"


def fetch(name: str, folder: Path | None = None) -> Path:
    """Return the .safetensors file of a published model, converting and before that downloading it the first time.

    name: a key of PUBLISHED. folder: the cache, None for `cache_folder()`. A file of the published name that lies in
    it is taken before anything is downloaded. The authors' licence is logged as a warning before a download.

    Raises CheckpointError where the file cannot be had, saying which one to copy by hand and where to; where it is
    damaged or holds another model; and where there is no room for the converted one.
    """
    published = PUBLISHED[name]
    folder = cache_folder() if folder is None else folder
    target, by_hand = folder / f"{name}.safetensors", folder / published.file
    if target.is_file():
        return target
    source = by_hand if by_hand.is_file() else _download(name, published, by_hand)
    try:
        tensors = _read(published, source)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; the published file is {published.url}") from error
    metadata = {
        "format": FORMAT,
        "config": published.config.to_json(),
        "source": published.url,
        "license": LICENCE,
    }
    try:
        write_atomically(target, tensors, metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write the converted weights {target} ({error}): make room, or set {VARIABLE} to a folder with room"
        ) from error
    log.warning("kept as %s", target)
    return target


def _read(published: Published, source: Path) -> dict[str, Tensor]:
    tensors, wanted = read_published(source), published.config
    try:
        found = dataclasses.replace(infer_config(tensors), image_size=wanted.image_size)
        if found != wanted:
            raise CheckpointError(
                f"another model ({found.width} wide, {found.layers} layers, patches of {found.patch_size}) "
                f"than {published.file} ({wanted.width}, {wanted.layers}, {wanted.patch_size})"
            )
        with torch.device("meta"):
            check_tensors(EfficientLVSM(wanted), tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _download(name: str, published: Published, by_hand: Path) -> Path:
    remedy = f"copy {published.url} to {by_hand} by hand"
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise CheckpointError(
            f"the published model {name!r} is downloaded with the package huggingface_hub, which is not installed: "
            f"pip install 'elvsm[hub]', or {remedy}"
        ) from error
    log.warning(
        "%s: weights by the authors of Efficient-LVSM, licence %s (attribution, no commercial use, share alike; "
        "https://creativecommons.org/licenses/by-nc-sa/4.0/). elvsm's own licence does not cover them. Downloading %s",
        name,
        LICENCE,
        published.url,
    )
    try:
        return Path(hub.hf_hub_download(REPOSITORY, published.file))
    except (
        Exception
    ) as error:  # offline, refused, renamed or a full disk: the client has an error of its own for each
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            f"the published model {name!r} cannot be downloaded ({reason}): {remedy}, then start again"
        ) from error
