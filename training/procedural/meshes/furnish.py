"""Furnish a room with meshes: pieces against walls, tables with seats, plants and people, clutter on what is flat."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bank import MeshBank
from .fittings import Fittings
from .floorplan import BOX, CYLINDER, SPHERE, RoomPlan, Wall, block
from .materials import Stylist
from .scene import LOCAL_METRES, HostWorld, MeshScene
from .shell import Shell


class Furnisher(Fittings):
    """Fills one room."""

    def furnish(self) -> None:
        rng = self.rng
        area = float(np.prod(self.plan.size))
        dense = 0.5 + 1.0 * rng.random()
        self.ceiling()
        self.rugs()
        wide = sum(w.length for w in self.plan.walls)
        for _ in range(int(wide * 1.0 * dense)):
            self.against_wall()
        for _ in range(int(1 + area / 7 * dense * rng.random() * 1.5)):
            self.table_group()
        for _ in range(int(area / 5 * dense)):
            self.anywhere()
        for _ in range(int(rng.integers(1, 8))):
            self.on_wall()
        if rng.random() < 0.35:
            self.pipes()
        for _ in range(int(rng.integers(0, 5))):
            self.solids()
        self.clutter(int(8 + 40 * rng.random() * dense))

    def wall_spot(self, width: float, depth: float) -> tuple[Wall, float] | None:
        walls = [w for w in self.plan.walls if w.length > width + 0.1]
        if not walls:
            return None
        wall = walls[int(self.rng.integers(len(walls)))]
        return wall, float(width / 2 + 0.03 + (wall.length - width - 0.06) * self.rng.random())

    def against_wall(self) -> None:
        rng = self.rng
        number = (
            self.choose("wall", "wall", "desk", "plant", "small")
            if rng.random() < 0.85
            else self.choose("seat", "wall")
        )
        if number is None:
            return
        shape = self.bank.shapes[number]
        for _ in range(5):
            scale = self.stretch()
            width, depth, height = np.abs(scale) * shape.size
            spot = self.wall_spot(width, depth)
            if spot is None:
                return
            wall, s = spot
            if height > 0.7 and not wall.free(s - width / 2, s + width / 2, 0.0, height, 0.0):
                continue
            at = wall.a + wall.along * s + wall.inward * (depth / 2 + 0.015 + 0.05 * rng.random() ** 3)
            middle = (np.array(shape.low) + shape.high)[:2] / 2 * np.abs(scale[:2])
            piece = self.put(
                number,
                at - wall.along * middle[0],
                0.0,
                -wall.inward,
                stretch=scale,
                solid=shape.role == "wall",
            )
            if piece is not None:
                wall.taken.append((s - width / 2, s + width / 2, 0.0, height))
                self.supports.append((piece, 1.5 if shape.role == "desk" else 1.0))
                return

    def table_group(self) -> None:
        """A table, often with seats around it."""
        rng = self.rng
        number = self.choose("desk")
        if number is None:
            return
        shape = self.bank.shapes[number]
        half = self.plan.size / 2
        for _ in range(6):
            at = (rng.random(2) * 2 - 1) * (half - 0.6)
            angle = rng.integers(4) * math.pi / 2 + (
                rng.normal(0, 0.06) if rng.random() < 0.7 else rng.random() * 6
            )
            back = np.array([math.cos(angle), math.sin(angle)])
            table = self.put(number, at, 0.0, back, stretch=self.stretch(), gap=0.1)
            if table is None:
                continue
            self.supports.append((table, 3.0))
            seat = self.choose("seat", most=1.15)
            if seat is None or rng.random() < 0.2:
                return
            print_ = self.footprint(shape, table.matrix)
            chair = self.bank.shapes[seat]
            look = float(rng.random())
            for side in (-1, 1):
                for axis in (0, 1):
                    places = max(1, int(print_.half[1 - axis] * 2 / (chair.size[0] + 0.15)))
                    for k in range(places):
                        if rng.random() < 0.35:
                            continue
                        outward = print_.axes[axis] * side
                        along = print_.axes[1 - axis] * ((k + 0.5) / places * 2 - 1) * print_.half[1 - axis]
                        gap = -0.25 + 0.5 * rng.random() ** 2 * (1 + look)
                        spot = print_.centre + along + outward * (print_.half[axis] + chair.size[1] / 2 + gap)
                        turn = rng.normal(0, 0.2)
                        c, s = math.cos(turn), math.sin(turn)
                        back = np.array([c * outward[0] - s * outward[1], s * outward[0] + c * outward[1]])
                        # Chairs may stand under the table: their own place is checked against the rest.
                        self.placed = [p for p in self.placed if p is not print_]
                        mine = [
                            p
                            for p in self.placed
                            if np.allclose(p.centre, print_.centre) and np.allclose(p.half, print_.half)
                        ]
                        self.placed = [p for p in self.placed if not any(p is m for m in mine)]
                        self.put(seat, spot, 0.0, back, gap=0.0)
                        self.placed += mine
            return

    def anywhere(self) -> None:
        rng = self.rng
        number = (
            self.choose("seat", "free", "small", "plant", "plant", "wall")
            if rng.random() < 0.88
            else self.choose("person")
        )
        if number is None:
            return
        half = self.plan.size / 2
        for _ in range(4):
            angle = rng.random() * 2 * math.pi if rng.random() < 0.5 else rng.integers(4) * math.pi / 2
            at = (rng.random(2) * 2 - 1) * (half - 0.25)
            piece = self.put(
                number,
                at,
                0.0,
                [math.cos(angle), math.sin(angle)],
                stretch=self.stretch(),
                solid=self.bank.shapes[number].role == "wall",
            )
            if piece is not None:
                self.supports.append((piece, 0.25))
                return

    def clutter(self, count: int) -> None:
        """Put small things on flat places of the furniture, which rays from above find."""
        if not self.supports or not count:
            return
        rng = self.rng
        world = HostWorld(self.scene)
        numbers = [self.scene.pieces.index(p) for p, _ in self.supports]
        weights = np.array([w for _, w in self.supports]) + 1e-9
        each = 40
        chosen = rng.choice(len(self.supports), size=3 * count, p=weights / weights.sum())
        spots: list[tuple[NDArray[Any], float, int]] = []
        origin, radius, owner = [], [], []
        for k in chosen:
            piece = self.supports[k][0]
            low, high = self.scene.box_of(piece)
            n = max(2, each // 20)
            xy = low[:2] + (high - low)[:2] * rng.random((n, 2))
            z = np.where(rng.random(n) < 0.5, high[2] + 0.01, low[2] + (high[2] - low[2]) * rng.random(n))
            origin.append(np.concatenate([xy, z[:, None]], 1))
            radius.append(0.02 + 0.16 * rng.random(n) ** 2)
            owner.append(np.full(n, k))
        o, r, w = np.concatenate(origin), np.concatenate(radius), np.concatenate(owner)
        ring = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], float)
        start = np.repeat(o[:, None], 5, 1)
        start[..., :2] += ring * r[:, None, None]
        down = np.broadcast_to([0, 0, -1.0], start.shape).reshape(-1, 3)
        t, piece_hit, normal = world.cast(start.reshape(-1, 3), down, 1.2)
        t, piece_hit, normal = t.reshape(-1, 5), piece_hit.reshape(-1, 5), normal.reshape(-1, 5, 3)
        good = (
            (piece_hit == np.array(numbers)[w][:, None]).all(1)
            & (np.ptp(t, 1) < 0.012)
            & (normal[..., 2] > 0.95).all(1)
        )
        floor = o[:, 2] - t[:, 0]
        top = o.copy()
        top[:, 2] = floor + 0.005
        free, _, _ = world.cast(top, np.broadcast_to([0, 0, 1.0], top.shape), 5.0)
        for i in np.flatnonzero(good & (floor > 0.12)):
            if len(spots) >= count:
                break
            at = np.array([o[i, 0], o[i, 1], floor[i]])
            if any(
                np.linalg.norm(at[:2] - p[:2]) < r[i] + q and abs(at[2] - p[2]) < 0.5 for p, q, _ in spots
            ):
                continue
            if self.small_thing(at, float(r[i]), float(free[i]), self.supports[w[i]][0].group):
                spots.append((at, float(r[i]), int(w[i])))

    def small_thing(self, at: NDArray[Any], radius: float, room: float, group: int) -> bool:
        """Put something of at most this radius and height somewhere; return whether anything fits."""
        rng = self.rng
        angle = rng.random() * 2 * math.pi
        back = np.array([math.cos(angle), math.sin(angle)])
        if rng.random() < 0.78:
            for _ in range(6):
                number = self.choose("clutter")
                if number is None:
                    break
                shape = self.bank.shapes[number]
                scale = self.stretch()
                reach = math.hypot(*shape.size[:2]) / 2 * float(np.abs(scale[:2]).max())
                if reach < radius * 1.15 and reach > 0.25 * radius and shape.size[2] * scale[2] < room:
                    self.put(number, at[:2], at[2] + 0.001, back, group=group, check=False, stretch=scale)
                    return True
        shape = int(rng.choice([BOX, BOX, CYLINDER, SPHERE]))
        size = np.array([1.2, 0.4 + 0.9 * rng.random(), 0.1 + 2.2 * rng.random()]) * radius
        if shape != BOX:
            size[1] = size[0]
        if shape == SPHERE:
            size[2] = size[0]
        if size[2] > room:
            return False
        rows = (
            self.stylist.print()[0]
            if rng.random() < 0.45
            else self.stylist.surface("any", LOCAL_METRES)
            if rng.random() < 0.6
            else self.stylist.plain(0.1)
        )
        if rows[1] == LOCAL_METRES:
            rows[2:4] = 0.5 + rng.random()
        self.scene.add(
            shape, block([at[0], at[1], at[2] + size[2] / 2 + 0.0005], size, angle), rows, group=group
        )
        return True


def make_room(
    bank: MeshBank, rng: np.random.Generator, plan: RoomPlan, around: Any, photo: int = -1
) -> MeshScene:
    """Return a furnished room."""
    scene = MeshScene(bank, around=around)
    stylist = Stylist(bank, rng)
    shell = Shell(scene, plan, stylist, rng, photo)
    shell.build()
    Furnisher(scene, plan, stylist, rng).furnish()
    return scene
