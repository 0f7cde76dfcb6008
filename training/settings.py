"""Training settings: frozen dataclasses read once from YAML, with dotted overrides from the command line."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from elvsm_core import ModelConfig

from .losses.objective import LossConfig
from .procedural.meshes.scene import MeshConfig
from .procedural.scenes import SceneConfig

SCHEDULES = ("trapezoid", "constant", "cosine", "linear")

T = TypeVar("T")


class SettingsError(ValueError):
    """A training configuration that cannot be used."""


def _require(good: bool, text: str) -> None:
    if not good:
        raise SettingsError(text)


@dataclass(frozen=True)
class Re10kSettings:
    """RealEstate10K as training data, see training/sampling/samples.py.

    path: chunks or folders, see data/readers/re10k.py. inputs, targets: views of a sample. target_has_input: targets
    are drawn from all views, inputs included. dynamic_inputs: numbers of inputs to choose from, one choice per batch.
    shuffle_inputs: permute the inputs. scale_factor: of the poses' normalisation. workers: processes that decode,
    for each GPU; prefetch: batches that each of them keeps ready.
    """

    path: str | None = None
    inputs: int = 2
    targets: int = 6
    target_has_input: bool = True
    dynamic_inputs: tuple[int, ...] = ()
    shuffle_inputs: bool = False
    scale_factor: float = 1.35
    workers: int = 8
    prefetch: int = 4


@dataclass(frozen=True)
class MeshSettings:
    """Rooms of furniture meshes among the procedural scenes.

    assets: folder that `python -m training.assets` wrote; share: of the drawn batches that are rooms of meshes; rays:
    per pixel, 1, 2 or 4; ambient: rays of ambient light for each of these.
    """

    assets: str | None = None
    share: float = 0.0
    rays: int = 2
    ambient: int = 1

    def __post_init__(self) -> None:
        _require(0 <= self.share <= 1, f"data.meshes.share must be between 0 and 1, got {self.share}")
        _require(
            self.share == 0 or self.assets is not None,
            "data.meshes.share asks for rooms of meshes: give data.meshes.assets, the folder of packed assets",
        )
        self.config()

    def config(self) -> MeshConfig:
        """Return how rooms of meshes are rendered."""
        return MeshConfig(rays=self.rays, ambient=self.ambient)


@dataclass(frozen=True)
class StoreSettings:
    """A dataset of a mixture, see training/sampling/mixture.py.

    store: its format (elvsm_dataset formats), a Python file that defines one, "auto", or "procedural" for drawn rooms.
    path: where it lies. weight: of how often samples come from it. views: how the views of a sample are chosen: by the
    gap between frames, by the overlap of frusta, or "auto": overlap for photos that follow no path. gap: frames from
    the first view to the last, least and most. overlap: share that views have in common with one of them, least and
    most. scale: "metric" takes the poses' unit for a metre, "normalised" gives every sample the same size, "auto": as
    the dataset says. options: of the format.
    """

    store: str = "auto"
    path: str = ""
    weight: float = 1.0
    views: str = "auto"
    gap: tuple[int, int] = (25, 192)
    overlap: tuple[float, float] = (0.3, 0.95)
    scale: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.path != "" or self.store == "procedural", "a store of data.stores needs a path")
        _require(self.weight > 0, f"the weight of a store must be positive, got {self.weight}")
        ways = ("auto", "gap", "overlap")
        _require(self.views in ways, f"views must be one of {', '.join(ways)}, got {self.views!r}")
        scales = ("auto", "metric", "normalised")
        _require(self.scale in scales, f"scale must be one of {', '.join(scales)}, got {self.scale!r}")
        _require(
            1 <= self.gap[0] <= self.gap[1], f"gap must be two increasing numbers from 1, got {self.gap}"
        )
        low, high = self.overlap
        _require(0 <= low < high <= 1, f"overlap must be two increasing shares in 0 to 1, got {self.overlap}")


@dataclass(frozen=True)
class DataSettings:
    """Where samples come from: procedural scenes and the pool that samples are drawn from, RealEstate10K, or a mixture.

    source: "procedural", "re10k" (the published protocol) or "mixture" of `stores`; a list in place of this group is
    short for a mixture of images of the model's size. size: images' (height, width), pixels. The rest but re10k and
    stores is of procedural scenes, and a mixture's walks have as many views; re10k.workers decode for a mixture, too.
    assets: folder of a pack of photographic textures (procedural/photos.py; null: generated textures only).
    views: images per scene, consecutive on its walk. draw_batch: scenes drawn at a time on each GPU; draw_every:
    gradient steps between draws; pool: scenes kept on each GPU, the oldest leave. workers: processes that furnish
    rooms ahead, for each GPU (0: none). tiles, texture_size: the texture bank. scenes: how rooms and cameras are drawn.
    meshes: rooms of furniture meshes among them.
    """

    source: str = "procedural"
    size: tuple[int, int] = (128, 128)
    views: int = 12
    draw_batch: int = 64
    draw_every: int = 6
    pool: int = 768
    workers: int = 0
    tiles: int = 1536
    texture_size: int = 256
    assets: str | None = None
    scenes: SceneConfig = field(default_factory=SceneConfig)
    meshes: MeshSettings = field(default_factory=MeshSettings)
    re10k: Re10kSettings = field(default_factory=Re10kSettings)
    stores: tuple[StoreSettings, ...] = ()

    def __post_init__(self) -> None:
        _require(
            self.source in ("procedural", "re10k", "mixture"),
            f"data.source must be 'procedural', 're10k' or 'mixture', got {self.source!r}",
        )
        _require(
            (self.source == "mixture") == bool(self.stores),
            "data.source is mixture exactly where data.stores names datasets: give both or none",
        )
        _require(
            self.scenes.photos == 0 or self.assets is not None,
            "data.scenes.photos asks for photographs: give data.assets, the folder of a pack of assets",
        )
        _require(
            self.source != "re10k" or self.re10k.path is not None,
            "data.source is re10k: give data.re10k.path, the folder of RealEstate10K's .torch chunks or the list file",
        )


@dataclass(frozen=True)
class BatchShape:
    """One sort of batch, so that a training has few shapes and every step of a shape costs the same.

    inputs, targets: views of a sample. batch: scenes per GPU. size: of the images, (height, width) pixels, data.size or
    a whole fraction of it. crop: (height, width) of the windows that are cut out of the targets, each at a random place
    of its own; size for whole targets. lpips: how many targets of a sample LPIPS looks at. share: of the steps.
    """

    inputs: int
    targets: int
    batch: int
    size: tuple[int, int]
    crop: tuple[int, int]
    lpips: int = 1
    share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("inputs", "targets", "batch"):
            _require(
                getattr(self, name) >= 1,
                f"sampling.shapes: {name} must be at least 1, got {getattr(self, name)}",
            )
        _require(
            all(c <= s for c, s in zip(self.crop, self.size, strict=True)),
            f"sampling.shapes: crop {list(self.crop)} is larger than size {list(self.size)}",
        )
        _require(self.lpips <= self.targets, "sampling.shapes: lpips is more than there are targets")


@dataclass(frozen=True)
class SamplingSettings:
    """How inputs, targets and the frame of a sample are chosen.

    inputs: numbers of input views, one of them is drawn per step with the shares input_shares. targets: target views.
    between: share of samples whose first two inputs enclose all other views on the walk.
    published: share of samples in the published normalisation (all views of the sample, largest coordinate 1/1.35);
    the others get a frame that knows nothing of the targets: anchored at another pose of the walk, with the largest
    |coordinate| log-uniform in reach. pose_noise: (degrees, metres), standard deviations of errors on input poses of
    noisy_share of the samples. camera: share of samples taken with another camera (data/camera_augmentation.py). crop:
    share of steps with non-square images, crop_size (height, width). pose_drift: (degrees, metres), standard deviations
    per step of the walk of a drift that the poses of drift_share of the samples have, targets included: neighbours
    agree better than views that are far apart, as with a real tracker. shapes: sorts of batches, which replace inputs,
    input_shares, targets, crop and the setting `batch`; procedural scenes only.
    """

    inputs: tuple[int, ...] = (2, 3, 4, 6, 8)
    input_shares: tuple[float, ...] = (0.2, 0.2, 0.3, 0.15, 0.15)
    targets: int = 4
    between: float = 0.5
    published: float = 0.4
    reach: tuple[float, float] = (0.08, 0.95)
    pose_noise: tuple[float, float] = (0.15, 0.003)
    noisy_share: float = 0.3
    camera: float = 0.0
    crop: float = 0.15
    crop_size: tuple[int, int] = (96, 128)
    pose_drift: tuple[float, float] = (0.0, 0.0)
    drift_share: float = 0.0
    shapes: tuple[BatchShape, ...] = ()


@dataclass(frozen=True)
class OptimSettings:
    """Optimiser and schedule.

    name: "muon" (block matrices by Muon, the rest by AdamW) or "adamw". lr: learning rate; Muon's updates are scaled
    to AdamW's size, so that the same rate serves both. warmup: steps. schedule: of the rate after that: "trapezoid"
    (constant, then linearly to zero in the last share `decay` of the run), "constant", "cosine" or "linear" (to zero
    at the last step, so that they need a number of steps). clip: largest gradient norm; gradients beyond skip times
    that, or not finite, are dropped. exact_skip: a dropped step changes nothing at all, as published; otherwise
    momentum and weight decay still act, which spares waiting for the device. repair: take NaN in a gradient for 0 and
    infinity for 1e-6 first, as published, as long as the loss is finite. ema: decay per step of the averaged weights
    that are exported (0: off). edge: weight of the loss on image gradients.
    """

    name: str = "muon"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    weight_decay: float = 0.02
    warmup: int = 400
    schedule: str = "trapezoid"
    decay: float = 0.35
    clip: float = 1.0
    skip: float = 20.0
    exact_skip: bool = False
    repair: bool = False
    ema: float = 0.999
    edge: float = 0.0

    def __post_init__(self) -> None:
        _require(self.name in ("muon", "adamw"), f"optim.name must be 'muon' or 'adamw', got {self.name!r}")
        _require(
            self.schedule in SCHEDULES,
            f"optim.schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}",
        )


@dataclass(frozen=True)
class LossSettings:
    """The training objective, see training/losses/objective.py: squared error, and terms that need weights from files.

    perceptual: "none" or "vgg19" with its weight and file; lpips: weight of LPIPS (0: off) and its file, used from the
    share lpips_from of the run on, on the first lpips_targets target views of a sample (0: all); with sampling.shapes
    each shape says how many. unseen: weight of the squared error where no input sees what a target shows, against 1
    where one does (1: no difference). depth, confidence: weights of the geometry heads' losses (model.geometry_heads).
    """

    perceptual: str = "none"
    perceptual_weight: float = 0.5
    perceptual_file: str | None = None
    lpips: float = 0.0
    lpips_file: str | None = None
    lpips_from: float = 0.0
    lpips_targets: int = 0
    unseen: float = 1.0
    depth: float = 0.0
    confidence: float = 0.0

    def __post_init__(self) -> None:
        _require(
            self.perceptual in ("none", "vgg19"),
            f"loss.perceptual must be 'none' or 'vgg19', got {self.perceptual!r}",
        )

    def config(self, repa: float = 0.0, edge: float = 0.0) -> LossConfig:
        """Return the weights of the terms; repa: the alignment's, edge: the image gradients'."""
        perceptual = self.perceptual_weight if self.perceptual != "none" else 0.0
        return LossConfig(1.0, perceptual, self.lpips, repa, edge)


@dataclass(frozen=True)
class RepaSettings:
    """Representation alignment, see losses/repa.py. network: "none", "dinov2" or "dinov3", its weights in `file`."""

    network: str = "none"
    file: str | None = None
    mapping: str = "8-2"
    loss: str = "sl1"
    weight: float = 0.5

    def __post_init__(self) -> None:
        _require(
            self.network in ("none", "dinov2", "dinov3"),
            f"repa.network must be 'none', 'dinov2' or 'dinov3', got {self.network!r}",
        )


@dataclass(frozen=True)
class TrainSettings:
    """A training run.

    minutes: wall time from the first step on, over all restarts (0: no limit). steps, epochs: stop after so many steps
    or passes over the data even if time is left (0: no limit). The schedule follows whichever is nearest to its end.
    batch: scenes per GPU at a time; accumulate: batches per step. out: folder for logs, checkpoints and exports. init:
    weights to start from. compile: compile the blocks. eval_scenes: procedural test scenes (0: none). frames: folder of
    a walk with cameras.json to evaluate on while training (never trained on). eval_minutes: between evaluations, each
    with an export. checkpoint_minutes, checkpoint_steps: between checkpoints (0: only at the end); keep: how many.
    resume: "auto" goes on from the newest checkpoint in `out`, "none" leaves it and starts afresh. logger:
    "tensorboard" (in out/tensorboard), "wandb" (see monitoring/loggers.py) or "none"; out/log.txt is always written.
    pictures: samples that are rendered at every evaluation, into out/samples and for the logger (0: none).
    attention: "flash" (FlashAttention-2) or "cudnn", a quarter faster on Hopper GPUs, which plans each shape anew: for
    few shapes. keep_before_decay: also export the averaged weights as they are when the rate begins to fall.
    """

    minutes: float = 25.0
    steps: int = 0
    epochs: float = 0.0
    batch: int = 64
    accumulate: int = 1
    seed: int = 1
    out: str = "runs/demo"
    init: str | None = None
    compile: bool = True
    device: str = "auto"
    log_every: int = 100
    eval_scenes: int = 64
    eval_minutes: float = 2.0
    frames: str | None = None
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int = 0
    keep: int = 2
    resume: str = "auto"
    logger: str = "tensorboard"
    pictures: int = 4
    attention: str = "flash"
    keep_before_decay: bool = False
    model: ModelConfig = field(default_factory=lambda: ModelConfig(384, 64, 6, 8, image_size=(128, 128)))
    data: DataSettings = field(default_factory=DataSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    repa: RepaSettings = field(default_factory=RepaSettings)

    def __post_init__(self) -> None:
        _require(self.resume in ("auto", "none"), f"resume must be 'auto' or 'none', got {self.resume!r}")
        _require(
            self.logger in ("tensorboard", "wandb", "none"),
            f"logger must be 'tensorboard', 'wandb' or 'none', got {self.logger!r}",
        )
        _require(
            self.data.source == "procedural"
            or (
                self.loss.unseen == 1.0
                and self.loss.depth == self.loss.confidence == 0
                and not self.sampling.shapes
            ),
            "loss.unseen, loss.depth, loss.confidence and sampling.shapes need exact depth, which drawn scenes have",
        )
        _require(
            self.model.geometry_heads or self.loss.depth == self.loss.confidence == 0,
            "loss.depth and loss.confidence train the geometry heads: set model.geometry_heads=true",
        )
        exact = self.loss.unseen != 1.0 or self.loss.depth > 0 or self.loss.confidence > 0
        _require(
            not exact or bool(self.sampling.shapes),
            "loss.unseen, loss.depth, loss.confidence need sampling.shapes",
        )
        for shape in self.sampling.shapes:
            scale = self.data.size[0] // shape.size[0]
            _require(
                scale >= 1 and (shape.size[0] * scale, shape.size[1] * scale) == self.data.size,
                f"sampling.shapes: size {list(shape.size)} is no whole fraction of data.size {list(self.data.size)}",
            )
            _require(
                not any(side % self.model.patch_size for side in (*shape.size, *shape.crop)),
                f"sampling.shapes: {list(shape.size)} and {list(shape.crop)} must be whole patches",
            )
            _require(
                shape.inputs + shape.targets <= self.data.views,
                f"sampling.shapes: {shape.inputs} inputs and {shape.targets} targets need that many data.views, "
                f"there are {self.data.views}",
            )
        for name in ("batch", "accumulate", "log_every", "keep"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        _require(
            self.attention in ("flash", "cudnn"),
            f"attention must be 'flash' or 'cudnn', got {self.attention!r}",
        )
        _require(self.pictures >= 0, f"pictures must be at least 0, got {self.pictures}")
        _require(
            max(self.minutes, self.steps, self.epochs) > 0,
            "give minutes, steps or epochs: a run needs an end",
        )
        _require(
            self.epochs == 0 or self.data.source == "re10k",
            "epochs are passes over a dataset: procedural scenes have none, give minutes or steps",
        )
        _require(
            self.optim.schedule not in ("cosine", "linear") or max(self.steps, self.epochs) > 0,
            f"optim.schedule {self.optim.schedule} ends at the last step: give steps or epochs",
        )


def load_settings(path: str | Path | None, overrides: list[str] | None = None) -> TrainSettings:
    """Read settings from a YAML file (None: the defaults) and `key.subkey=value` overrides.

    Raises SettingsError for a file that is no mapping, for unknown keys, naming the nearest known one, and for values
    of a wrong type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(Path(path).read_text())
        except OSError as error:
            raise SettingsError(f"cannot read the configuration {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise SettingsError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(loaded, dict):
            raise SettingsError(f"{path} must hold a mapping of settings, got {type(loaded).__name__}")
        values = _expanded(loaded)
    for item in overrides or []:
        key, equals, text = item.partition("=")
        if not equals:
            raise SettingsError(f"override {item!r} is not of the form key=value")
        target = values
        *parents, last = key.strip().split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise SettingsError(f"override {item!r}: {parent!r} is a value, not a group of settings")
        target[last] = yaml.safe_load(text)
    return build(TrainSettings, _expanded(values))


def _expanded(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with a list of datasets in place of the group `data` written out."""
    if not isinstance(values.get("data"), list):
        return values
    model = values.get("model")
    size = model.get("image_size") if isinstance(model, dict) else None
    group = {"source": "mixture", "stores": values["data"], **({"size": size} if size else {})}
    return {**values, "data": group}


def build(cls: type[T], values: dict[str, Any], prefix: str = "") -> T:
    """Build a settings dataclass from a mapping, strictly. Raises SettingsError."""
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    kwargs = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
            hint = f"did you mean {prefix + near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"unknown setting {prefix + str(key)!r}: {hint}")
        kwargs[key] = _convert(value, hints[key], prefix + key)
    try:
        return cls(**kwargs)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _convert(value: Any, hint: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise SettingsError(f"{name} is a group of settings, got {value!r}")
        return build(hint, value, name + ".")  # type: ignore[arg-type]
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None else _convert(value, inner[0], name)
    if origin is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise SettingsError(f"{name} must be a list, got {value!r}")
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(value) != len(kinds):
            raise SettingsError(f"{name} needs {len(kinds)} values, got {len(value)}")
        return tuple(_convert(v, k, name) for v, k in zip(value, kinds, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise SettingsError(f"{name} must be a mapping, got {value!r}")
        return dict(value)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise SettingsError(f"{name} must be of type {hint.__name__}, got {value!r}")
