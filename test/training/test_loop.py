"""The training loop: RealEstate10K, gradient accumulation, skipped steps, alignment, what is logged."""

import dataclasses
import glob
import math

import pytest
import torch
from PIL import Image

import elvsm_core as ec
from training.data.conversion import chunk_entry, encode, write_chunk
from training.loop import TERMS, Averaged, Trainer
from training.losses.aligner import Aligner
from training.losses.objective import LossConfig, Objective
from training.losses.repa import DinoEncoder
from training.monitoring.monitor import training_flops
from training.optim import learning_rate
from training.sampling.recipe import Sample
from training.sampling.selection import open_source, total_steps
from training.settings import OptimSettings, RepaSettings, SettingsError, load_settings
from training.train import main, train

TINY = [
    "model.width=32", "model.head_dim=16", "model.layers=2", "model.patch_size=8", "model.image_size=[16,16]",
    "data.size=[16,16]", "batch=2", "compile=false", "device=cpu", "eval_scenes=0", "logger=none", "minutes=0",
    "steps=6", "data.source=re10k", "data.re10k.targets=3", "data.re10k.workers=0", "optim.name=adamw",
    "optim.schedule=constant", "optim.warmup=1", "optim.clip=5", "optim.skip=10", "optim.exact_skip=true",
    "optim.repair=true", "optim.ema=0",
]  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture
def settings(mini_re10k):
    return load_settings(None, [*TINY, f"data.re10k.path={mini_re10k}"])


def sample_of(b=2, views=2, targets=3, size=(16, 16)):
    g = torch.Generator().manual_seed(3)
    k = torch.tensor([20.0, 20.0, size[1] / 2, size[0] / 2])
    c2w = torch.eye(4).repeat(b, views + targets, 1, 1)
    c2w[..., :3, 3] = torch.rand(b, views + targets, 3, generator=g) - 0.5
    images = torch.rand(b, views + targets, 3, *size, generator=g)
    ks = k.expand(b, views + targets, 4)
    return Sample(
        images[:, :views], c2w[:, :views], ks[:, :views], images[:, views:], c2w[:, views:], ks[:, views:]
    )


class Fixed:
    """A source that gives the same samples over and over."""

    description = "fixed"

    def __init__(self, *samples):
        self.samples, self.given = samples, 0

    def next(self, step):
        self.given += 1
        return self.samples[(self.given - 1) % len(self.samples)]


def trainer_of(settings, source, aligner_of=None):
    torch.manual_seed(0)
    model = ec.EfficientLVSM(settings.model).train()
    averaged = Averaged(model, settings.optim.ema)
    aligner = aligner_of(model) if aligner_of else None
    objective = Objective(LossConfig(perceptual=0))
    return Trainer(settings, model, averaged, objective, aligner, source, CPU)


@pytest.mark.slow
def test_re10k_trains_logs_and_counts_what_it_skips(mini_scenes, tmp_path, caplog):
    caplog.set_level("INFO", "training")
    broken = [encode(image, "png") for image in mini_scenes[0].images]
    broken = [b"" if i % 2 else data for i, data in enumerate(broken)]
    first = chunk_entry(mini_scenes[0].key, broken, mini_scenes[0].w2c, mini_scenes[0].relative)
    write_chunk(tmp_path / "data/000000.torch", [first, *(s.entry("png") for s in mini_scenes[1:])])
    overrides = [
        *TINY, f"data.re10k.path={tmp_path / 'data'}", f"out={tmp_path / 'out'}", "data.re10k.workers=2", "steps=40",
        "optim.lr=3e-3", "log_every=10", "logger=tensorboard", "data.size=[16,32]", "model.image_size=[16,32]",
    ]  # fmt: skip
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    path = train(load_settings(None, overrides))
    assert ec.load_model(path, device="cpu").config.image_size == (16, 32)
    lines = [m for m in caplog.messages if " loss " in m]
    losses = [float(m.split(" loss ")[1].split()[0]) for m in lines]
    assert len(losses) == 4 and losses[-1] < 0.8 * losses[0]
    assert all(word in lines[0] for word in ("ms/step", "scenes/s", "TFLOP/s", "dropped 0"))
    assert any("scenes passed over so far" in m for m in caplog.messages)
    assert glob.glob(str(tmp_path / "out/tensorboard/events*"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "out/tensorboard")).Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [10, 20, 30, 40]
    assert events.Scalars("speed/scenes_per_second")[0].value > 0
    (shown,) = events.Images("samples")
    # Four samples of 16x32 below each other: two inputs, three targets, each truth and render.
    assert (shown.step, shown.height, shown.width) == (40, 4 * 16 + 3 * 4, 8 * 32 + 7 * 4)
    (sheet,) = (tmp_path / "out/samples").iterdir()
    assert sheet.name == "step-000000040.jpg" and Image.open(sheet).size == (shown.width, shown.height)


def test_steps_come_from_epochs_or_steps(settings):
    source = open_source(dataclasses.replace(settings, batch=1), 0, 1, CPU)
    assert total_steps(settings, source, 1) == 6
    epochs = dataclasses.replace(settings, batch=1, steps=0, epochs=4.0)
    assert total_steps(epochs, source, 2) == 6  # 3 scenes, 4 times, on 2 processes
    assert total_steps(dataclasses.replace(epochs, accumulate=3), source, 2) == 2
    assert total_steps(dataclasses.replace(epochs, steps=5), source, 1) == 5


def test_accumulated_batches_give_the_gradient_of_one_large_batch(settings):
    whole = sample_of(4)
    parts = [x for x in vars(whole).values() if x is not None]
    halves = [Sample(*(x[i : i + 2] for x in parts)) for i in (0, 2)]
    one = trainer_of(dataclasses.replace(settings, batch=4), Fixed(whole))
    two = trainer_of(dataclasses.replace(settings, accumulate=2), Fixed(*halves))
    terms = one.gradients(), two.gradients()
    torch.testing.assert_close(terms[0], terms[1])
    torch.testing.assert_close(one.optimiser.gradients.buffer, two.optimiser.gradients.buffer)
    assert two.source.given == 2 and one.work == two.work > 0


def test_steps_with_too_long_or_infinite_gradients_change_nothing(settings):
    good, bad = sample_of(), sample_of()
    bad.target_images[0, 0, 0, 0, 0] = float("inf")
    trainer = trainer_of(settings, Fixed(good, bad, good))
    trainer.advance(0.0, 6)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    state = [p["exp_avg"].clone() for p in trainer.optimiser.adamw.state.values()]
    terms = dict(zip(TERMS, trainer.advance(0.0, 6).tolist(), strict=True))
    assert terms["dropped"] == 1 and not math.isfinite(terms["loss"])
    # Momentum would have moved them: the step before was a real one.
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    after = [p["exp_avg"] for p in trainer.optimiser.adamw.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(state, after, strict=True))
    assert trainer.advance(0.0, 6)[-1] == 0 and trainer.step == 3
    assert not torch.equal(before[0], next(trainer.model.parameters()))
    # A norm of ten is beyond 0.1 * 10, but within 5 * 10.
    for largest, dropped in ((0.1, 1.0), (5.0, 0.0)):
        flat = trainer.optimiser.gradients
        flat.zero()
        flat.buffer[0] = 10.0
        norm, was = flat.clip(largest, 10.0, torch.tensor(1.0), True)
        assert norm == 10 and was == dropped
        assert float(flat.buffer.norm()) == pytest.approx(0.0 if dropped else largest)
    flat.zero()
    flat.buffer[:3] = torch.tensor([float("nan"), float("inf"), 2.0])
    _, was = flat.clip(5.0, 10.0, torch.tensor(1.0), True)
    assert was == 0 and flat.buffer[:3].tolist() == pytest.approx([0.0, 1e-6, 2.0])


def test_weight_decay_acts_on_matrices_only(settings):
    groups = trainer_of(settings, Fixed(sample_of())).optimiser.adamw.param_groups
    assert [g["weight_decay"] for g in groups] == [settings.optim.weight_decay, 0.0]
    assert {p.ndim for p in groups[0]["params"]} == {2} and {p.ndim for p in groups[1]["params"]} == {1}


def test_schedules():
    def rates(schedule):
        s = OptimSettings(lr=1.0, warmup=10, schedule=schedule)
        return [learning_rate(s, step, 0.0, 110) for step in (0, 9, 10, 60, 110)]

    assert rates("constant") == pytest.approx([0.1, 1, 1, 1, 1])
    assert rates("linear") == pytest.approx([0.1, 1, 1, 0.5, 0])
    assert rates("cosine") == pytest.approx([0.1, 1, 1, 0.5, 0], abs=1e-12)


@pytest.fixture
def encoder():
    from elvsm_core.files.lpips_weights import import_torchvision

    try:
        import_torchvision()
    except (ImportError, ValueError) as error:
        pytest.skip(str(error))
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(1)
    options = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 28, "dynamic_img_size": True}
    network = timm.create_model("vit_base_patch14_dinov2", pretrained=False, num_classes=0, **options)
    return DinoEncoder(network, 28)


@pytest.mark.slow
def test_alignment_trains_its_projectors_and_the_layers_below(settings, encoder):
    repa = RepaSettings(network="dinov2", mapping="2:1", weight=0.5)
    source = Fixed(sample_of())
    trainer = trainer_of(
        dataclasses.replace(settings, repa=repa), source, lambda m: Aligner(repa, m, 1, CPU, encoder)
    )
    assert trainer.aligner.tapped == {("input", 1), ("target", 1)}
    first = dict(zip(TERMS, trainer.advance(0.0, 0).tolist(), strict=True))
    assert first["repa"] > 0 and first["loss"] == pytest.approx(first["mse"] + 0.5 * first["repa"], rel=1e-5)
    for _ in range(15):
        last = trainer.advance(0.0, 0)
    assert last[TERMS.index("repa")] < 0.9 * first["repa"]
    assert all(p.grad is not None and p.grad.any() for p in trainer.aligner.projectors.parameters())
    with pytest.raises(SettingsError, match=r"repa.network must be"):
        RepaSettings(network="clip")


def test_flops_are_three_times_those_of_a_forward_pass(settings):
    sample = sample_of(b=2, views=3, targets=1)
    model = ec.EfficientLVSM(settings.model)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        views = sample.images, sample.c2w, sample.fxfycxcy
        model(*views, sample.target_c2w, sample.target_fxfycxcy, (16, 16))
    assert training_flops(settings.model, sample) == pytest.approx(3 * counter.get_total_flops(), rel=0.1)


@pytest.mark.slow
def test_settings_and_files_that_do_not_fit_are_refused(mini_re10k, tmp_path, capsys):
    data = f"data.re10k.path={mini_re10k}"

    def refused(*overrides):
        assert main([*TINY, data, f"out={tmp_path / 'out'}", *overrides]) == 2
        return capsys.readouterr().err

    assert "imagenet-vgg-verydeep-19.mat" in refused("--perceptual", "vgg19")
    assert "no file none.mat" in refused("loss.perceptual=vgg19", "loss.perceptual_file=none.mat")
    assert "REPA needs the weights" in refused("repa.network=dinov3")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ELVSM_LPIPS_WEIGHTS", "ELVSM_TEST_DATA"):
            patch.delenv(name, raising=False)
        assert "Get the weights once" in refused("loss.lpips=0.1")
    assert "is of another architecture" in refused("init=demo")
    assert "give data.re10k.path" in refused("data.re10k.path=null")
    assert "there is no dataset" in refused("data.re10k.path=/nowhere/re10k")
    assert "did you mean 'data.re10k.targets'" in refused("data.re10k.target=2")
    assert "give steps or epochs" in refused("steps=0", "minutes=1", "optim.schedule=cosine")
    assert "a run needs an end" in refused("steps=0")
    assert "epochs are passes over a dataset" in refused("data.source=procedural", "epochs=2")
    assert "resume must be" in refused("resume=always")
    few = refused("data.re10k.inputs=20", "data.re10k.targets=20", "data.re10k.workers=1")
    assert few.startswith("error: none of 1000 scenes drawn gives a training sample: too few frames")
    assert not list((tmp_path / "out").glob("*.pt"))


def test_the_published_recipe_trains_without_the_perceptual_loss(mini_re10k, pytestconfig, tmp_path):
    config = str(pytestconfig.rootpath / "config/train/re10k_256.yaml")
    small = [x for x in TINY if not x.startswith(("optim.", "data.source"))]
    out, data = f"out={tmp_path / 'out'}", f"data.re10k.path={mini_re10k}"
    assert (
        main(["--config", config, "--perceptual", "none", *small, data, out, "epochs=0", "optim.warmup=1"])
        == 0
    )
    assert ec.load_model(tmp_path / "out/model.safetensors", device="cpu").config.width == 32
    assert "finished: 6 steps" in (tmp_path / "out/log.txt").read_text()


def test_shipped_configurations_are_valid(pytestconfig):
    folder = pytestconfig.rootpath / "config/train"
    base = load_settings(folder / "re10k_256.yaml")
    assert base.model == ec.ModelConfig() and (base.optim.lr, base.optim.weight_decay) == (4e-4, 0.05)
    assert (base.optim.betas, base.optim.warmup, base.optim.clip) == ((0.9, 0.95), 3000, 5.0)
    fine = load_settings(
        folder / "re10k_512_finetune.yaml", ["data.size=[512,912]", "model.image_size=[512,912]"]
    )
    assert fine.data.size == (512, 912) and fine.init is not None
    assert load_settings(folder / "demo.yaml").data.source == "procedural"
