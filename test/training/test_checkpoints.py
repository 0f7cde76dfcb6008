"""A training that is killed goes on exactly; what cannot be written or gone on from is refused."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

import elvsm_core as ec
from elvsm_core.files import atomic, owned
from training import checkpoints
from training.loop import Trainer
from training.settings import load_settings
from training.train import main, train

MODEL = [
    "model.width=32", "model.head_dim=16", "model.layers=2", "model.patch_size=8", "model.image_size=[16,16]",
    "data.size=[16,16]", "batch=2", "compile=false", "device=cpu", "eval_scenes=0", "logger=none", "minutes=0",
    "steps=12", "checkpoint_steps=4", "checkpoint_minutes=0", "optim.warmup=2", "log_every=5",
]  # fmt: skip
PROCEDURAL = [
    *MODEL, "data.views=7", "data.draw_batch=2", "data.pool=4", "data.draw_every=3", "data.tiles=8",
    "data.texture_size=16", "data.scenes.supersampling=1", "sampling.inputs=[2,3]", "sampling.input_shares=[0.5,0.5]",
    "sampling.targets=2", "sampling.crop=0.3", "sampling.crop_size=[8,16]", "accumulate=2",
    "optim.schedule=constant",
]  # fmt: skip


def re10k(path):
    return [
        *MODEL, "data.source=re10k", f"data.re10k.path={path}", "data.re10k.targets=3", "data.re10k.workers=0",
        "optim.name=adamw", "optim.schedule=cosine", "optim.exact_skip=true", "optim.repair=true",
        "data.re10k.dynamic_inputs=[2,3]", "data.re10k.shuffle_inputs=true",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def state(folder):
    (*_, newest) = checkpoints.checkpoints(folder)
    return torch.load(newest, weights_only=True)


def assert_equal(a, b, where=""):
    """Everything in two checkpoints is the same to the last bit, but for the time they took."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.slow
def test_killed_and_gone_on_with_equals_uninterrupted(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = [sys.executable, "-m", "training.train", *PROCEDURAL, f"out={parts}", "steps=100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not checkpoints.checkpoints(parts) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    errors = process.communicate()[1]
    found = checkpoints.checkpoints(parts)
    assert process.returncode == -signal.SIGKILL and found, errors
    last = int(found[-1].stem.rpartition("-")[2])
    for out in (whole, parts):
        train(load_settings(None, [*PROCEDURAL, f"out={out}", f"steps={last + 5}"]))
    a, b = state(whole), state(parts)
    assert a["step"] == last + 5 and b["seconds"] > 0
    assert_equal(a, b)
    assert f"goes on after step {last}," in (parts / "log.txt").read_text()
    assert "goes on" not in (whole / "log.txt").read_text()


@pytest.mark.slow
def test_re10k_stopped_anywhere_equals_uninterrupted(tmp_path, mini_re10k, monkeypatch):
    settings = re10k(mini_re10k)
    train(load_settings(None, [*settings, f"out={tmp_path / 'whole'}"]))
    stopped = [*settings, f"out={tmp_path / 'parts'}"]
    advance = Trainer.advance

    def fail_at(step):
        def failing(self, progress, steps):
            if self.step == step:
                raise KeyboardInterrupt
            return advance(self, progress, steps)

        return failing

    for step in (6, 11):
        monkeypatch.setattr(Trainer, "advance", fail_at(step))
        with pytest.raises(KeyboardInterrupt):
            train(load_settings(None, stopped))
    monkeypatch.undo()
    train(load_settings(None, [*stopped, "data.re10k.workers=1", "log_every=1"]))
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "parts"))
    files = checkpoints.checkpoints(tmp_path / "parts")
    assert [f.name for f in files] == ["checkpoint-000000008.pt", "checkpoint-000000012.pt"]  # keep=2
    model = ec.load_model(files[-1], device="cpu", dtype="float32")
    assert torch.equal(
        next(model.parameters()), state(tmp_path / "whole")["model"]["rgbp_tokenizer.1.weight"]
    )


def test_checkpoints_of_somebody_else_are_not_deleted(tmp_path):
    foreign = ("checkpoint-000000001.pt", ".checkpoint-notes", "checkpoint-best.pt")
    for name in foreign:
        (tmp_path / name).write_bytes(b"mine")
    for step in range(2, 7):
        checkpoints.save(tmp_path, step, {"step": step}, keep=2)
    kept = {p.name for p in tmp_path.iterdir()} - {checkpoints.LEDGER}
    assert kept == {*foreign, "checkpoint-000000005.pt", "checkpoint-000000006.pt"}
    assert all((tmp_path / name).read_bytes() == b"mine" for name in foreign)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    checkpoints.save(tmp_path, 1, {"x": torch.ones(10)}, keep=2)
    killed = tmp_path / f".checkpoint-000000002.pt.abcdefgh{owned.SUFFIX}"
    owned.claim(killed, atomic.KIND)
    (killed / "checkpoint-000000002.pt").write_bytes(b"of a killed process")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            checkpoints.ResumeError, match=r"cannot write .*000000002.pt.*make room.*000000001"
        ):
            checkpoints.save(tmp_path, 2, {"x": torch.ones(1_000_000)}, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoints.LEDGER, "checkpoint-000000001.pt"]
    assert torch.equal(torch.load(tmp_path / "checkpoint-000000001.pt")["x"], torch.ones(10))


def test_a_full_disk_ends_a_training_with_its_reason(tmp_path, mini_re10k, capsys):
    command = [*re10k(mini_re10k), f"out={tmp_path}"]
    assert main([*command, "steps=4"]) == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        assert main(command) == 2
        assert "000000008.pt ([Errno 27] File too large): make room" in capsys.readouterr().err
        assert main([*command, "eval_minutes=0"]) == 2
        assert "cannot write the weights" in capsys.readouterr().err
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.glob("*.pt")] == ["checkpoint-000000004.pt"]
    assert ec.load_model(tmp_path / "model.safetensors", device="cpu").config.width == 32
    assert main(command) == 0 and state(tmp_path)["step"] == 12


def test_only_the_same_run_goes_on(tmp_path, mini_re10k, capsys):
    command = [*re10k(mini_re10k), f"out={tmp_path}", "steps=2"]
    assert main(command) == 0
    assert main([*command, "optim.lr=1e-4", "batch=1"]) == 2
    assert "other settings (batch, optim.lr differ)" in capsys.readouterr().err
    assert main([*command, "steps=3", "keep=5"]) == 0  # longer is the same run
    assert [p.name for p in checkpoints.checkpoints(tmp_path)][-1] == "checkpoint-000000003.pt"
    newest = checkpoints.checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert main([*command, "steps=4"]) == 2
    assert "is damaged" in capsys.readouterr().err and newest.exists()
    assert main([*command, "resume=none"]) == 0
    assert len(list((tmp_path / "previous-1").iterdir())) == 2
    assert [p.name for p in checkpoints.checkpoints(tmp_path)] == ["checkpoint-000000002.pt"]
