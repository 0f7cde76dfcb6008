"""What belongs to a room beside furniture: ceiling lamps, rugs, pictures and shelves on walls, tubes, plain solids."""

from __future__ import annotations

import math

import numpy as np

from .floorplan import BOX, CYLINDER, QUAD, SPHERE, block, frame, quad, standing
from .placing import Footprint, Placing
from .scene import LOCAL_METRES, Light, material


class Fittings(Placing):
    """Adds what belongs to a room."""

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
