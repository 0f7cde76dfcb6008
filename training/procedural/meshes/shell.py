"""The shell of a room: floor, walls with doors and windows, ceiling, skirting boards; box-shaped or L-shaped."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bank import MeshBank
from .floorplan import BOX, QUAD, SPHERE, Opening, RoomPlan, Wall, block, quad, standing
from .materials import Stylist
from .scene import PANORAMA, Light, MeshScene, material


class Shell:
    """Builds the shell of a room into a scene. photo: an indoor panorama's number, seen on all of its surfaces."""

    def __init__(
        self, scene: MeshScene, plan: RoomPlan, stylist: Stylist, rng: np.random.Generator, photo: int = -1
    ) -> None:
        self.scene, self.plan, self.stylist, self.rng, self.photo = scene, plan, stylist, rng, photo
        self.bank: MeshBank = scene.bank
        self.trim = stylist.plain(0.8) if rng.random() < 0.6 else stylist.surface("wood", metres=0.8)
        self.style_walls = [stylist.surface("wall") for _ in range(2)]
        self.cut_openings()

    def cut_openings(self) -> None:
        """Choose doors and windows."""
        rng, plan = self.rng, self.plan
        sides = [w for w in plan.walls if w.length > 1.3]
        for kind, count in (
            ("door", 1 + int(rng.random() < 0.35)),
            ("window", int(rng.choice([0, 1, 2, 3], p=[0.15, 0.4, 0.3, 0.15]))),
        ):
            for _ in range(count):
                wall = sides[int(rng.integers(len(sides)))]
                if kind == "door":
                    width, low, high = (
                        0.82 + 0.3 * rng.random() ** 2,
                        0.0,
                        min(2.0 + 0.15 * rng.random(), plan.height - 0.1),
                    )
                    kind_of = "doorway" if rng.random() < 0.45 else "door"
                else:
                    kind_of = "window"
                    width = min(0.6 + 1.8 * rng.random(), wall.length - 0.3)
                    low = 0.05 if rng.random() < 0.2 else 0.6 + 0.5 * rng.random()
                    high = min(low + 0.7 + 1.1 * rng.random(), plan.height - 0.12)
                start = 0.12 + (wall.length - width - 0.24) * rng.random()
                if (
                    wall.length - width < 0.3
                    or high - low < 0.4
                    or not wall.free(start, start + width, 0.0, plan.height, 0.15)
                ):
                    continue
                wall.openings.append(Opening(start, start + width, low, high, kind_of))
                wall.taken.append(
                    (start - 0.06, start + width + 0.06, 0.0 if kind == "door" else low - 0.05, high + 0.08)
                )

    def row(self, kind: str, **how: Any) -> NDArray[np.float32]:
        if self.photo >= 0:
            return material(self.bank, self.photo, mode=PANORAMA, shift=(self.scene.around.yaw, 0.0))
        return self.stylist.surface(kind, **how)

    def build(self) -> None:
        """Add floor, ceiling and walls."""
        plan, scene = self.plan, self.scene
        for kind, z in (("floor", 0.0), ("ceiling", plan.height)):
            rows = self.row(kind)
            for low, high in self.floor_parts():
                middle, side = (low + high) / 2, high - low
                y = side[1] if kind == "floor" else -side[1]
                scene.add(
                    QUAD, quad([*middle, z], [side[0], 0, 0], [0, y, 0]), rows, fixed=True, obstacle=False
                )
        accent = int(self.rng.integers(len(plan.walls))) if self.rng.random() < 0.4 else -1
        for k, wall in enumerate(plan.walls):
            rows = self.style_walls[int(k == accent)] if self.photo < 0 else self.row("wall")
            self.wall(wall, rows)

    def floor_parts(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        half = self.plan.size / 2
        if self.plan.notch is None:
            return [(-half, half)]
        low, high = self.plan.notch
        x_low, x_high = (high[0], half[0]) if low[0] <= -half[0] + 1e-9 else (-half[0], low[0])
        y_low, y_high = (high[1], half[1]) if low[1] <= -half[1] + 1e-9 else (-half[1], low[1])
        return [
            (np.array([x_low, -half[1]]), np.array([x_high, half[1]])),
            (np.array([low[0], y_low]), np.array([high[0], y_high])),
        ]

    def piece(
        self,
        wall: Wall,
        start: float,
        end: float,
        low: float,
        high: float,
        rows: NDArray[Any],
        out: float = 0.0,
    ) -> None:
        """Add a rectangle of a wall, `out` metres behind its plane."""
        if end - start < 1e-4 or high - low < 1e-4:
            return
        at = wall.a + wall.along * (start + end) / 2 - wall.inward * out
        along = np.array([*wall.along, 0.0])
        self.scene.add(
            QUAD, quad([*at, (low + high) / 2], along * (end - start), [0, 0, high - low]), rows, fixed=True,
            obstacle=self.plan.notch is not None and out == 0.0,
        )  # fmt: skip

    def wall(self, wall: Wall, rows: NDArray[np.float32]) -> None:
        height, at = self.plan.height, 0.0
        for o in sorted(wall.openings, key=lambda o: o.start):
            self.piece(wall, at, o.start, 0, height, rows)
            self.piece(wall, o.start, o.end, 0, o.low, rows)
            self.piece(wall, o.start, o.end, o.high, height, rows)
            at = o.end
            depth = 0.1 + 0.25 * self.rng.random()
            if o.kind == "window":
                self.reveal(wall, o, depth, self.trim if self.rng.random() < 0.5 else rows)
                self.window(wall, o, depth)
            elif o.kind == "door":
                self.door(wall, o, rows)
            else:
                self.hallway(wall, o)
                self.casing(wall, o)
        self.piece(wall, at, wall.length, 0, height, rows)
        if self.photo < 0 and self.rng.random() < 0.8:
            self.skirting(wall)

    def skirting(self, wall: Wall) -> None:
        high, thick, at = 0.06 + 0.08 * self.rng.random(), 0.012, 0.0
        for o in [*sorted((o for o in wall.openings if o.low < 0.2), key=lambda o: o.start), None]:
            end = wall.length if o is None else o.start
            if end - at > 0.05:
                self.strip(wall, at, end, 0.0, high, thick, self.trim)
            at = 0.0 if o is None else o.end

    def strip(
        self,
        wall: Wall,
        start: float,
        end: float,
        low: float,
        high: float,
        thick: float,
        rows: NDArray[Any],
        out: float = 0.0,
    ) -> None:
        """Add a box along a wall that stands `thick` metres into the room from `out` metres behind the wall's plane."""
        at = wall.a + wall.along * (start + end) / 2 + wall.inward * (thick / 2 - out)
        yaw = float(np.arctan2(wall.along[1], wall.along[0]))
        self.scene.add(
            BOX,
            block([*at, (low + high) / 2], [end - start, thick, high - low], yaw),
            rows,
            fixed=True,
            obstacle=False,
        )

    def reveal(self, wall: Wall, o: Opening, depth: float, rows: NDArray[Any]) -> None:
        """Line a hole in the wall."""
        out, along = np.array([*-wall.inward, 0.0]) * depth, np.array([*wall.along, 0.0])
        up = np.array([0, 0, 1.0])
        first = np.array([*wall.a, 0.0])
        width, high, middle = o.end - o.start, o.high - o.low, (o.low + o.high) / 2
        for centre, x, y in (
            (first + along * (o.start + width / 2) + up * o.low + out / 2, along * width, out),
            (first + along * (o.start + width / 2) + up * o.high + out / 2, along * width, -out),
            (first + along * o.start + up * middle + out / 2, up * high, out),
            (first + along * o.end + up * middle + out / 2, up * high, -out),
        ):
            self.scene.add(QUAD, quad(centre, x, y), rows, fixed=True, obstacle=False)

    def casing(self, wall: Wall, o: Opening) -> None:
        """Frame a hole on the side of the room."""
        wide = 0.05 + 0.05 * self.rng.random()
        for start, end, low, high in (
            (o.start - wide, o.start, o.low if o.low > 0.1 else 0, o.high + wide), (o.end, o.end + wide,
            o.low if o.low > 0.1 else 0, o.high + wide),
            (o.start, o.end, o.high, o.high + wide),
        ):  # fmt: skip
            self.strip(wall, start, end, low, high, 0.02, self.trim)

    def window(self, wall: Wall, o: Opening, depth: float) -> None:
        rng = self.rng
        models = self.bank.roles.get("window", ())
        back = depth * (0.5 + 0.4 * rng.random())
        if models and rng.random() < 0.4:
            shape = self.bank.shapes[int(rng.choice(models))]
            number = self.bank.shapes.index(shape)
            at = wall.a + wall.along * (o.start + o.end) / 2 - wall.inward * back
            stretch = np.array([o.end - o.start, min(shape.size[1], 0.12), o.high - o.low]) / np.maximum(
                shape.size, 1e-3
            )
            self.scene.add(
                number,
                standing(at, o.low, wall.inward, stretch),
                self.stylist.of_shape(shape),
                fixed=True,
                obstacle=False,
            )
        else:
            bar = 0.035 + 0.035 * rng.random()
            columns, rows_ = int(rng.choice([1, 2, 2, 3])), int(rng.choice([1, 1, 2, 3]))
            for k in range(columns + 1):
                x = o.start + (o.end - o.start) * k / columns
                self.strip(
                    wall,
                    max(x - bar / 2, o.start),
                    min(x + bar / 2, o.end),
                    o.low,
                    o.high,
                    0.04,
                    self.trim,
                    back,
                )
            for k in range(rows_ + 1):
                z = o.low + (o.high - o.low) * k / rows_
                self.strip(
                    wall,
                    o.start,
                    o.end,
                    max(z - bar / 2, o.low),
                    min(z + bar / 2, o.high),
                    0.05,
                    self.trim,
                    back,
                )
            if rng.random() < 0.5:
                pane = material(self.bank, tint=(0.6, 0.65, 0.65), opacity=0.04, mirror=0.05)
                self.piece(wall, o.start, o.end, o.low, o.high, pane, back)
        if o.low > 0.3 and rng.random() < 0.7:  # a sill
            self.strip(
                wall,
                o.start - 0.06,
                o.end + 0.06,
                o.low - 0.03,
                o.low,
                0.1 + 0.12 * rng.random(),
                self.trim,
                0.0,
            )
        if rng.random() < 0.5:
            self.casing(wall, o)
        self.daylight(wall, o)

    def daylight(self, wall: Wall, o: Opening) -> None:
        rng = self.rng
        middle = wall.a + wall.along * (o.start + o.end) / 2
        width, high = o.end - o.start, o.high - o.low
        power = width * high * (1.5 + 3.5 * rng.random()) * np.array([0.95, 1.0, 1.08])
        if sum(light.normal != (0.0, 0.0, 0.0) for light, _ in self.scene.lights) < 2:
            self.scene.lights.append((
                Light(
                    (*middle, (o.low + o.high) / 2), tuple(power), (*(wall.along * width / 2), 0.0), (0.0, 0.0,
                    high / 2), (*wall.inward, 0.0)
                ), 0,
            ))  # fmt: skip
        if rng.random() < 0.35 and all(np.linalg.norm(light.centre) < 20 for light, _ in self.scene.lights):
            side = (rng.random() - 0.5) * 1.6
            to = np.array([*(-wall.inward + side * wall.along), 0.4 + 0.9 * rng.random()])
            centre = np.array([*middle, (o.low + o.high) / 2]) + to / np.linalg.norm(to) * 30
            sun = np.array([1.0, 0.92, 0.78]) * 900 * (0.8 + 1.8 * rng.random())
            self.scene.lights.append(
                (Light(tuple(centre), tuple(sun), (0.25, 0.1, 0.0), (0.0, 0.1, 0.25)), 0)
            )

    def door(self, wall: Wall, o: Opening, rows: NDArray[np.float32]) -> None:
        models = self.bank.roles.get("door", ())
        self.hallway(wall, o)
        if models and self.rng.random() < 0.75:
            number = int(self.rng.choice(models))
            shape = self.bank.shapes[number]
            at = wall.a + wall.along * (o.start + o.end) / 2 - wall.inward * 0.03
            stretch = np.array([o.end - o.start, min(shape.size[1], 0.2), o.high]) / np.maximum(
                shape.size, 1e-3
            )
            if self.rng.random() < 0.5:
                stretch[0] *= -1
            self.scene.add(
                number,
                standing(at, 0.0, wall.inward, stretch),
                self.stylist.of_shape(shape),
                fixed=True,
                obstacle=False,
            )
        else:
            leaf = (
                self.stylist.surface("wood", metres=1.5)
                if self.rng.random() < 0.5
                else self.stylist.plain(0.7)
            )
            self.strip(wall, o.start, o.end, 0.0, o.high, 0.04, leaf, 0.06)
            side = o.start + 0.08 if self.rng.random() < 0.5 else o.end - 0.08
            knob = wall.a + wall.along * side + wall.inward * 0.04
            self.scene.add(
                SPHERE,
                block([*knob, 1.0], [0.05, 0.06, 0.05]),
                self.stylist.plain(0.2, specular=0.4),
                fixed=True,
                obstacle=False,
            )
            self.casing(wall, o)

    def hallway(self, wall: Wall, o: Opening) -> None:
        """Add another, empty room behind a door."""
        rng = self.rng
        deep, left, right = 1.2 + 3.0 * rng.random(), 0.1 + 1.5 * rng.random(), 0.1 + 1.5 * rng.random()
        high = max(o.high + 0.05, 2.3 + 0.4 * rng.random())
        along, out, up = np.array([*wall.along, 0.0]), np.array([*-wall.inward, 0.0]), np.array([0, 0, 1.0])
        first = np.array([*wall.a, 0.0]) + along * (o.start - left)
        width = left + right + o.end - o.start
        paint, floor = self.stylist.surface("wall"), self.stylist.surface("floor")
        skin = 0.1
        near = first + out * skin
        middle = near + along * width / 2 + out * deep / 2
        for centre, x, y, rows in (
            (middle, along * width, out * deep, floor), (middle + up * high, along * width, -out * deep, paint),
            (near + out * deep + along * width / 2 + up * high / 2, along * width, up * high, paint),
            (near + out * deep / 2 + up * high / 2, out * deep, up * high, paint),
            (near + along * width + out * deep / 2 + up * high / 2, -out * deep, up * high, paint),
        ):  # fmt: skip
            self.scene.add(QUAD, quad(centre, x, y), rows, fixed=True, obstacle=False)
        self.reveal(wall, o, skin, self.trim)
