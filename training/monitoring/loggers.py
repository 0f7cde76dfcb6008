"""Where a training's figures and pictures go to be looked at: TensorBoard or Weights & Biases."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..settings import SettingsError


class Board(Protocol):
    """A place that curves and pictures are sent to."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name."""
        ...

    def picture(self, step: int, name: str, rgb: NDArray[np.uint8]) -> None:
        """Show a picture, uint8 [H, W, 3]."""
        ...

    def close(self) -> None:
        """Send what is not sent yet."""
        ...


class TensorBoard:
    """Event files in out/tensorboard."""

    def __init__(self, out: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SettingsError(
                f"logger=tensorboard needs tensorboard ({error}): pip install 'elvsm[train]', or logger=none"
            ) from error
        self.writer = SummaryWriter(str(out / "tensorboard"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, name: str, rgb: NDArray[np.uint8]) -> None:
        self.writer.add_image(name, rgb, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases, the same one when a training goes on.

    Project, name, mode (online, offline) and key are taken from the environment as wandb's own documentation says:
    WANDB_PROJECT ("elvsm" without it), WANDB_NAME, WANDB_MODE, WANDB_API_KEY.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise SettingsError(
                f"logger=wandb needs wandb ({error}): pip install wandb, or logger=tensorboard"
            ) from error
        self.wandb, note = wandb, out / "wandb-id"
        known = note.read_text().strip() if note.is_file() else None
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "elvsm"), dir=str(out), config=dict(settings), id=known,
                resume="allow",
            )  # fmt: skip
        except Exception as error:  # no key, no network: wandb has errors of its own for each
            raise SettingsError(
                f"wandb does not start ({error}): run `wandb login`, set WANDB_MODE=offline, or logger=tensorboard"
            ) from error
        note.write_text(f"{self.run.id}\n")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, rgb: NDArray[np.uint8]) -> None:
        self.run.log({name: self.wandb.Image(rgb)}, step=step)

    def close(self) -> None:
        self.run.finish()


def open_board(logger: str, out: Path, settings: Mapping[str, Any]) -> Board | None:
    """Open what settings.logger names: "tensorboard", "wandb", or "none". Raises SettingsError where it cannot be."""
    if logger == "tensorboard":
        return TensorBoard(out)
    return WandB(out, settings) if logger == "wandb" else None
