"""A training run as a whole: when it ends, what it writes, and the groups of settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from elvsm_core import ModelConfig

from .data import DataSettings
from .errors import require
from .objective import LossSettings, OptimSettings, RepaSettings
from .sampling import SamplingSettings


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
        require(self.resume in ("auto", "none"), f"resume must be 'auto' or 'none', got {self.resume!r}")
        require(
            self.logger in ("tensorboard", "wandb", "none"),
            f"logger must be 'tensorboard', 'wandb' or 'none', got {self.logger!r}",
        )
        require(
            self.data.source == "procedural"
            or (
                self.loss.unseen == 1.0
                and self.loss.depth == self.loss.confidence == 0
                and not self.sampling.shapes
            ),
            "loss.unseen, loss.depth, loss.confidence and sampling.shapes need exact depth, which drawn scenes have",
        )
        require(
            self.model.geometry_heads or self.loss.depth == self.loss.confidence == 0,
            "loss.depth and loss.confidence train the geometry heads: set model.geometry_heads=true",
        )
        exact = self.loss.unseen != 1.0 or self.loss.depth > 0 or self.loss.confidence > 0
        require(
            not exact or bool(self.sampling.shapes),
            "loss.unseen, loss.depth, loss.confidence need sampling.shapes",
        )
        for shape in self.sampling.shapes:
            scale = self.data.size[0] // shape.size[0]
            require(
                scale >= 1 and (shape.size[0] * scale, shape.size[1] * scale) == self.data.size,
                f"sampling.shapes: size {list(shape.size)} is no whole fraction of data.size {list(self.data.size)}",
            )
            require(
                not any(side % self.model.patch_size for side in (*shape.size, *shape.crop)),
                f"sampling.shapes: {list(shape.size)} and {list(shape.crop)} must be whole patches",
            )
            require(
                shape.inputs + shape.targets <= self.data.views,
                f"sampling.shapes: {shape.inputs} inputs and {shape.targets} targets need that many data.views, "
                f"there are {self.data.views}",
            )
        for name in ("batch", "accumulate", "log_every", "keep"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(
            self.attention in ("flash", "cudnn"),
            f"attention must be 'flash' or 'cudnn', got {self.attention!r}",
        )
        require(self.pictures >= 0, f"pictures must be at least 0, got {self.pictures}")
        require(
            max(self.minutes, self.steps, self.epochs) > 0,
            "give minutes, steps or epochs: a run needs an end",
        )
        require(
            self.epochs == 0 or self.data.source == "re10k",
            "epochs are passes over a dataset: procedural scenes have none, give minutes or steps",
        )
        require(
            self.optim.schedule not in ("cosine", "linear") or max(self.steps, self.epochs) > 0,
            f"optim.schedule {self.optim.schedule} ends at the last step: give steps or epochs",
        )
