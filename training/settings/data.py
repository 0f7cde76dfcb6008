"""Where samples come from: procedural scenes, RealEstate10K, or a mixture of datasets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..procedural.meshes.scene import MeshConfig
from ..procedural.scenes import SceneConfig
from .errors import require


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
        require(0 <= self.share <= 1, f"data.meshes.share must be between 0 and 1, got {self.share}")
        require(
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
        require(self.path != "" or self.store == "procedural", "a store of data.stores needs a path")
        require(self.weight > 0, f"the weight of a store must be positive, got {self.weight}")
        ways = ("auto", "gap", "overlap")
        require(self.views in ways, f"views must be one of {', '.join(ways)}, got {self.views!r}")
        scales = ("auto", "metric", "normalised")
        require(self.scale in scales, f"scale must be one of {', '.join(scales)}, got {self.scale!r}")
        require(1 <= self.gap[0] <= self.gap[1], f"gap must be two increasing numbers from 1, got {self.gap}")
        low, high = self.overlap
        require(0 <= low < high <= 1, f"overlap must be two increasing shares in 0 to 1, got {self.overlap}")


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
        require(
            self.source in ("procedural", "re10k", "mixture"),
            f"data.source must be 'procedural', 're10k' or 'mixture', got {self.source!r}",
        )
        require(
            (self.source == "mixture") == bool(self.stores),
            "data.source is mixture exactly where data.stores names datasets: give both or none",
        )
        require(
            self.scenes.photos == 0 or self.assets is not None,
            "data.scenes.photos asks for photographs: give data.assets, the folder of a pack of assets",
        )
        require(
            self.source != "re10k" or self.re10k.path is not None,
            "data.source is re10k: give data.re10k.path, the folder of RealEstate10K's .torch chunks or the list file",
        )
