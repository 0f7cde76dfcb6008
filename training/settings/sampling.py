"""How samples are composed: numbers of views, frames, errors of poses, shapes of batches."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import require


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
            require(
                getattr(self, name) >= 1,
                f"sampling.shapes: {name} must be at least 1, got {getattr(self, name)}",
            )
        require(
            all(c <= s for c, s in zip(self.crop, self.size, strict=True)),
            f"sampling.shapes: crop {list(self.crop)} is larger than size {list(self.size)}",
        )
        require(self.lpips <= self.targets, "sampling.shapes: lpips is more than there are targets")


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
