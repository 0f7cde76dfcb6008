"""Processes train together as one does on all their samples, and go on; a kill while writing loses nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from training import checkpoints
from training.settings import load_settings
from training.train import train

pytestmark = pytest.mark.slow

SETTINGS = [
    "model.width=32", "model.head_dim=16", "model.layers=2", "model.patch_size=8", "model.image_size=[16,16]",
    "data.size=[16,16]", "compile=false", "device=cpu", "eval_scenes=0", "logger=none", "minutes=0", "pictures=1",
    "data.source=re10k", "data.re10k.targets=3", "data.re10k.workers=0", "checkpoint_minutes=0", "optim.name=adamw",
    "optim.schedule=constant", "optim.warmup=2", "optim.lr=1e-3", "optim.exact_skip=true", "optim.repair=true",
    "optim.clip=0.05",
]  # fmt: skip


def newest(folder):
    return torch.load(checkpoints.checkpoints(folder)[-1], weights_only=True)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_equal_one_and_go_on_together(mini_re10k, tmp_path):
    settings = [*SETTINGS, f"data.re10k.path={mini_re10k}"]
    train(load_settings(None, [*settings, f"out={tmp_path / 'one'}", "batch=4", "steps=6"]))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def together(*overrides):
        command = [*launcher, "-m", "training.train", *settings, f"out={tmp_path / 'two'}", *overrides]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    for steps in (3, 6):
        done = together("batch=1", "accumulate=2", f"steps={steps}")
        assert done.returncode == 0, done.stderr
    alone, both = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert both["step"] == 6 and len(both["ranks"]) == 2
    for name, tensor in alone["model"].items():
        torch.testing.assert_close(both["model"][name], tensor, rtol=1e-4, atol=2e-6)
    log = (tmp_path / "two/log.txt").read_text()
    assert log.count("goes on after step 3,") == 1 and log.count("finished: 6 steps") == 1


WRITER = """
import itertools, sys, torch
from pathlib import Path
from training import checkpoints
for step in itertools.count(1):
    payload = {"x": torch.full((2_000_000,), float(step)), "settings": "{}", "step": step}
    checkpoints.save(Path(sys.argv[1]), step, payload, keep=2)
"""


def test_killed_while_writing_a_checkpoint(tmp_path):
    def writing():
        with contextlib.suppress(FileNotFoundError):  # renamed between being listed and looked at
            return any(path.stat().st_size > 500_000 for path in tmp_path.glob(".checkpoint-*/checkpoint-*"))
        return False

    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if checkpoints.checkpoints(tmp_path) and writing():
            process.send_signal(signal.SIGKILL)
            break
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors
    payload = checkpoints.load_newest(tmp_path, {})
    assert payload is not None and bool((payload["x"] == payload["step"]).all())
    assert checkpoints.checkpoints(tmp_path)[-1].name == checkpoints.NAME.format(payload["step"])
    checkpoints.save(tmp_path, 10**6, {"x": torch.ones(1), "settings": "{}", "step": 10**6}, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {checkpoints.NAME.format(10**6), checkpoints.LEDGER}
