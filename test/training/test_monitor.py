"""What a training shows while it runs: sample pictures, Weights & Biases, a bar on a terminal."""

import io
import sys
import types

import numpy as np
import pytest
import torch

import elvsm_core as ec
from elvsm_report.progress import TrainingBar
from training.evaluate import procedural_scenes
from training.evaluation.pictures import GAP, held_out, sheet
from training.monitoring.loggers import open_board
from training.sampling.selection import open_source
from training.settings import SettingsError, load_settings
from training.train import main


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package wandb: `runs` holds what was started and logged."""
    module = types.ModuleType("wandb")
    module.runs, module.Image = [], lambda rgb: ("image", rgb.shape)

    class Run:
        def __init__(self, **options):
            self.options, self.logged, self.finished = options, [], False
            self.id = options["id"] or "abc123"

        def log(self, values, step):
            self.logged.append((step, values))

        def finish(self):
            self.finished = True

    def init(**options):
        module.runs.append(Run(**options))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_figures_and_pictures_and_goes_on_with_its_run(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "rooms")
    for _ in range(2):
        board = open_board("wandb", tmp_path, {"batch": 2})
        board.scalars(7, {"train/loss": 0.5})
        board.picture(7, "samples", np.zeros((4, 6, 3), np.uint8))
        board.close()
    first, second = wandb.runs
    assert first.options["project"] == "rooms" and first.options["config"] == {"batch": 2}
    assert first.options["id"] is None and second.options["id"] == "abc123"
    assert first.logged == [(7, {"train/loss": 0.5}), (7, {"samples": ("image", (4, 6, 3))})]
    assert first.finished and second.finished


def test_a_logger_that_does_not_work_is_an_error_that_says_what_to_do(wandb, tmp_path, monkeypatch, capsys):
    def refuse(**_):
        raise RuntimeError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(SettingsError, match=r"api_key not configured.*wandb login.*WANDB_MODE=offline"):
        open_board("wandb", tmp_path, {})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingsError, match="pip install wandb, or logger=tensorboard"):
        open_board("wandb", tmp_path, {})
    assert open_board("none", tmp_path, {}) is None
    assert main(["logger=tensorbord"]) == 2
    assert "logger must be 'tensorboard', 'wandb' or 'none'" in capsys.readouterr().err


def test_sheets_show_inputs_truth_and_render_of_the_same_samples(mini_re10k):
    torch.manual_seed(0)
    model = ec.EfficientLVSM(ec.ModelConfig(32, 16, 1, 8, image_size=(16, 16))).eval()
    overrides = [
        "data.source=re10k", f"data.re10k.path={mini_re10k}", "data.size=[16,16]", "model.patch_size=8",
        "data.re10k.targets=3", "data.re10k.dynamic_inputs=[2,3]", "batch=2",
    ]  # fmt: skip
    source = open_source(load_settings(None, overrides), 0, 1, torch.device("cpu"))
    samples = source.shown(6)
    again = open_source(load_settings(None, overrides), 0, 1, torch.device("cpu")).shown(6)
    assert all(torch.equal(a.images, b.images) for a, b in zip(samples, again, strict=True))
    assert {s.images.shape[1] for s in samples} == {2, 3}  # rows of different length
    picture = sheet(model, samples)
    assert picture.shape == (6 * 16 + 5 * GAP, 9 * 16 + 8 * GAP, 3)
    s = samples[0]
    with torch.no_grad():
        made = model(s.images, s.c2w, s.fxfycxcy, s.target_c2w, s.target_fxfycxcy, (16, 16))
    shown = (s.images[0, 1], s.target_images[0, 0], made[0, 0])
    left = s.images.shape[1] - 1
    for i, image in enumerate(shown):
        place = picture[:16, (left + i) * (16 + GAP) :][:, :16]
        np.testing.assert_allclose(place, (image * 255).permute(1, 2, 0).numpy(), atol=0.51)


@pytest.mark.slow
def test_held_out_scenes_are_shown_where_training_scenes_are_drawn():
    scenes = procedural_scenes(2, (16, 16), inputs=2, targets=1, tiles=8, texture_size=16)
    samples = held_out(scenes, 4, 2, torch.device("cpu"))
    assert len(samples) == 2 and samples[0].images.shape == (1, 2, 3, 16, 16)
    assert torch.equal((samples[1].target_images * 255).byte()[0, 0], scenes.images[1, 2])
    centres = torch.cat([samples[0].c2w, samples[0].target_c2w], 1)[..., :3, 3]
    assert float(centres.abs().max()) == pytest.approx(1 / 1.35, abs=1e-5)


def test_a_bar_on_a_terminal_and_none_elsewhere(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        bar = TrainingBar()
        bar.start()
        bar.update(0.25, "step 3, 21.0 dB")
        assert bar.line("[a line]") is shown
        bar.stop()
        bar.stop()
        text = stream.getvalue()
        assert ("25.0 %" in text and "step 3, 21.0 dB" in text and "[a line]" in text) is shown
        assert shown or not text
