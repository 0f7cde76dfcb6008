"""Checkpoints from which a training goes on exactly: written whole or not at all, the last few kept."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from elvsm_core.files import atomic

from .settings import TrainSettings

NAME = "checkpoint-{:09d}.pt"
_NUMBER = re.compile(r"checkpoint-(\d+)\.pt")
LEDGER = ".elvsm-checkpoints"
"""The file in a folder that lists which checkpoints this program wrote there: no other one is ever deleted."""
FREE = (
    "minutes", "steps", "epochs", "out", "device", "log_every", "eval_scenes", "eval_minutes", "frames",
    "checkpoint_minutes", "checkpoint_steps", "keep", "resume", "logger", "pictures",
)  # fmt: skip
"""Settings that may change when a run goes on."""


class ResumeError(ValueError):
    """A checkpoint that cannot be written or gone on from, with the reason and what to do about it."""


def signature(settings: TrainSettings, world: int) -> dict[str, Any]:
    """Return the settings that a run cannot change on its way, as JSON."""
    values = dataclasses.asdict(settings)
    for name in FREE:
        del values[name]
    for name in ("workers", "prefetch", "path"):
        del values["data"]["re10k"][name]
    for store in values["data"]["stores"]:
        del store["path"]
    del values["data"]["workers"]
    for group, name in (("loss", "perceptual_file"), ("loss", "lpips_file"), ("repa", "file")):
        del values[group][name]
    return {**json.loads(json.dumps(values)), "processes": world}


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*.pt") if _NUMBER.fullmatch(path.name))


def save(folder: Path, step: int, payload: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint and delete all but the last `keep`.

    A process that is killed leaves the old ones and perhaps a hidden temporary folder, which the next call deletes.
    Checkpoints that this program did not write are not deleted.
    Raises CheckpointError when it cannot be written, because the disk is full for example; the old ones stay then.
    """
    path = folder / NAME.format(step)
    try:
        written = [*_written(folder), path.name]
        with atomic.replacing(path) as file:
            torch.save(dict(payload), file)
        atomic.write_text(folder / LEDGER, json.dumps(written))
    except (OSError, RuntimeError) as error:
        reason: BaseException = error
        while not isinstance(reason, OSError) and reason.__context__ is not None:
            reason = reason.__context__  # torch hides a failed write behind an error of its own
        found = checkpoints(folder)
        last = str(found[-1]) if found else "the beginning"
        raise ResumeError(
            f"cannot write the checkpoint {path} ({reason}): make room, then start the same command again; it resumes "
            f"from {last}"
        ) from error
    # Whatever else has such a name is somebody else's, and stays.
    for old in checkpoints(folder)[:-keep]:
        if old.name in written:
            old.unlink(missing_ok=True)
    return path


def _written(folder: Path) -> list[str]:
    """Return the names of checkpoints that were written by this program, and are still there."""
    try:
        names = json.loads((folder / LEDGER).read_text(encoding="utf-8"))
        return [name for name in names if _NUMBER.fullmatch(name) and (folder / name).is_file()]
    except (OSError, ValueError, TypeError):
        return []


def load_newest(folder: Path, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the newest checkpoint of a folder, None where there is none.

    expected: `signature` of the run that wants to go on. Raises CheckpointError for a damaged file, and for one of a
    run with other settings, naming them.
    """
    found = checkpoints(folder)
    if not found:
        return None
    path = found[-1]
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
        saved = json.loads(payload["settings"])
    except Exception as error:  # torch, zipfile and pickle each fail in their own ways
        raise ResumeError(
            f"{path} is damaged ({type(error).__name__}): delete it to go on from the one before"
        ) from error
    different = sorted(_differences(saved, expected))
    if different:
        raise ResumeError(
            f"{path} is of a run with other settings ({', '.join(different)} differ): choose another folder for "
            f"`out`, or start afresh with resume=none"
        )
    return dict(payload)


def _differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        return [d for key in keys for d in _differences(a.get(key), b.get(key), f"{prefix}{key}.")]
    return [] if a == b else [prefix.rstrip(".")]


def put_aside(folder: Path) -> None:
    """Move the checkpoints of a run that is not gone on with into a folder of their own, previous-<n>."""
    found = checkpoints(folder)
    if not found:
        return
    number = 1
    while (aside := folder / f"previous-{number}").exists():
        number += 1
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
