"""Rooms of meshes as tables for the ray caster, and pictures of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..scenes import SceneBatch
from .bank import MeshBank
from .tracer import SAMPLE_WORDS, VIEW_WORDS, WORDS, Caller, build_hierarchy, words

MESH_UV, LOCAL_METRES, WORLD_METRES, PANORAMA = range(4)
HORIZON = 200.0  # metres: depth of what is open to all sides, so that it can be reprojected
MOST_LIGHTS = 6  # as in tracer/5_kernels.cuh


@dataclass(frozen=True)
class MeshConfig:
    """How mesh rooms are drawn.

    rays: per pixel, 1, 2 or 4 (see tracer/5_kernels.cuh); ambient: rays of ambient light for each of these (0: light
    from all sides without corners' shade); shadows: trace lamps' shadows; glass: panes that a ray may pass.
    """

    rays: int = 2
    ambient: int = 1
    shadows: bool = True
    glass: int = 3

    def __post_init__(self) -> None:
        if self.rays not in (1, 2, 4):
            raise ValueError(f"rays per pixel must be 1, 2 or 4, got {self.rays}")


@dataclass(frozen=True)
class Light:
    """A lamp: points centre + s a + t b with s, t in [-1, 1] (metres); power RGB; normal: of a panel that shines to
    one side."""

    centre: tuple[float, float, float]
    power: tuple[float, float, float]
    a: tuple[float, float, float] = (0.1, 0.0, 0.0)
    b: tuple[float, float, float] = (0.0, 0.1, 0.0)
    normal: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Surroundings:
    """What is around a scene: a panorama (a texture's number) on a sphere, and light from below and above, linear."""

    panorama: int = -1
    centre: tuple[float, float, float] = (0.0, 0.0, 1.5)
    radius: float = 40.0
    yaw: float = 0.0
    gain: float = 1.0
    below: tuple[float, float, float] = (0.4, 0.4, 0.4)
    above: tuple[float, float, float] = (0.5, 0.5, 0.5)
    reach: float = 1.5


def material(
    bank: MeshBank,
    texture: int = -1,
    *,
    tint: Sequence[float] = (1.0, 1.0, 1.0),
    mode: int = MESH_UV,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: tuple[float, float] = (0.0, 0.0),
    amount: float = 1.0,
    gain: float = 1.0,
    specular: float = 0.0,
    shininess: float = 20.0,
    mirror: float = 0.0,
    opacity: float = 1.0,
    emission: float = 0.0,
    cutout: bool = False,
    mirrored: bool = False,
) -> NDArray[np.float32]:
    """Return a row of the table of materials, see tracer/2_world.cuh. scale: repeats per metre, or of the mesh's own
    coordinates; tint: as displayed; shown = tint (1 - amount + amount gain texel)."""
    row = np.zeros(WORDS["material"], np.float32)
    row[:2] = texture, mode
    row[2:6] = *scale, *shift
    row[6:9] = tint
    row[9:17] = (
        amount if texture >= 0 else 0.0,
        gain,
        specular,
        shininess,
        mirror,
        opacity,
        emission,
        float(cutout),
    )
    texel = bank.texture_mean[texture] if texture >= 0 else np.ones(3, np.float32)
    row[17:20] = np.clip(row[6:9] * (1 - row[9] + row[9] * gain * texel), 0, 1) ** 2.2
    row[20] = float(mirrored)
    return row


@dataclass(eq=False)
class Piece:
    """An instance: matrix [4, 4] from the mesh's coordinates to the world's; rows: its materials [k, 24].

    group: what stands or falls together; fixed: part of the room that no walk removes; solid: nobody can be inside it.
    """

    shape: int
    matrix: NDArray[np.float64]
    rows: NDArray[np.float32]
    group: int = 0
    fixed: bool = False
    obstacle: bool = True
    solid: bool = False


@dataclass
class MeshScene:
    """A scene under construction."""

    bank: MeshBank
    pieces: list[Piece] = field(default_factory=list)
    lights: list[tuple[Light, int]] = field(default_factory=list)
    around: Surroundings = field(default_factory=Surroundings)
    groups: int = 1

    def add(
        self, shape: int, matrix: NDArray[Any], rows: NDArray[np.float32] | None = None, **how: Any
    ) -> Piece:
        """Add an instance and return it."""
        rows = np.atleast_2d(material(self.bank) if rows is None else rows)
        need = len(self.bank.shapes[shape].materials)
        if len(rows) != need:
            rows = np.repeat(rows[:1], need, 0)
        piece = Piece(shape, np.asarray(matrix, np.float64), rows.astype(np.float32), **how)
        self.pieces.append(piece)
        return piece

    def box_of(self, piece: Piece) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the corners low, high of the box around an instance, world axes."""
        shape = self.bank.shapes[piece.shape]
        ends = np.array([shape.low, shape.high])
        corner = np.stack(np.meshgrid(*ends.T, indexing="ij"), -1).reshape(-1, 3)
        moved = corner @ piece.matrix[:3, :3].T + piece.matrix[:3, 3]
        return moved.min(0), moved.max(0)

    def tables(self) -> dict[str, NDArray[Any]]:
        """Return the scene's rows of each table; numbers count from the scene's own first row."""
        if not self.pieces:
            raise ValueError("a scene needs at least one piece")
        boxes = np.array([self.box_of(p) for p in self.pieces])
        nodes, order = build_hierarchy(boxes[:, 0] - 1e-5, boxes[:, 1] + 1e-5, 1)
        instances = np.zeros((len(self.pieces), WORDS["instance"]), np.float32)
        rows: list[NDArray[np.float32]] = []
        count = 0
        first_row = []
        for p in self.pieces:
            first_row.append(count)
            rows.append(p.rows)
            count += len(p.rows)
        for place, k in enumerate(order):
            p = self.pieces[k]
            shape = self.bank.shapes[p.shape]
            inverse = np.linalg.inv(p.matrix)
            instances[place, :12] = inverse[:3].reshape(-1)
            special = bool((p.rows[:, 14] < 0.5).any() or (p.rows[:, 16] > 0.5).any())
            instances.view(np.int32)[place, 12:15] = shape.root, first_row[k], special
            instances[place, 15] = abs(np.linalg.det(inverse[:3, :3])) ** (1 / 3)
        lights = np.zeros((max(1, len(self.lights)), WORDS["light"]), np.float32)
        for i, (light, _) in enumerate(self.lights[:MOST_LIGHTS]):
            lights[i, :15] = *light.centre, *light.a, *light.b, *light.power, *light.normal
        place_row = np.zeros((1, WORDS["place"]), np.float32)
        a = self.around
        place_row.view(np.int32)[0, :4] = 0, 0, min(len(self.lights), MOST_LIGHTS), a.panorama
        place_row[0, 4:17] = *a.centre, a.radius, a.yaw, a.gain, *a.below, *a.above, a.reach
        return {
            "top": nodes, "instances": instances, "materials": np.concatenate(rows), "lights": lights,
            "places": place_row,
            "order": order,
        }  # fmt: skip


class HostWorld:
    """Questions about a scene, answered on the CPU."""

    def __init__(self, scene: MeshScene) -> None:
        tables = scene.tables()
        self.order = tables.pop("order")
        merged = scene.bank.tables | {k: words(v) for k, v in tables.items()}
        self.caller = Caller(merged)
        self.count = len(self.order)

    def cast(
        self, o: NDArray[Any], d: NDArray[Any], reach: float
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Cast rays from o [n, 3] along d [n, 3]: t [n] in lengths of d, number of the piece (-1: nothing), normal
        [n, 3]."""
        n = len(o)
        origin, way = words_of(o), words_of(d)
        t, piece, normal = torch.empty(n), torch.empty(n, dtype=torch.int32), torch.empty(n, 3)
        self.caller.host("cast", 0, n, origin, way, reach, t, piece, normal)
        number = piece.numpy()
        return t.numpy(), np.where(number >= 0, self.order[np.maximum(number, 0)], -1), normal.numpy()

    def distances(self, points: NDArray[Any], reach: float) -> NDArray[np.float32]:
        """Return the distance, metres, at most reach, of points [n, 3] to each piece: [n, pieces]."""
        out = torch.empty(len(points), self.count)
        self.caller.host("distances", self.count, len(points), words_of(points), reach, out)
        back = np.empty((len(points), self.count), np.float32)
        back[:, self.order] = out.numpy()
        return back


def words_of(x: NDArray[Any]) -> Tensor:
    """Return float32 coordinates as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))


@dataclass(frozen=True)
class MeshPlan:
    """Furnished scenes and cameras before anything is rendered, as tables (int32: the bits of 32-bit words).

    c2w [B, V, 4, 4] OpenCV, metres; fxfycxcy [B, V, 4] pixels; exposure [B, V]: factor on each view's light; key [B]:
    the linear brightness that a scene's views get on average; gamma [B]; noise [B, 1, 1, 1, 1] grey levels; grain: seed
    of the noise.
    """

    top: Tensor
    instances: Tensor
    materials: Tensor
    lights: Tensor
    places: Tensor
    c2w: Tensor
    fxfycxcy: Tensor
    exposure: Tensor
    key: Tensor
    gamma: Tensor
    noise: Tensor
    grain: int
    size: tuple[int, int]

    def to(self, device: torch.device | str) -> MeshPlan:
        """Return the same plan on another device; the copy does not wait."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> MeshPlan:
        """Return the same plan in page-locked memory (a DataLoader calls this)."""
        return self._map(lambda x: x.contiguous().pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> MeshPlan:
        moved = {
            f.name: function(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


def join_tables(scenes: Sequence[dict[str, NDArray[Any]]]) -> dict[str, Tensor]:
    """Put the tables of scenes behind each other; their numbers move along."""
    first = dict.fromkeys(("top", "instances", "materials", "lights"), 0)
    out: dict[str, list[NDArray[Any]]] = {name: [] for name in (*first, "places")}
    for scene in scenes:
        top = scene["top"].copy()
        child = top.view(np.int32)[:, 12:14]
        child[:] = np.where(child >= 0, child + first["top"], ~(~child + 8 * first["instances"]))
        instances = scene["instances"].copy()
        instances.view(np.int32)[:, 13] += first["materials"]
        places = scene["places"].copy()
        places.view(np.int32)[:, 0] += first["top"]
        places.view(np.int32)[:, 1] += first["lights"]
        for name, rows in (
            ("top", top), ("instances", instances), ("materials", scene["materials"]), ("lights", scene["lights"]),
            ("places", places),
        ):  # fmt: skip
            out[name].append(rows)
            if name in first:
                first[name] += len(rows)
    return {name: words(np.concatenate(rows)) for name, rows in out.items()}


def render_tables(
    bank: MeshBank,
    tables: dict[str, Tensor],
    c2w: Tensor,
    fxfycxcy: Tensor,
    size: tuple[int, int],
    tone: Callable[[Tensor], Tensor],
    config: MeshConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render V views of each of B scenes on the bank's device.

    c2w [B, V, 4, 4], fxfycxcy [B, V, 4]; size (H, W); tone: maps linear light [B, V, H, W, 3] to exposure and gamma
    [B, V, 2]. Returns images uint8 [B, V, 3, H, W], depth float32 [B, V, H,
    W] along the optical axis at pixels' centres,
    exact (panoramas lie on a sphere; 1e30 where there is nothing at all), and the linear light.
    """
    config = config or MeshConfig()
    device = bank.device
    b, v = c2w.shape[:2]
    height, width = size
    n = b * v
    call = Caller(bank.tables | {k: t.to(device) for k, t in tables.items()})
    views = torch.zeros(n, VIEW_WORDS, dtype=torch.float32, device=device)
    views[:, :12] = c2w.to(device).float()[..., :3, :].reshape(n, 12)
    views[:, 12:16] = fxfycxcy.to(device).float().reshape(n, 4)
    views.view(torch.int32)[:, 16] = torch.arange(b, device=device, dtype=torch.int32).repeat_interleave(v)
    settings = torch.tensor(
        [width, height, n, config.rays, config.ambient, int(config.shadows), config.glass, 0],
        dtype=torch.int32,
    ).to(device, non_blocking=True)  # fmt: skip
    lattices = [(width + (k in (1, 2)), height + (k in (1, 3))) for k in range(config.rays)]
    samples = torch.empty(
        n, sum(w * h for w, h in lattices), SAMPLE_WORDS, dtype=torch.float32, device=device
    )
    light = torch.empty(*samples.shape[:2], 3, device=device)
    depth = torch.empty(n, height, width, device=device)
    for kind, (w, h) in enumerate(lattices):
        call("trace_samples", views, settings, samples, depth, kind, grid=(w, h, n))
        call("light_samples", views, settings, samples, light, kind, grid=(w, h, n))
    pixels = torch.empty(n, height, width, 3, device=device)
    call("pixel_lights", settings, light, pixels, world=False, grid=(width, height, n))
    pixels = pixels.reshape(b, v, height, width, 3)
    tones = tone(pixels).float().contiguous()
    images = torch.empty(n, 3, height, width, dtype=torch.uint8, device=device)
    call("develop", settings, light, tones, images, world=False, grid=(width, height, n))
    return images.reshape(b, v, 3, height, width), depth.reshape(b, v, height, width), pixels


def automatic_exposure(light: Tensor, key: Tensor, exposure: Tensor) -> Tensor:
    """Return exposures [B, V] as a camera chooses them for a scene's views, linear light [B, V, H, W, 3], times
    exposure.

    The mean of the logarithmic light comes to key [B], but of what is lit 5 % at most may be whiter than white.
    """
    luminance = light @ torch.tensor([0.2126, 0.7152, 0.0722], device=light.device)
    mean = luminance.clamp(1e-4, 20).log().mean((1, 2, 3)).exp()
    few = luminance[:, :, ::4, ::4].flatten(1)
    bright = few.kthvalue(max(1, int(0.95 * few.shape[1])), dim=1).values
    return torch.minimum(key / mean, 0.9 / bright.clamp_min(1e-4))[:, None] * exposure


def render_mesh_plan(
    bank: MeshBank, plan: MeshPlan, config: MeshConfig | None = None, chunk: int = 256
) -> SceneBatch:
    """Render the views of a plan on the bank's device, about `chunk` views at a time."""
    plan = plan.to(bank.device)
    names = ("top", "instances", "materials", "lights", "places")
    b, v = plan.c2w.shape[:2]
    step = max(1, chunk // v)
    parts = []
    for a in range(0, b, step):
        rows = slice(a, a + step)
        tables = {name: getattr(plan, name) for name in names} | {"places": plan.places[rows]}

        def tone(light: Tensor, rows: slice = rows) -> Tensor:
            gain = automatic_exposure(light, plan.key[rows], plan.exposure[rows])
            return torch.stack([gain, plan.gamma[rows, None].expand_as(gain)], -1)

        parts.append(
            render_tables(bank, tables, plan.c2w[rows], plan.fxfycxcy[rows], plan.size, tone, config)[:2]
        )
    images, depth = (torch.cat(x) for x in zip(*parts, strict=True))
    depth = depth.clamp_max(HORIZON)
    if plan.grain:
        grain = torch.Generator(device=bank.device).manual_seed(plan.grain)
        white = torch.randn(images.shape, generator=grain, device=bank.device, dtype=torch.float16)
        images = (images + plan.noise.half() * white).round().clamp(0, 255).to(torch.uint8)
    return SceneBatch(images, plan.c2w, plan.fxfycxcy, depth)
