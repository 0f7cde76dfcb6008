"""Settings, samples, the optimiser, and one tiny training run from start to export."""

import dataclasses
import json
import math
import threading
import time

import pytest
import torch

import elvsm_core as ec
from elvsm_core.frame import MODEL_RANGE
from training.distributed import Clock
from training.evaluate import load_frames, neighbours
from training.evaluate import main as evaluate
from training.optim import Muon, Optimiser, learning_rate, orthogonalise
from training.procedural.pool import ScenePool
from training.procedural.textures import make_texture_bank
from training.procedural.walks import look
from training.sampling.camera_augmentation import photograph
from training.sampling.recipe import choose_views, disturb, make_sample, place_in_frame
from training.settings import OptimSettings, SamplingSettings, SettingsError, load_settings
from training.train import main, train

TINY = [
    "model.width=32", "model.head_dim=16", "model.layers=2", "model.patch_size=8", "model.image_size=[16,16]",
    "data.size=[16,16]", "data.views=7", "data.draw_batch=2", "data.pool=2", "data.draw_every=1000", "data.tiles=8",
    "data.texture_size=16", "data.scenes.supersampling=1", "batch=2", "compile=false", "device=cpu", "eval_scenes=1",
    "sampling.inputs=[2,3]", "sampling.input_shares=[0.5,0.5]", "sampling.targets=2", "sampling.crop=0.3",
    "sampling.crop_size=[8,16]", "optim.warmup=1", "optim.ema=0",
]  # fmt: skip


def test_unknown_settings_name_the_nearest_known_one(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("optim: {learning_rate: 1.0e-3}\n")
    with pytest.raises(SettingsError, match=r"unknown setting 'optim.learning_rate'"):
        load_settings(file)
    with pytest.raises(SettingsError, match=r"'minuts'.*did you mean 'minutes'"):
        load_settings(None, ["minuts=3"])
    with pytest.raises(SettingsError, match=r"'data.scenes.shadow'.*did you mean 'data.scenes.shadows'"):
        load_settings(None, ["data.scenes.shadow=false"])
    with pytest.raises(SettingsError, match=r"batch must be of type int"):
        load_settings(None, ["batch=many"])
    with pytest.raises(SettingsError, match=r"data.size needs 2 values"):
        load_settings(None, ["data.size=[1,2,3]"])
    with pytest.raises(SettingsError, match=r"cannot read the configuration"):
        load_settings(tmp_path / "none.yaml")
    assert main(["--config", str(file)]) == 2


def test_the_shipped_configuration_is_valid_and_overridable(pytestconfig):
    settings = load_settings(pytestconfig.rootpath / "config/train/demo.yaml", ["optim.lr=1e-4", "minutes=2"])
    assert settings.optim.lr == 1e-4 and settings.minutes == 2.0
    assert settings.model == ec.PRESETS["demo"]


def test_inputs_and_targets_never_coincide_and_lie_in_one_stretch():
    u = torch.rand(500, 15, generator=torch.Generator().manual_seed(0))
    inputs, targets = choose_views(500, 12, 3, 4, 0.5, u)
    both = torch.cat([inputs, targets], 1)
    assert all(len(set(row)) == 7 for row in both.tolist())
    enclosed = (inputs.amin(1) < targets.amin(1)) & (inputs.amax(1) > targets.amax(1))
    assert 0.5 <= enclosed.float().mean() < 0.8
    with pytest.raises(ValueError, match=r"need 13 views per scene"):
        choose_views(2, 12, 9, 4, 0.5, u)


def walks(b=40, n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    position = torch.randn(b, n, 3, generator=g) * 0.4 + torch.tensor([5.0, -3.0, 1.4])
    return look(
        position,
        0.6 * torch.randn(b, n, generator=g),
        *(0.2 * torch.randn(b, n, generator=g) for _ in range(2)),
    )


def test_frames_are_similarities_in_the_models_range():
    c2w = walks()
    chosen = torch.tensor([[4, 0, 2, 5]]).expand(40, -1)
    u = torch.rand(40, 4, generator=torch.Generator().manual_seed(1))
    settings = SamplingSettings(published=0.5)
    placed, scale = place_in_frame(c2w, chosen, settings, u)
    extent = placed[..., :3, 3].abs().amax((1, 2))
    published = u[:, 0] < 0.5
    assert torch.allclose(extent[published], torch.tensor(MODEL_RANGE))
    low, high = settings.reach
    assert (extent >= low - 1e-4).all() and (extent <= high + 1e-4).all() and extent[~published].std() > 0.1
    for i in torch.nonzero(published).flatten().tolist():
        assert torch.allclose(placed[i], ec.normalize_poses(c2w[i, chosen[i]]), atol=1e-4)
    # Angles between views and ratios of distances are those of the world.
    before, after = c2w[:, chosen[0]], placed
    turn_before = before[:, 0, :3, :3].mT @ before[:, 1, :3, :3]
    assert torch.allclose(turn_before, after[:, 0, :3, :3].mT @ after[:, 1, :3, :3], atol=1e-4)
    d_before = (before[:, 1:, :3, 3] - before[:, :1, :3, 3]).norm(dim=-1)
    d_after = (after[:, 1:, :3, 3] - after[:, :1, :3, 3]).norm(dim=-1)
    ratio = d_after / d_before
    assert torch.allclose(ratio, scale[:, None].expand_as(ratio), rtol=1e-3)


def test_pose_errors_disturb_inputs_only_and_by_the_given_amount():
    c2w = walks(200)
    noisy = disturb(c2w, 0.5, 0.01, 1.0, torch.Generator().manual_seed(0))
    shift = (noisy[..., :3, 3] - c2w[..., :3, 3]).std()
    cosine = (torch.einsum("bnij,bnij->bn", noisy[..., :3, :3], c2w[..., :3, :3]) - 1) / 2
    angle = cosine.clamp(-1, 1).acos().square().mean().sqrt() * 180 / math.pi
    assert 0.009 < shift < 0.011 and 0.5 * 3**0.5 * 0.9 < angle < 0.5 * 3**0.5 * 1.1
    images = torch.zeros(200, 6, 3, 16, 16, dtype=torch.uint8)
    k = torch.tensor([20.0, 20.0, 8.0, 8.0]).expand(200, 6, 4)
    made = []
    for share in (0.0, 1.0):
        settings = SamplingSettings(targets=2, noisy_share=share)
        made.append(make_sample(images, c2w, k, 3, settings, (16, 16), torch.Generator().manual_seed(5)))
    assert torch.equal(made[0].target_c2w, made[1].target_c2w)
    assert 0 < (made[0].c2w - made[1].c2w).abs().max() < 0.2


def test_crops_move_the_principal_point_with_the_pixels():
    ramp = torch.arange(16, dtype=torch.uint8)
    images = (ramp[:, None] * 16 + ramp).expand(4, 5, 3, 16, 16)
    k = torch.tensor([20.0, 20.0, 8.0, 7.0]).expand(4, 5, 4)
    sample = make_sample(
        images, walks(4, 5), k, 2, SamplingSettings(targets=2), (8, 16), torch.Generator().manual_seed(5)
    )
    top = round(float(sample.images[0, 0, 0, 0, 0]) * 255) // 16
    assert sample.images.shape == (4, 2, 3, 8, 16)
    assert torch.equal(sample.fxfycxcy[0, 0], torch.tensor([20.0, 20.0, 8.0, 7.0 - top]))


def test_another_camera_changes_pictures_of_a_scene_alike(monkeypatch):
    g = torch.Generator().manual_seed(2)
    images = torch.rand(64, 5, 3, 16, 16, generator=g)
    images[:, 3] = images[:, 4] = images[:, 0]  # two targets that an input shows as well
    k = torch.tensor([20.0, 20.0, 8.0, 7.0]).expand(64, 5, 4)
    out = photograph(images, k, 3, 0.5, torch.Generator().manual_seed(5))
    taken = (out != images).flatten(1).any(1)
    assert 20 < taken.sum() < 44 and torch.equal(out[~taken], images[~taken])
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(out[:, 3], out[:, 4]), "targets have no exposure errors"
    off = (out[taken, 0].mean((1, 2, 3)) - out[taken, 3].mean((1, 2, 3))).abs()
    assert 0.001 < off.mean() < 0.1, "inputs have some"
    dark = images * torch.tensor([1.0, 0.4, 0.7, 1.0, 0.4]).reshape(5, 1, 1, 1)
    means = []
    for metering in (0.0, 0.7):
        monkeypatch.setattr("training.sampling.camera_augmentation.METERING", metering)
        made = photograph(dark, k, 3, 1.0, torch.Generator().manual_seed(5))
        means.append(made.mean((0, 2, 3, 4)))
    assert means[1][4] / means[1][3] > 1.15 * means[0][4] / means[0][3], "metering lifts dark views"


def test_a_training_rests_while_asked_to(tmp_path):
    clock = Clock(1.0, 0, str(tmp_path), every=1)
    before = clock.update(0)
    (tmp_path / "pause").touch()
    end = threading.Timer(0.5, (tmp_path / "pause").unlink)
    end.start()
    start = time.monotonic()
    clock.update(1)
    rested = time.monotonic() - start
    after = clock.update(2)
    assert rested > 0.4 and not (tmp_path / "paused").exists()
    assert after - before < 0.3 / 60, "the rest does not count"


@pytest.mark.slow
def test_rooms_are_the_same_whoever_furnishes_them():
    settings = dataclasses.replace(load_settings(None, TINY).data, views=2, draw_batch=1, pool=3)
    bank = make_texture_bank(8, 16, seed=1)
    pools = [ScenePool(dataclasses.replace(settings, workers=workers), bank, 7) for workers in (0, 1)]
    assert torch.equal(pools[0].images, pools[1].images)
    assert not torch.equal(pools[0].images[0], pools[0].images[1])
    for _ in range(2):
        pools[0].refresh()
    again = ScenePool(settings, bank, 7)
    again.load_state_dict(pools[0].state_dict())
    assert torch.equal(again.images, pools[0].images) and again.drawn == 5
    assert not torch.equal(pools[0].images[0], pools[1].images[0]), "the oldest scenes made room"


def test_muon_takes_orthogonal_steps_and_the_schedule_ends_at_zero():
    x = orthogonalise(torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(x.float())
    assert values.min() > 0.5 and values.max() < 1.4
    layer = torch.nn.Linear(8, 24, bias=False)  # a fused q, k, v of width 8: three matrices
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))
    muon = Muon([layer.weight], 8, 0.9, 0.0)
    assert [len(g) for g in muon.groups] == [3]
    muon.step(0.1)
    step = (before - layer.weight.detach()).reshape(3, 8, 8) / 0.1
    assert torch.allclose(torch.linalg.svdvals(step), torch.tensor(0.2 * 8**0.5), rtol=0.5)
    s = OptimSettings(lr=1.0, warmup=10, decay=0.5)
    rates = [
        learning_rate(s, step, progress) for step, progress in ((0, 0.0), (50, 0.5), (90, 0.75), (99, 1.0))
    ]
    assert rates == pytest.approx([0.1, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_gradients_that_are_not_finite_change_nothing(name):
    model = ec.EfficientLVSM(ec.ModelConfig(32, 16, 1, 8, image_size=(16, 16)))
    optimiser = Optimiser(model, 32, OptimSettings(name=name, weight_decay=0.0))
    before = [p.detach().clone() for p in model.parameters()]
    optimiser.gradients.buffer.fill_(1.0)
    optimiser.gradients.buffer[3] = float("nan")
    _, dropped = optimiser.gradients.clip(1.0, 20.0)
    optimiser.step(1e-3)
    assert dropped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.slow
def test_training_lowers_the_loss_exports_and_resumes(tmp_path, caplog):
    caplog.set_level("INFO", "training")
    out = tmp_path / "run"
    settings = load_settings(
        None, [*TINY, "minutes=10", "steps=40", "log_every=10", f"out={out}", "optim.lr=3e-3"]
    )
    path = train(settings)
    losses = [float(m.split(" loss ")[1].split()[0]) for m in caplog.messages if " loss " in m]
    assert len(losses) == 4 and losses[-1] < 0.8 * losses[0]
    assert json.loads((out / "settings.json").read_text())["batch"] == 2
    model = ec.load_model(path, device="cpu")
    assert model.config == settings.model and model.config.image_size == (16, 16)
    again = dataclasses.replace(settings, init=str(path), out=str(tmp_path / "again"), steps=10)
    caplog.clear()
    train(again)
    first = next(float(m.split(" loss ")[1].split()[0]) for m in caplog.messages if " loss " in m)
    assert first < 0.9 * losses[0], "a resumed run starts from the trained weights"


def test_a_walk_on_disk_is_evaluated(tmp_path, capsys):
    from PIL import Image

    (tmp_path / "images").mkdir()
    poses = walks(1, 9)[0]
    frames = []
    for i in range(9):
        Image.new("RGB", (48, 32), (20 * i, 90, 10)).save(tmp_path / "images" / f"{i}.png")
        frames.append({"file": f"{i}.png", "c2w": poses[i].tolist()})
    listing = {"w": 48, "h": 32, "fx": 40.0, "fy": 40.0, "cx": 24.0, "cy": 16.0, "frames": frames}
    (tmp_path / "cameras.json").write_text(json.dumps(listing))
    loaded = load_frames(tmp_path, (16, 16))
    assert loaded.images.shape == (9, 3, 16, 16)
    assert torch.allclose(loaded.fxfycxcy[0], torch.tensor([20.0, 20.0, 8.0, 8.0]))
    images, c2w, _ = neighbours(loaded, range(9), (1, 2))
    assert (
        images.shape[:2] == (5, 5)
        and torch.equal(c2w[0, 4], loaded.c2w[2])
        and torch.equal(c2w[0, 0], loaded.c2w[1])
    )
    weights = tmp_path / "w.safetensors"
    ec.save_model(ec.EfficientLVSM(ec.ModelConfig(32, 16, 1, 8, image_size=(16, 16))), weights)
    command = [
        "--checkpoint",
        str(weights),
        "--data",
        str(tmp_path),
        "--frames",
        "2:7",
        "--context",
        "1,2",
        "--device",
        "cpu",
    ]
    assert evaluate(command) == 0
    assert "5 targets" in capsys.readouterr().out
    assert evaluate([*command[:3], str(tmp_path / "nowhere")]) == 2
    assert "there is no dataset" in capsys.readouterr().err
