"""What a training minimises, and how: losses, alignment of representations, optimiser and schedule."""

from __future__ import annotations

from dataclasses import dataclass

from ..losses.objective import LossConfig
from .errors import require

SCHEDULES = ("trapezoid", "constant", "cosine", "linear")


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
        require(self.name in ("muon", "adamw"), f"optim.name must be 'muon' or 'adamw', got {self.name!r}")
        require(
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
        require(
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
        require(
            self.network in ("none", "dinov2", "dinov3"),
            f"repa.network must be 'none', 'dinov2' or 'dinov3', got {self.network!r}",
        )
