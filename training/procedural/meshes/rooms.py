"""Plans of mesh scenes: furnished rooms and the worlds' layouts, with camera walks that keep clear of everything."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..rng import Dice
from ..room import Room
from ..scenes import SceneConfig
from ..walks import MARGIN, draw_intrinsics, draw_walks
from .bank import MeshBank
from .floorplan import QUAD, RoomPlan, draw_plan, quad
from .furnish import make_room
from .materials import Stylist
from .scene import LOCAL_METRES, HostWorld, Light, MeshPlan, MeshScene, Surroundings, join_tables, material

WORLDS = 0.12  # share of scenes from the layouts of whole worlds
PHOTO_BOXES = 0.08  # share of rooms whose shell shows a panorama


class Space:
    """What `draw_walks` asks of a room, answered exactly by distances to the meshes.

    middle [2]: where the walk's coordinates have their origin. Pieces that are fixed stay; the others may be taken
    away,
    with their whole group.
    """

    def __init__(
        self,
        scene: MeshScene,
        size: tuple[float, float, float],
        middle: NDArray[np.float64],
        plan: RoomPlan | None,
    ) -> None:
        self.scene, self.plan, self.middle = scene, plan, middle
        self.size = torch.tensor([size], dtype=torch.float32)
        self.device = torch.device("cpu")
        self.world = HostWorld(scene)
        self.counted = np.array([p.obstacle for p in scene.pieces])
        self.gone: set[int] = set()
        self.blocked = False

    def __len__(self) -> int:
        return 1

    def gaps(self, points: Tensor) -> NDArray[np.float32]:
        """Return the distance of points [1, n, 3] to every piece, at most a metre; 0 inside of what is solid."""
        at = points[0].double().numpy() + np.array([*self.middle, 0.0])
        gap = self.world.distances(at, 1.0)
        for k, piece in enumerate(self.scene.pieces):
            if piece.solid:
                low, high = self.scene.box_of(piece)
                gap[((at > low) & (at < high)).all(1), k] = 0
        gap[:, ~self.counted] = 1.0
        if self.plan is not None and self.plan.notch is not None:
            outside = ~self.plan.inside(at[:, :2])
            gap[outside] = np.where([p.fixed and p.obstacle for p in self.scene.pieces], 0.0, gap[outside])
        return gap

    def clearance(self, points: Tensor) -> Tensor:
        return torch.from_numpy(self.gaps(points).min(1))[None, :, None]

    def without_obstacles(self, points: Tensor, margin: float) -> Space:
        near = (self.gaps(points) < margin).any(0)
        self.blocked = any(near[k] and p.fixed for k, p in enumerate(self.scene.pieces))
        self.gone = {self.scene.pieces[k].group for k in np.flatnonzero(near)}
        return self


def walk_through(
    space: Space, views: int, generator: torch.Generator, tries: int, candidates: int
) -> Tensor | None:
    """Return a walk [views, 4, 4] that nothing fixed is in the way of, or None; pieces in its way leave the scene.

    Of several such walks the one that sees most of the furniture is taken.
    """
    best: tuple[float, Tensor, set[int]] | None = None
    removable = {p.group for p in space.scene.pieces if not p.fixed}
    for _ in range(tries):
        dice = Dice(1, generator, "cpu", 1024 + 128 * views * candidates)
        poses, _ = draw_walks(cast(Room, space), views, dice, candidates)
        walk = poses[0]
        walk[:, :2, 3] += torch.from_numpy(space.middle).float()
        gone = space.gone & removable
        if (
            space.blocked
            or len(gone) > 0.4 * max(1, len(removable)) + 2
            or not steps_are_free(space, walk.numpy())
        ):
            continue
        score = interest(space, walk.numpy(), gone)
        if best is None or score > best[0]:
            best = (score, walk, gone)
    if best is None:
        return None
    _, walk, gone = best
    space.scene.pieces = [p for p in space.scene.pieces if p.fixed or p.group not in gone]
    space.scene.lights = [(light, g) for light, g in space.scene.lights if g == 0 or g not in gone]
    return walk


def interest(space: Space, walk: NDArray[np.float32], gone: set[int]) -> float:
    """Return how much there is to see: the share of rays that meet what is no plain wall, and how far the eye
    reaches."""
    x, y = np.meshgrid(np.linspace(-0.7, 0.7, 8), np.linspace(-0.6, 0.6, 6))
    way = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3)
    poses = walk[:: max(1, len(walk) // 4)]
    d = np.einsum("vij,nj->vni", poses[:, :3, :3], way).reshape(-1, 3)
    o = np.repeat(poses[:, :3, 3], len(way), 0)
    t, piece, _ = space.world.cast(o, d, 50.0)
    pieces = space.scene.pieces
    things = np.array([k >= 0 and pieces[k].obstacle and pieces[k].group not in gone for k in piece])
    return float(things.mean() + 0.08 * np.minimum(t, 4.0).mean() - 0.3 * (t < 0.5).mean())


def steps_are_free(space: Space, walk: NDArray[np.float32]) -> bool:
    """Return whether no wall lies between neighbouring poses."""
    a, b = walk[:-1, :3, 3], walk[1:, :3, 3]
    t, piece, _ = space.world.cast(a, b - a, 1.0)
    hit = [p >= 0 and t_ < 1 and space.scene.pieces[p].fixed for p, t_ in zip(piece, t, strict=True)]
    return not any(hit)


def surroundings(bank: MeshBank, rng: np.random.Generator, indoors: bool = False) -> Surroundings:
    """Draw what is outside the windows, and the light from all sides."""
    numbers = bank.images.get("indoors" if indoors else "outdoors", ()) or bank.images.get("indoors", ())
    level = 0.25 + 0.5 * rng.random()
    warm = 1 + 0.12 * rng.normal(size=3).clip(-1.5, 1.5)
    below, above = level * (0.6 + 0.5 * rng.random()) * warm, level * (0.8 + 0.5 * rng.random()) * (2 - warm)
    return Surroundings(
        int(rng.choice(numbers)) if len(numbers) else -1, (float(rng.normal(0, 0.5)), float(rng.normal(0, 0.5)), 1.4),
        float(15 + 45 * rng.random()), float(rng.random()), float(0.7 + 1.8 * rng.random()), tuple(below), tuple(above),
        float(0.7 + 1.2 * rng.random()),
    )  # fmt: skip


def room_scene(
    bank: MeshBank, views: int, rng: np.random.Generator, generator: torch.Generator
) -> tuple[MeshScene, Tensor]:
    """Draw a furnished room and a walk through it."""
    for attempt in range(8):
        plan = draw_plan(rng, 0.35 if attempt < 4 else 0.0)
        photo = -1
        around = surroundings(bank, rng)
        if rng.random() < PHOTO_BOXES and bank.images.get("indoors"):
            around = surroundings(bank, rng, indoors=True)
            photo = around.panorama
        scene = make_room(bank, rng, plan, around, photo)
        space = Space(scene, (float(plan.size[0]), float(plan.size[1]), plan.height), np.zeros(2), plan)
        walk = walk_through(space, views, generator, 6, 4)
        if walk is not None:
            return scene, walk
    raise RuntimeError("no room with a free walk in eight draws: the furniture leaves no space")


def world_scene(
    bank: MeshBank, views: int, rng: np.random.Generator, generator: torch.Generator
) -> tuple[MeshScene, Tensor] | None:
    """Draw a walk through one of the worlds' layouts, furnished as it is, None where no free walk was found."""
    name = str(rng.choice(sorted(bank.layouts)))
    layout = bank.layouts[name]
    scene = MeshScene(bank, around=surroundings(bank, rng))
    stylist = Stylist(bank, rng)
    for placement in layout["placements"]:
        shape = bank.shapes[placement["mesh"]]
        rows = stylist.of_shape(shape) if rng.random() < 0.3 else plain_rows(bank, stylist, shape)
        scene.add(placement["mesh"], np.array(placement["matrix"]), rows, fixed=True)
    boxes = np.array([scene.box_of(p) for p in scene.pieces])
    low, high = boxes[:, 0].min(0), boxes[:, 1].max(0)
    ground = stylist.surface("floor")
    scene.add(
        QUAD,
        quad([*(low + high)[:2] / 2, -0.02], [high[0] - low[0], 0, 0], [0, high[1] - low[1], 0]),
        ground,
        fixed=True,
        obstacle=False,
    )
    world = HostWorld(scene)
    for _ in range(12):
        size = np.array([2.5 + 3.5 * rng.random(), 2.5 + 3.5 * rng.random()])
        middle = low[:2] + (high - low)[:2] * rng.random(2)
        # Inside of the building: something above, something not far on every side.
        angle = np.arange(12) * (math.pi / 6)
        side = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
        eye = np.array([*middle, 1.3])
        t, _, _ = world.cast(np.broadcast_to(eye, side.shape), side, 60.0)
        up, _, _ = world.cast(eye[None], np.array([[0, 0, 1.0]]), 40.0)
        down, _, _ = world.cast(eye[None], np.array([[0, 0, -1.0]]), 3.0)
        if (t < 60).sum() < 10 or t.min() < 0.4 or down[0] > 1.6 or (up[0] > 30 and rng.random() < 0.8):
            continue
        height = float(min(2.6, 1.3 + up[0] if up[0] < 30 else 2.6))
        space = Space(scene, (float(size[0]), float(size[1]), height), middle, None)
        walk = walk_through(space, views, generator, 3, 10)
        if walk is not None:
            lamps = [np.array(p) for p in layout["lights"]]
            lamps = sorted(lamps, key=lambda p: float(np.linalg.norm(p[:2] - middle)))[:3]
            for p in lamps or [np.array([*middle, height - 0.1])]:
                power = (1.0 + 2.0 * rng.random()) * np.array([1.0, 0.94, 0.86])
                scene.lights.append((Light(tuple(map(float, p)), tuple(power), (0.2, 0, 0), (0, 0.2, 0)), 0))
            return scene, walk
    return None


def plain_rows(bank: MeshBank, stylist: Stylist, shape: Any) -> NDArray[np.float32]:
    """Return a packed mesh's own materials; large surfaces without a texture get one."""
    rows = []
    for m in shape.materials:
        if m["texture"] is None and max(shape.size) > 1.5 and m["opacity"] > 0.9:
            kind = (
                "floor"
                if shape.size[2] < 0.3 or "floor" in shape.name.lower() or "carpet" in shape.name.lower()
                else "wall"
            )
            rows.append(stylist.surface(kind, LOCAL_METRES))
            continue
        rows.append(
            material(
                bank, -1 if m["texture"] is None else m["texture"], tint=np.minimum(m["colour"], 0.95),
                opacity=m["opacity"],
                cutout=m["cutout"], emission=m["emission"], specular=0.3 * m["specular"], shininess=m["shininess"],
            )
        )  # fmt: skip
    return np.stack(rows)


def plan_mesh_scenes(
    config: SceneConfig,
    bank: MeshBank,
    batch: int,
    views: int,
    size: tuple[int, int],
    generator: torch.Generator,
) -> MeshPlan:
    """Draw `batch` mesh scenes and a walk of `views` poses through each; the bank's catalogue on the CPU is enough.

    generator: on the CPU, is advanced. The same seed and bank give the same plan.
    """
    tables, walks, intrinsics = [], [], []
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    for _ in range(batch):
        drawn = None
        if bank.layouts and rng.random() < WORLDS:
            drawn = world_scene(bank, views, rng, generator)
        scene, walk = drawn or room_scene(bank, views, rng, generator)
        table = scene.tables()
        table.pop("order")
        tables.append(table)
        walks.append(walk)
        intrinsics.append(draw_intrinsics(Dice(1, generator, "cpu", 16), views, size, config.fov)[0])
    joined = join_tables(tables)
    u = torch.from_numpy(rng.random((batch, 3))).float()
    exposure = 1 + config.exposure * (2 * torch.from_numpy(rng.random((batch, views))).float() - 1)
    noise = 255 * config.noise * u[:, 0].reshape(-1, 1, 1, 1, 1) ** 2
    grain = int(rng.integers(1, 2**31)) if config.noise > 0 else 0
    return MeshPlan(
        **joined, c2w=torch.stack(walks), fxfycxcy=torch.stack(intrinsics).contiguous(), exposure=exposure,
        key=0.10 + 0.12 * u[:, 1],
        gamma=2.0 + 0.4 * u[:, 2], noise=noise, grain=grain, size=size,
    )  # fmt: skip


assert MARGIN < 1.0  # Space measures distances up to a metre
