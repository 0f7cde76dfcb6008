"""The pieces of a room: walls, doors, windows, pictures, shelves, tables, chairs, plants and clutter.

Everything is drawn for a whole batch of rooms at once. Sizes are metres.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .building import Builder, Placement, rotation_x, rotation_z
from .materials import make_material
from .rng import Dice
from .textures import TextureBank


class Furnisher:
    """Draw the pieces of a batch of rooms, one method for each sort, into `builder`.

    size [B, 3]: of the rooms, metres. busy [B]: rooms in which hardly a surface is plain. photos: share of textures
    that are photographs.
    """

    def __init__(
        self, bank: TextureBank, dice: Dice, size: Tensor, busy: Tensor | None = None, photos: float = 0.0
    ) -> None:
        self.bank, self.dice, self.size, self.busy, self.photos = bank, dice, size, busy, photos
        self.builder = Builder()

    def material(self, role: str, count: int, fit: bool = False) -> Tensor:
        """Draw surface materials for a role, [B, count, 13]; see `make_material`."""
        return make_material(self.bank, self.dice, role, count, fit, self.busy, self.photos)

    def against_wall(self, count: int, depth: Tensor, share: float, gap: float = 0.01) -> Placement:
        """Place pieces with their backs (local +y, half depth [B, S]) against random walls."""
        u = self.dice(count, 4)
        wall = (u[..., 0] * 4).floor()
        yaw = wall * (math.pi / 2)
        along_x = (wall % 2) == 0
        hx, hy = self.size[:, None, 0] / 2, self.size[:, None, 1] / 2
        run = torch.where(along_x, hx, hy) - 0.4
        reach = torch.where(along_x, hy, hx) - depth - gap
        along = (u[..., 1] * 2 - 1) * run
        x, y = along, reach
        c, s = yaw.cos(), yaw.sin()
        origin = torch.stack([c * x - s * y, s * x + c * y, torch.zeros_like(x)], -1)
        return self._frame(origin, yaw, u[..., 2] < share)

    def anywhere(self, count: int, share: float, squared: float = 0.5) -> Placement:
        """Place pieces anywhere on the floor; a share of them is parallel to the walls."""
        u = self.dice(count, 5)
        half = self.size[:, None, :2] / 2 - 0.5
        xy = (u[..., :2] * 2 - 1) * half
        yaw = u[..., 2] * 2 * math.pi
        yaw = torch.where(u[..., 3] < squared, (yaw / (math.pi / 2)).round() * (math.pi / 2), yaw)
        origin = torch.cat([xy, torch.zeros_like(xy[..., :1])], -1)
        return self._frame(origin, yaw, u[..., 4] < share)

    def _frame(self, origin: Tensor, yaw: Tensor, valid: Tensor) -> Placement:
        frame = Placement(self.builder, origin, yaw, valid, self.builder.groups)
        self.builder.groups += yaw.shape[1]
        return frame

    # Each of the following adds one sort of thing.

    def partitions(self) -> None:
        u = self.dice(3, 4)
        place = self.anywhere(3, 0.4, squared=0.95)
        wide = torch.where(u[..., 0] < 0.35, 0.1 + 0.25 * u[..., 1], 0.4 + 1.6 * u[..., 1])
        thick = torch.where(u[..., 0] < 0.35, wide, 0.05 + 0.1 * u[..., 2])
        high = torch.where(u[..., 3] < 0.7, self.size[:, None, 2] / 2, 0.5 + 0.6 * u[..., 2])
        place.put("box", (0.0, 0.0, high), (wide, thick, high), self.material("wall", 3))

    def alcoves(self) -> None:
        """Fill corners of the room or long strips of it, so that rooms are not all boxes."""
        u = self.dice(2, 4)
        place = self.against_wall(2, 0.2 + 0.9 * u[..., 0] ** 2, 0.45, gap=-0.02)
        place.put(
            "box", (0.0, 0.0, self.size[:, None, 2] / 2),
            (0.4 + 1.6 * u[..., 1], 0.2 + 0.9 * u[..., 0] ** 2, self.size[:, None, 2] / 2), self.material("wall", 2),
        )  # fmt: skip

    def doors(self) -> None:
        place = self.against_wall(3, torch.full_like(self.dice(3), 0.04), 0.75, gap=0.0)
        u = self.dice(3, 3)
        wide, high = 0.38 + 0.15 * u[..., 0], 0.98 + 0.1 * u[..., 1]
        place.put(
            "box", (0.0, 0.02, high + 0.03), (wide + 0.07, 0.03, high + 0.06), self.material("furniture", 3)
        )
        place.put("box", (0.0, -0.01, high), (wide, 0.03, high), self.material("furniture", 3))
        side = torch.where(u[..., 2] < 0.5, -1.0, 1.0)
        place.put("box", (side * (wide - 0.09), -0.07, 1.05), (0.06, 0.012, 0.012), self.material("plain", 3))

    def windows(self) -> None:
        place = self.against_wall(2, torch.full_like(self.dice(2), 0.03), 0.6, gap=0.0)
        u = self.dice(2, 4)
        wide, high = 0.4 + 0.7 * u[..., 0], 0.4 + 0.5 * u[..., 1]
        middle = (0.75 + high + 0.3 * u[..., 2]).minimum(self.size[:, None, 2] - high - 0.05)
        frame = self.material("plain", 2)
        view = self.material("view" if self.photos > 0 else "picture", 2, fit=True)
        view[..., 11] = 0.5 + 4 * u[..., 3] ** 2  # daylight
        place.put("box", (0.0, 0.01, middle), (wide + 0.06, 0.02, high + 0.06), frame)
        place.put("box", (0.0, -0.005, middle), (wide, 0.02, high), view)
        place.put("box", (0.0, -0.03, middle), (0.02, 0.02, high), frame)
        place.put("box", (0.0, -0.09, middle - high - 0.05), (wide + 0.1, 0.12, 0.02), frame)

    def pictures(self) -> None:
        place = self.against_wall(7, torch.full_like(self.dice(7), 0.02), 0.7, gap=0.0)
        u = self.dice(7, 5)
        wide = 0.1 + 0.5 * u[..., 0] ** 1.5
        high = wide * (0.6 + 1.0 * u[..., 1])
        middle = (1.0 + 0.9 * u[..., 2]).clamp_min(0).minimum(self.size[:, None, 2] - high - 0.1)
        rim = 0.03 * u[..., 3] ** 2
        picture = self.material("picture", 7, fit=True)
        picture[..., 11] = (u[..., 4] < 0.15).float() * 0.8  # screens glow
        place.put("box", (0.0, 0.005, middle), (wide + rim, 0.015, high + rim), self.material("plain", 7))
        place.put("box", (0.0, 0.0, middle), (wide, 0.015, high), picture)

    def shelves(self) -> None:
        n = 2
        u = self.dice(n, 4)
        deep = 0.12 + 0.1 * u[..., 0]
        place = self.against_wall(n, deep, 0.5)
        wide, high = 0.3 + 0.5 * u[..., 1], 0.4 + 0.7 * u[..., 2]
        wood = self.material("furniture", n)
        for side in (-1.0, 1.0):
            place.put("box", (side * wide, 0.0, high), (0.012, deep, high), wood)
        place.put("box", (0.0, deep - 0.01, high), (wide, 0.008, high), wood)
        levels = 4
        for level in range(levels + 1):
            place.put("box", (0.0, 0.0, high * 2 * level / levels + 0.02), (wide, deep, 0.012), wood)
        for level in range(levels):
            # A row of things per board, side by side.
            left = -wide + 0.02
            for _ in range(3):
                v = self.dice(n, 4)
                w, h = 0.02 + 0.12 * v[..., 0] ** 2, (0.25 + 0.7 * v[..., 1]) * high / levels
                base = high * 2 * level / levels + 0.035
                place.put(
                    "box", (left + w, 0.02, base + h), (w, deep * (0.5 + 0.45 * v[..., 2]), h),
                    self.material("thing", n, fit=True), valid=(v[..., 3] < 0.8) & (left + 2 * w < wide),
                )  # fmt: skip
                left = left + 2 * w + 0.04 * v[..., 3]

    def cabinets(self) -> None:
        n = 4
        u = self.dice(n, 6)
        deep = 0.2 + 0.15 * u[..., 0]
        place = self.against_wall(n, deep, 0.7)
        wide = 0.3 + 0.8 * u[..., 1] ** 1.5
        high = torch.where(u[..., 2] < 0.6, 0.35 + 0.15 * u[..., 3], 0.5 + 0.6 * u[..., 3])
        body, front = self.material("furniture", n), self.material("furniture", n)
        front = torch.where(u[..., 4:5] < 0.6, body, front)
        place.put("box", (0.0, 0.0, high), (wide, deep, high), body)
        place.put(
            "box",
            (0.0, 0.0, 2 * high + 0.01),
            (wide + 0.01, deep + 0.01, 0.015),
            self.material("furniture", n),
        )
        grip = self.material("plain", n)
        for k in range(3):
            x = wide * (2 * k - 2) / 3
            place.put("box", (x, -deep, high), (wide / 3 - 0.008, 0.012, high - 0.03), front)
            place.put("box", (x + 0.0, -deep - 0.02, high * 1.6), (0.06, 0.01, 0.008), grip)
        for kind in ("box", "box", "cylinder", "ellipsoid"):
            self._thing_on(place, kind, wide - 0.1, deep - 0.08, 2 * high + 0.025)

    def hanging_cabinets(self) -> None:
        u = self.dice(2, 3)
        deep = 0.15 + 0.05 * u[..., 0]
        place = self.against_wall(2, deep, 0.35)
        wide = 0.4 + 0.8 * u[..., 1]
        body = self.material("furniture", 2)
        place.put("box", (0.0, 0.0, 1.75), (wide, deep, 0.32), body)
        for k in range(2):
            place.put("box", (wide * (k - 0.5), -deep, 1.75), (wide / 2 - 0.006, 0.01, 0.31), body)

    def _thing_on(self, place: Placement, kind: str, x: Tensor, y: Tensor, z: Tensor) -> None:
        """Put a small object onto a surface of half size (x, y) at height z."""
        n = place.yaw.shape[1]
        v = self.dice(n, 7)
        w, d, h = 0.02 + 0.14 * v[..., 0] ** 2, 0.02 + 0.12 * v[..., 1] ** 2, 0.01 + 0.14 * v[..., 2] ** 1.5
        if kind != "box":
            d = w
        turn = rotation_z(v[..., 6] * 6.28)
        place.put(
            kind, (x * (2 * v[..., 3] - 1), y * (2 * v[..., 4] - 1), z + h), (w, d, h),
            self.material("thing", n, fit=kind == "box"), tilt=turn, valid=v[..., 5] < 0.7,
        )  # fmt: skip

    def tables(self) -> None:
        n = 3
        u = self.dice(n, 6)
        place = self.anywhere(n, 0.6)
        wide, deep, high = 0.35 + 0.65 * u[..., 0], 0.3 + 0.25 * u[..., 1], 0.4 + 0.38 * u[..., 2]
        thick = 0.01 + 0.02 * u[..., 3]
        top, leg = self.material("furniture", n), self.material("furniture", n)
        round_ = u[..., 4] < 0.25
        place.put("box", (0.0, 0.0, high), (wide, deep, thick), top, valid=~round_)
        place.put("cylinder", (0.0, 0.0, high), (deep * 1.3, deep * 1.3, thick), top, valid=round_)
        place.put("cylinder", (0.0, 0.0, high / 2), (0.03, 0.03, high / 2), leg, valid=round_)
        place.put("cylinder", (0.0, 0.0, 0.015), (0.25, 0.25, 0.015), leg, valid=round_)
        foot = 0.012 + 0.025 * u[..., 5]
        for x in (-1.0, 1.0):
            for y in (-1.0, 1.0):
                at = (x * (wide - 0.06), y * (deep - 0.06), high / 2)
                place.put("box", at, (foot, foot, high / 2), leg, valid=~round_)
        for kind in ("box", "box", "box", "cylinder", "cylinder", "ellipsoid", "ellipsoid"):
            self._thing_on(place, kind, wide * 0.85, deep * 0.8, high + thick)

    def chairs(self) -> None:
        n = 5
        u = self.dice(n, 6)
        place = self.anywhere(n, 0.65, squared=0.4)
        wide, high = 0.19 + 0.06 * u[..., 0], 0.42 + 0.06 * u[..., 1]
        seat, leg = self.material("cloth", n), self.material("plain", n)
        leg[..., 4:7] *= 0.5
        place.put("box", (0.0, 0.0, high), (wide, wide, 0.015 + 0.03 * u[..., 2]), seat)
        lean = rotation_x(-0.05 - 0.2 * u[..., 3])
        place.put("box", (0.0, wide, high + 0.28), (wide, 0.015, 0.12 + 0.1 * u[..., 4]), seat, tilt=lean)
        foot = 0.01 + 0.012 * u[..., 5]
        for x in (-1.0, 1.0):
            place.put(
                "box",
                (x * (wide - 0.02), wide - 0.01, high * 0.5 + 0.15),
                (foot, foot, high * 0.5 + 0.15),
                leg,
            )
            place.put("box", (x * (wide - 0.02), -wide + 0.02, high / 2), (foot, foot, high / 2), leg)

    def sofas(self) -> None:
        n = 1
        u = self.dice(n, 5)
        deep = 0.35 + 0.1 * u[..., 0]
        place = self.against_wall(n, deep, 0.6, gap=0.05)
        wide, seat = 0.35 + 0.7 * u[..., 1], 0.2 + 0.04 * u[..., 2]
        cloth = self.material("cloth", n)
        place.put("box", (0.0, 0.0, seat), (wide, deep, seat), cloth)
        place.put("box", (0.0, deep - 0.1, 0.4), (wide, 0.1, 0.4), cloth)
        for x in (-1.0, 1.0):
            place.put("box", (x * (wide + 0.08), 0.0, 0.3), (0.09, deep, 0.3), cloth)
            place.put(
                "box", (x * wide * 0.5, -0.06, 2 * seat + 0.03), (wide * 0.48, deep - 0.12, 0.06), cloth
            )
        place.put(
            "ellipsoid",
            (wide * (2 * u[..., 3] - 1), 0.05, 2 * seat + 0.25),
            (0.22, 0.12, 0.2),
            self.material("cloth", n),
        )

    def lamps(self) -> None:
        n = 2
        place = self.anywhere(n, 0.4)
        u = self.dice(n, 3)
        high = 0.6 + 0.3 * u[..., 0]
        metal, shade = self.material("plain", n), self.material("plain", n)
        shade[..., 11] = 0.8 * (u[..., 2] < 0.5)
        place.put("cylinder", (0.0, 0.0, high), (0.012, 0.012, high), metal)
        place.put("cylinder", (0.0, 0.0, 0.012), (0.14, 0.14, 0.012), metal)
        place.put(
            "cylinder", (0.0, 0.0, 2 * high), (0.1 + 0.1 * u[..., 1], 0.1 + 0.1 * u[..., 1], 0.1), shade
        )

    def plants(self) -> None:
        n = 2
        place = self.anywhere(n, 0.55)
        u = self.dice(n, 4)
        pot, trunk = 0.1 + 0.12 * u[..., 0], 0.2 + 0.5 * u[..., 1]
        place.put("cylinder", (0.0, 0.0, pot), (pot, pot, pot), self.material("furniture", n))
        place.put("cylinder", (0.0, 0.0, pot + trunk), (0.015, 0.015, trunk), self.material("furniture", n))
        leaf = self.material("leaf", n)
        for _ in range(10):
            v = self.dice(n, 5)
            long = 0.12 + 0.22 * v[..., 0]
            turn = rotation_z(v[..., 1] * 6.28) @ rotation_x(-0.6 + 1.6 * v[..., 2])
            rise = 2 * pot + 2 * trunk * (0.6 + 0.55 * v[..., 3])
            offset = turn[..., 1] * long[..., None]
            at = (offset[..., 0], offset[..., 1], rise + offset[..., 2])
            place.put("ellipsoid", at, (0.02 + 0.04 * v[..., 4], long, 0.008), leaf, tilt=turn)

    def floor_things(self) -> None:
        place = self.anywhere(4, 0.5, squared=0.3)
        for kind in ("box", "cylinder", "ellipsoid"):
            v = self.dice(4, 5)
            w, d, h = 0.06 + 0.2 * v[..., 0] ** 2, 0.06 + 0.2 * v[..., 1] ** 2, 0.04 + 0.3 * v[..., 2] ** 2
            d = d if kind == "box" else w
            at = (0.5 * v[..., 3], 0.5 * v[..., 4], h)
            place.put(
                kind, at, (w, d, h), self.material("thing", 4, fit=kind == "box"), valid=v[..., 4] < 0.6
            )

    def carpets(self) -> None:
        place = self.anywhere(2, 0.5, squared=0.8)
        u = self.dice(2, 2)
        place.put(
            "box",
            (0.0, 0.0, 0.004),
            (0.4 + 1.2 * u[..., 0], 0.4 + 0.9 * u[..., 1], 0.005),
            self.material("cloth", 2),
        )

    def ceiling_lamps(self) -> None:
        n = 3
        place = self.anywhere(n, 0.6, squared=1.0)
        u = self.dice(n, 3)
        glow = self.material("plain", n)
        glow[..., 4:7] = 0.95
        glow[..., 11] = 2.0
        drop = torch.where(u[..., 2] < 0.6, 0.02, 0.1 + 0.4 * u[..., 2])
        place.put(
            "box",
            (0.0, 0.0, self.size[:, None, 2] - drop),
            (0.05 + 0.5 * u[..., 0] ** 2, 0.05 + 0.2 * u[..., 1], 0.03),
            glow,
        )

    def oddities(self) -> None:
        """Solids at any place, height and angle: variety that furniture does not bring, and thin structures."""
        n = 4
        for kind, thin in (("box", False), ("box", True), ("cylinder", True)):
            place = self.anywhere(n, 0.45, squared=0.2)
            v = self.dice(n, 7)
            turn = (
                rotation_x((v[..., 0] - 0.5) * 3.0)
                if not thin
                else rotation_x((v[..., 0] < 0.4).float() * math.pi / 2)
            )
            w = 0.01 + 0.03 * v[..., 1] if thin else 0.05 + 0.25 * v[..., 1] ** 2
            d = w if thin else 0.05 + 0.25 * v[..., 2] ** 2
            h = 0.2 + 1.0 * v[..., 3] if thin else 0.05 + 0.3 * v[..., 3] ** 2
            place.put(
                kind, (0.0, 0.0, v[..., 4] * (self.size[:, None, 2] - 0.3)), (w, d, h),
                self.material("plain" if thin else "thing", n, fit=not thin), tilt=turn,
            )  # fmt: skip

    def everything(self) -> Builder:
        """Draw all sorts of pieces, in an order that seeds depend on."""
        for add in (
            self.partitions, self.alcoves, self.doors, self.windows, self.pictures, self.shelves, self.cabinets,
            self.hanging_cabinets, self.tables, self.chairs, self.sofas, self.lamps, self.plants, self.floor_things,
            self.carpets, self.ceiling_lamps, self.oddities,
        ):  # fmt: skip
            add()
        return self.builder
