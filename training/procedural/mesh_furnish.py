"""Furnish a room with meshes: pieces against walls, tables with seats, lamps, rugs, plants, pictures, clutter on
what is flat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mesh_bank import MeshBank, Shape
from .mesh_materials import Stylist
from .mesh_scene import LOCAL_METRES, HostWorld, Light, Piece, Scene, material
from .mesh_shell import BOX, CYLINDER, QUAD, SPHERE, RoomPlan, Shell, Wall, block, frame, quad, standing

THEMES = ("Living room", "Kitchen", "Bedroom", "Office", "Bathroom")


@dataclass(eq=False)
class Footprint:
    """A rectangle on the floor: centre [2], half sides [2], its axes [2, 2] as rows; low, high: its reach in z."""

    centre: NDArray[np.float64]
    half: NDArray[np.float64]
    axes: NDArray[np.float64]
    low: float
    high: float

    def corners(self) -> NDArray[np.float64]:
        signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        return self.centre + (signs * self.half) @ self.axes

    def meets(self, other: Footprint, gap: float = 0.02) -> bool:
        """Return whether two rectangles overlap or come nearer than gap, metres."""
        if self.low >= other.high - 1e-3 or other.low >= self.high - 1e-3:
            return False
        d = other.centre - self.centre
        for axis in (*self.axes, *other.axes):
            reach = np.abs(self.axes @ axis) @ self.half + np.abs(other.axes @ axis) @ other.half
            if abs(d @ axis) > reach + gap:
                return False
        return True


class Furnisher:
    """Fills one room. `scene` grows; lamps' lights go with the group of their piece."""

    def __init__(self, scene: Scene, plan: RoomPlan, stylist: Stylist, rng: np.random.Generator) -> None:
        self.scene, self.plan, self.stylist, self.rng = scene, plan, stylist, rng
        self.bank: MeshBank = scene.bank
        self.placed: list[Footprint] = []
        self.supports: list[tuple[Piece, float]] = []  # with how likely something stands on it
        self.theme = str(rng.choice([*THEMES, "any"], p=[0.28, 0.16, 0.17, 0.19, 0.06, 0.14]))
        self.lit = bool(rng.random() < 0.75)
        self.choices: dict[tuple[tuple[str, ...], float], tuple[list[int], NDArray[np.float64]]] = {}
        for wall in plan.walls:
            for o in wall.openings:
                if o.kind != "window":  # a door needs room
                    at = wall.a + wall.along * (o.start + o.end) / 2 + wall.inward * 0.45
                    self.placed.append(
                        Footprint(
                            at,
                            np.array([(o.end - o.start) / 2, 0.45]),
                            np.stack([wall.along, wall.inward]),
                            0.0,
                            2.0,
                        )
                    )

    def choose(self, *roles: str, most: float = 9.0) -> int | None:
        """Return a mesh of a role, rather one of the room's theme; most: its longest side, metres."""
        key = (roles, most)
        if key not in self.choices:
            numbers = [
                n
                for role in roles
                for n in self.bank.roles.get(role, ())
                if max(self.bank.shapes[n].size) <= most
            ]
            kinds = [self.bank.shapes[n].category for n in numbers]
            shares = [
                1.0 if self.theme in ("any", k) else 0.5 if k == "Miscellaneous" else 0.1 for k in kinds
            ]
            self.choices[key] = (numbers, np.cumsum(shares))
        numbers, total = self.choices[key]
        return numbers[int(np.searchsorted(total, self.rng.random() * total[-1]))] if numbers else None

    def put(
        self, number: int, at: Any, z: float, yaw_back: Any, *, group: int | None = None, solid: bool = False,
        obstacle: bool = True,
        fixed: bool = False, stretch: Any = None, check: bool = True, gap: float = 0.02,
    ) -> Piece | None:  # fmt: skip
        """Put a mesh at a point [2] of the plan with its back towards a direction [2]; None where it does not fit."""
        shape = self.bank.shapes[number]
        scale = np.ones(3) if stretch is None else np.array(stretch, float)
        matrix = standing(at, z, -np.asarray(yaw_back), scale)
        print_ = self.footprint(shape, matrix)
        if check and (
            not self.plan.inside(print_.corners(), 0.005).all()
            or any(print_.meets(p, gap) for p in self.placed)
        ):
            return None
        if obstacle and check:
            self.placed.append(print_)
        if group is None:
            group = self.scene.groups
            self.scene.groups += 1
        piece = self.scene.add(
            number,
            matrix,
            self.stylist.of_shape(shape, self.lit),
            group=group,
            solid=solid,
            obstacle=obstacle,
            fixed=fixed,
        )
        self.lamps(shape, piece)
        return piece

    def footprint(self, shape: Shape, matrix: NDArray[np.float64]) -> Footprint:
        low, high = np.array(shape.low), np.array(shape.high)
        middle = matrix @ np.array([*(low + high) / 2, 1.0])
        x, y = matrix[:2, 0], matrix[:2, 1]
        lengths = np.array([np.linalg.norm(x), np.linalg.norm(y)])
        scale_z = matrix[2, 2]
        return Footprint(
            middle[:2], (high - low)[:2] / 2 * lengths, np.stack([x, y]) / np.maximum(lengths[:, None], 1e-9),
            float(matrix[2, 3] + low[2] * scale_z), float(matrix[2, 3] + high[2] * scale_z),
        )  # fmt: skip

    def stretch(self, mirror: bool = True) -> NDArray[np.float64]:
        """Draw a slight change of size, and a mirror image for half of the pieces."""
        rng = self.rng
        scale = np.full(3, math.exp(rng.normal(0, 0.06))) * np.exp(rng.normal(0, 0.03, 3))
        if mirror and rng.random() < 0.5:
            scale[0] *= -1
        return scale

    def lamps(self, shape: Shape, piece: Piece) -> None:
        """Let the lamps of a piece shine."""
        if not self.lit or len(self.scene.lights) >= 4:
            return
        for lamp in shape.lamps[:1]:
            local = np.array(shape.low) + np.array(lamp) * np.array(shape.size)
            if shape.role == "ceiling":
                local[2] = shape.low[2] - 0.04  # below the shade
            at = (piece.matrix @ np.array([*local, 1.0]))[:3]
            strong = 1.0 if shape.role == "ceiling" else 0.3
            self.scene.lights.append((Light(tuple(at), tuple(strong * self.lamp_power())), piece.group))

    def lamp_power(self) -> NDArray[np.float64]:
        warm = self.rng.random()
        return np.asarray(
            (0.5 + 1.6 * self.rng.random()) * np.array([1.0, 0.93 - 0.15 * warm, 0.85 - 0.4 * warm])
        )

    # What stands in the room.

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

    def rugs(self) -> None:
        rng = self.rng
        for _ in range(int(rng.choice([0, 1, 2], p=[0.45, 0.4, 0.15]))):
            at = (rng.random(2) * 2 - 1) * (self.plan.size / 2 - 0.6)
            number = self.choose("rug")
            if number is not None and rng.random() < 0.4:
                self.put(number, at, 0.001, [0.0, 1.0], obstacle=False, check=False)
                continue
            size = np.array([0.5 + 1.2 * rng.random(), 0.5 + 1.6 * rng.random(), 0.012])
            yaw = rng.normal(0, 0.05) if rng.random() < 0.7 else rng.random() * 3
            corners = Footprint(
                at,
                size[:2],
                np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]]),
                0,
                1,
            ).corners()
            if not self.plan.inside(corners).all():
                continue
            rows = self.stylist.surface("cloth", LOCAL_METRES, metres=1.0)
            rows[2:4] = 0.4 + 2 * rng.random()  # its coordinates are the unit cube's
            shape = CYLINDER if rng.random() < 0.25 else BOX
            self.scene.add(shape, block([*at, 0.006], size * [2, 2, 1], yaw), rows, obstacle=False)

    def ceiling(self) -> None:
        rng, plan = self.rng, self.plan
        count = int(rng.choice([0, 1, 2, 3], p=[0.12, 0.5, 0.25, 0.13]))
        kind = rng.random()
        for _ in range(count):
            at = (rng.random(2) * 2 - 1) * (plan.size / 2 - 0.5)
            if not plan.inside(at[None], 0.3).all():
                continue
            number = self.choose("ceiling")
            if kind < 0.55 and number is not None:
                shape = self.bank.shapes[number]
                group = self.scene.groups
                self.scene.groups += 1
                piece = self.put(
                    number,
                    at,
                    plan.height - shape.high[2] - 0.002,
                    [1.0, 0.0],
                    obstacle=False,
                    check=False,
                    group=group,
                )
                if piece is not None and not shape.lamps and self.lit and len(self.scene.lights) < 4:
                    below = (*at, plan.height - shape.size[2] - 0.05)
                    self.scene.lights.append(
                        (Light(tuple(map(float, below)), tuple(self.lamp_power())), group)
                    )
            elif kind < 0.85:  # a glowing panel
                size = (
                    np.array([0.3, 0.6]) * (1 + rng.random())
                    if rng.random() < 0.7
                    else np.full(2, 0.25 + 0.3 * rng.random())
                )
                glow = material(
                    self.bank, tint=(1, 1, 0.97), emission=2.0 + 3 * rng.random() if self.lit else 0.3
                )
                self.scene.add(
                    QUAD,
                    quad([*at, plan.height - 0.012], [size[0], 0, 0], [0, -size[1], 0]),
                    glow,
                    fixed=True,
                    obstacle=False,
                )
                self.scene.add(
                    BOX,
                    block([*at, plan.height - 0.005], [size[0] + 0.04, size[1] + 0.04, 0.01]),
                    self.stylist.plain(0.8),
                    fixed=True,
                    obstacle=False,
                )
                if self.lit and len(self.scene.lights) < 4:
                    self.scene.lights.append((
                        Light((*at, plan.height - 0.03), tuple(1.3 * self.lamp_power()), (size[0] / 2, 0.0, 0.0),
                        (0.0, size[1] / 2, 0.0), (0.0, 0.0, -1.0)), 0,
                    ))  # fmt: skip
            else:  # a globe on a cable
                drop, radius = 0.2 + 0.6 * rng.random(), 0.08 + 0.14 * rng.random()
                z = plan.height - drop - radius
                glow = material(self.bank, tint=(1, 0.96, 0.88), emission=2.5 if self.lit else 0.2)
                self.scene.add(
                    SPHERE, block([*at, z], np.full(3, 2 * radius)), glow, fixed=True, obstacle=False
                )
                self.scene.add(
                    CYLINDER,
                    block([*at, plan.height - drop / 2], [0.012, 0.012, drop]),
                    self.stylist.plain(0.1),
                    fixed=True,
                    obstacle=False,
                )
                if self.lit and len(self.scene.lights) < 4:
                    self.scene.lights.append(
                        (
                            Light(
                                (*at, z - radius - 0.03),
                                tuple(self.lamp_power()),
                                (radius, 0.0, 0.0),
                                (0.0, radius, 0.0),
                            ),
                            0,
                        )
                    )

    def on_wall(self) -> None:
        """A picture, a mirror, a shelf, or what hangs on walls."""
        rng, plan = self.rng, self.plan
        kind = rng.random()
        wall = plan.walls[int(rng.integers(len(plan.walls)))]
        if kind < 0.2:
            number = self.choose("hung")
            if number is None:
                return
            shape = self.bank.shapes[number]
            width, depth, height = shape.size
            z = min(shape.elevation, plan.height - height - 0.03)
            s = width / 2 + (wall.length - width) * rng.random()
            if z < 0 or not wall.free(s - width / 2, s + width / 2, z, z + height):
                return
            at = wall.a + wall.along * s + wall.inward * (depth / 2 + 0.004)
            print_ = self.footprint(shape, standing(at, z, wall.inward))
            if any(print_.meets(p, 0.0) for p in self.placed):
                return
            wall.taken.append((s - width / 2, s + width / 2, z, z + height))
            piece = self.put(number, at, z, -wall.inward, check=False)
            if piece is not None:
                self.placed.append(print_)
                self.supports.append((piece, 0.7))
            return
        rows, aspect = self.stylist.print(emission=0.8 if rng.random() < 0.08 else 0.0)
        width = 0.18 + 0.9 * rng.random() ** 1.6
        height = min(width / max(aspect, 0.3), plan.height - 0.6)
        s = width / 2 + 0.05 + (wall.length - width - 0.1) * rng.random()
        z = 1.0 + 0.5 * rng.random()
        if kind < 0.38:  # a board with things on it
            height, z, deep = 0.03, 0.7 + 1.1 * rng.random(), 0.12 + 0.18 * rng.random()
            width = 0.4 + 1.0 * rng.random()
        z = min(z, plan.height - height - 0.05)
        if not wall.free(s - width / 2, s + width / 2, z, z + height + (0.25 if kind < 0.38 else 0.0)):
            return
        wall.taken.append((s - width / 2, s + width / 2, z, z + height))
        yaw = float(np.arctan2(wall.along[1], wall.along[0]))
        at = wall.a + wall.along * s
        group = self.scene.groups
        self.scene.groups += 1
        if kind < 0.38:
            board = self.stylist.surface("wood", LOCAL_METRES)
            board[2:4] = 1.0 + rng.random()
            middle = at + wall.inward * deep / 2
            box = block([*middle, z], [width, deep, 0.025], yaw)
            print_ = self.footprint(self.bank.shapes[BOX], box)
            print_.high += 0.3
            if any(print_.meets(p, 0.0) for p in self.placed):
                return
            self.placed.append(print_)
            self.supports.append((self.scene.add(BOX, box, board, group=group), 3.0))
            return
        rim, thick = 0.03 * rng.random(), 0.012 + 0.02 * rng.random()
        if kind > 0.93:
            rows = material(self.bank, tint=(0.5, 0.5, 0.5), mirror=0.85)
        centre = np.array([*(at + wall.inward * (thick + 0.002)), z + height / 2])
        # Seen from the room, the picture's left is towards the wall's far end.
        along = np.array([*wall.along, 0.0])
        self.scene.add(QUAD, quad(centre, -along * width, [0, 0, height]) if np.cross(-along, [0, 0,
        1])[:2] @ wall.inward > 0
                       else quad(centre, along * width, [0, 0, height]), rows, group=group, obstacle=False)  # fmt: skip
        back = [*(at + wall.inward * thick / 2), z + height / 2]
        self.scene.add(
            BOX,
            block(back, [width + 2 * rim, thick, height + 2 * rim], yaw),
            self.stylist.plain(0.2),
            group=group,
            obstacle=False,
        )

    def pipes(self) -> None:
        """Thin tubes along walls and under the ceiling."""
        rng, plan = self.rng, self.plan
        rows = self.stylist.plain(0.5, specular=0.2)
        for _ in range(int(rng.integers(1, 4))):
            wall = plan.walls[int(rng.integers(len(plan.walls)))]
            radius = 0.008 + 0.03 * rng.random() ** 2
            off = wall.inward * (radius + 0.02)
            if rng.random() < 0.5:
                at = wall.a + wall.along * wall.length * rng.random() + off
                self.scene.add(
                    CYLINDER,
                    block([*at, plan.height / 2], [2 * radius, 2 * radius, plan.height]),
                    rows,
                    fixed=True,
                    obstacle=False,
                )
            else:
                z = plan.height - 0.05 - 0.3 * rng.random()
                middle = (wall.a + wall.b) / 2 + off
                along = np.array([*wall.along, 0.0])
                self.scene.add(
                    CYLINDER, frame([*middle, z], [0, 0, 2 * radius], [*(wall.inward * 2 * radius), 0],
                    along * wall.length), rows,
                    fixed=True, obstacle=False,
                )  # fmt: skip

    def solids(self) -> None:
        """Boxes, columns and balls with pictures or patterns on them: what no catalogue has."""
        rng = self.rng
        shape = int(rng.choice([BOX, BOX, CYLINDER, SPHERE]))
        size = np.full(3, 0.15 + 0.5 * rng.random()) * (
            np.ones(3) if shape == SPHERE else 0.4 + 1.2 * rng.random(3)
        )
        if shape == CYLINDER:
            size[1] = size[0]
        at = (rng.random(2) * 2 - 1) * (self.plan.size / 2 - 0.4)
        yaw = rng.random() * 6
        matrix = block([*at, size[2] / 2], size, yaw)
        print_ = self.footprint(self.bank.shapes[shape], matrix)
        if not self.plan.inside(print_.corners(), 0.02).all() or any(print_.meets(p) for p in self.placed):
            return
        self.placed.append(print_)
        rows = self.stylist.surface("any", LOCAL_METRES) if rng.random() < 0.6 else self.stylist.print()[0]
        if rows[1] == LOCAL_METRES:
            rows[2:4] = 0.6 + 1.5 * rng.random()
        group = self.scene.groups
        self.scene.groups += 1
        self.supports.append(
            (self.scene.add(shape, matrix, rows, group=group, solid=True), 0.6 if shape == BOX else 0.0)
        )

    # What stands on it.

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
) -> Scene:
    """Return a furnished room."""
    scene = Scene(bank, around=around)
    stylist = Stylist(bank, rng)
    shell = Shell(scene, plan, stylist, rng, photo)
    shell.build()
    Furnisher(scene, plan, stylist, rng).furnish()
    return scene
