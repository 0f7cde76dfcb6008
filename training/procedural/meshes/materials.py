"""Materials of mesh rooms: photo textures by what a surface is, what model files say, jitter of both."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bank import MeshBank, Shape
from .scene import LOCAL_METRES, MESH_UV, WORLD_METRES, material

# Names of textures (ambientCG's materials) by what a surface is; weights.
SURFACES: dict[str, dict[str, float]] = {
    "wall": {"Paint": 2, "Plaster": 5, "Wallpaper": 3, "Concrete": 2, "Bricks": 1.2, "Tiles": 1.5, "Planks": 0.6,
             "WoodSiding": 0.7, "Fabric": 0.4, "Marble": 0.4, "Travertine": 0.4, "Wood": 0.3, "Cork": 0.2,
             "PavingStones": 0.3},
    "floor": {"WoodFloor": 6, "Carpet": 3, "Tiles": 3, "Planks": 1.5, "Terrazzo": 1, "Marble": 1, "Concrete": 1,
              "Travertine": 0.6, "Tatami": 0.4, "Cork": 0.5, "Granite": 0.6, "Fabric": 0.5, "Bricks": 0.3,
              "PavingStones": 0.3},
    "ceiling": {"OfficeCeiling": 3, "Plaster": 4, "Paint": 2, "Planks": 0.8, "Concrete": 0.8, "Wood": 0.4},
    "wood": {"Wood": 5, "Planks": 1, "WoodFloor": 1, "Bamboo": 0.5, "Chipboard": 0.7, "Cork": 0.3},
    "cloth": {"Fabric": 6, "Carpet": 2, "Wallpaper": 1},
    "hard": {"Metal": 2, "Plastic": 2, "Marble": 1, "Onyx": 1, "Porcelain": 1, "Paint": 1, "Rust": 0.3, "Clay": 0.5,
             "Granite": 1, "Terrazzo": 0.7, "Leather": 1, "Rubber": 0.4, "CorrugatedSteel": 0.3, "DiamondPlate": 0.3},
    "any": {"Wood": 2, "Fabric": 2, "Metal": 1, "Wallpaper": 1.5, "Marble": 1, "Bark": 0.5, "Cardboard": 0.6,
    "Paper": 0.5,
            "Rock": 0.5, "Tiles": 1, "Planks": 0.6, "Bricks": 0.5, "Moss": 0.3, "Leather": 0.6, "Clay": 0.4},
}  # fmt: skip
PLAIN = ("Paint", "Plaster", "Plastic", "Paper", "Concrete", "Porcelain", "Metal", "Rubber")
CLOTH_WORDS = (
    "fabric",
    "cloth",
    "cushion",
    "pillow",
    "tissu",
    "seat",
    "sofa",
    "blanket",
    "mattress",
    "curtain",
    "leather",
)
WOOD_WORDS = ("wood", "bois", "oak", "pine", "teak", "plank", "walnut")


class Stylist:
    """Draws materials for one room: its pieces share a few woods, cloths and hard surfaces."""

    def __init__(self, bank: MeshBank, rng: np.random.Generator) -> None:
        self.bank, self.rng = bank, rng
        self.by_name: dict[str, list[int]] = {}
        for number in bank.images.get("surface", ()):
            self.by_name.setdefault(bank.image_names[number], []).append(number)
        known = {name for names in SURFACES.values() for name in names}
        self.photos = [n for name, numbers in self.by_name.items() if name not in known for n in numbers]
        self.favourites = {kind: [self.draw(kind) for _ in range(2)] for kind in ("wood", "cloth", "hard")}
        self.wild = rng.random() < 0.25  # a room where most things have another pattern than they would

    def draw(self, kind: str) -> int:
        """Return a texture for a kind of surface, -1 if the bank has none."""
        shares = {name: w for name, w in SURFACES[kind].items() if name in self.by_name}
        if self.photos and (not shares or self.rng.random() < 0.12):
            return int(self.rng.choice(self.photos))
        if not shares:
            return -1
        weights = np.array(list(shares.values()))
        name = list(shares)[int(self.rng.choice(len(weights), p=weights / weights.sum()))]
        return int(self.rng.choice(self.by_name[name]))

    def name(self, texture: int) -> str:
        return self.bank.image_names[texture] if texture >= 0 else ""

    def colour(self, pale: float = 0.0) -> tuple[float, float, float]:
        """Return a colour as indoor surfaces have it, as displayed; pale: 0 to 1."""
        u = self.rng.random(4)
        hue = 0.02 + 0.12 * u[0] / 0.6 if u[0] < 0.6 else (u[0] - 0.6) / 0.4
        saturation = 0.35 + 0.6 * u[1] if u[3] > 0.75 else 0.45 * u[1] ** 2
        value = 0.08 + 0.9 * u[2]
        return colorsys.hsv_to_rgb(
            hue, saturation * (1 - 0.75 * pale), value * (1 - pale) + pale * (0.62 + 0.36 * u[2])
        )

    def surface(
        self,
        kind: str,
        mode: int = WORLD_METRES,
        texture: int | None = None,
        metres: float | None = None,
        pale: float = 0.0,
    ) -> NDArray[np.float32]:
        """Draw the material of a large surface; metres: length of a tile."""
        rng = self.rng
        number = self.draw(kind) if texture is None else texture
        name = self.name(number)
        size = metres or float(0.5 * 5.0 ** rng.random())
        mean = max(float(self.bank.texture_mean[number].mean()), 0.12) if number >= 0 else 1.0
        plain = name in PLAIN
        paint = kind in ("wall", "ceiling") and (plain or rng.random() < 0.35)
        tint: Sequence[float]
        if paint or number < 0:
            # The texture gives structure, the paint its colour.
            hue = self.bank.texture_mean[number] / mean if number >= 0 else np.ones(3)
            tint = np.clip(np.array(self.colour(pale or 0.85)) / np.clip(hue, 0.3, 3), 0.02, 1).tolist()
            gain, amount = 1 / mean, float(0.25 + 0.75 * rng.random())
        else:
            tint = tuple(float(x) for x in np.clip(1 + 0.2 * (rng.random(3) - 0.6), 0.6, 1.0))
            gain, amount = float(np.clip(0.45 / mean, 0.8, 1.5)) if rng.random() < 0.5 else 1.0, 1.0
        shiny = rng.random() < (0.45 if kind == "floor" else 0.1)
        polished = shiny and name in (
            "Marble",
            "Tiles",
            "WoodFloor",
            "Terrazzo",
            "Granite",
            "Travertine",
            "Onyx",
            "Porcelain",
        )
        return material(
            self.bank, number, tint=tint, mode=mode, scale=(1 / size, 1 / size), shift=tuple(rng.random(2)),
            amount=amount,
            gain=gain, specular=float(0.03 + 0.25 * rng.random() ** 2) if shiny else 0.0,
            shininess=float(10 * 20 ** rng.random()),
            mirror=float(0.02 + 0.06 * rng.random()) if polished and rng.random() < 0.5 else 0.0,
            mirrored=True,
        )  # fmt: skip

    def plain(self, pale: float = 0.3, **more: Any) -> NDArray[np.float32]:
        """Draw a plain colour, perhaps shiny."""
        rng = self.rng
        shine = float(0.3 * rng.random() ** 2) if rng.random() < 0.5 else 0.0
        return material(
            self.bank,
            tint=self.colour(pale),
            **{"specular": shine, "shininess": float(10 * 20 ** rng.random())} | more,
        )

    def print(self, emission: float = 0.0) -> tuple[NDArray[np.float32], float]:
        """Draw a picture that fills its quad, and its width over its height."""
        numbers = [
            *self.bank.images.get("picture", ()),
            *self.bank.images.get("indoors", ()),
            *self.bank.images.get("outdoors", ()),
        ]
        if not numbers or self.rng.random() < 0.12:
            number = self.draw("any")
        else:
            # Panoramas are few and wide: pictures of them are cut-outs.
            number = int(self.rng.choice(numbers))
        if number < 0:
            return self.plain(), 1.3
        aspect = float(self.bank.texture_aspect[number])
        scale, shift = (1.0, 1.0), (0.0, 0.0)
        if aspect > 1.9:
            share = 0.2 + 0.3 * self.rng.random()
            scale, shift = (
                (share, share * (0.8 + 0.6 * self.rng.random())),
                (self.rng.random(), 0.25 + 0.2 * self.rng.random()),
            )
            aspect = aspect * scale[0] / scale[1]
        row = material(
            self.bank, number, mode=MESH_UV, scale=scale, shift=shift, emission=emission,
            specular=0.1 * float(self.rng.random() < 0.3),
            shininess=60.0,
        )  # fmt: skip
        return row, aspect

    def of_shape(self, shape: Shape, lit: bool = True) -> NDArray[np.float32]:
        """Draw the materials of a packed mesh: its own, with jitter, or others of their kind."""
        rng = self.rng
        rows = []
        shift_all = rng.normal(0, 0.04, 3) + rng.normal(0, 0.06)
        recolour = rng.random() < 0.3
        for m in shape.materials:
            if not m:
                return np.stack([self.plain()])
            name = m["name"].lower()
            texture, tint = m["texture"], np.array(m["colour"])
            mode, scale, shift, amount, gain = MESH_UV, (1.0, 1.0), (0.0, 0.0), 1.0, 1.0
            mirrored = False
            if texture is not None:
                tint = np.full(3, 0.97)
                if recolour and not m["cutout"]:
                    tint = tint * (0.55 + 0.45 * np.array(self.colour(0.4)))
            elif m["opacity"] > 0.9:
                kind = (
                    "wood"
                    if any(w in name for w in WOOD_WORDS)
                    else "cloth"
                    if any(w in name for w in CLOTH_WORDS)
                    else ""
                )
                chance = 0.85 if self.wild else 0.7 if kind else 0.3
                if (
                    rng.random() < chance
                    and "chrom" not in name
                    and "glass" not in name
                    and not m["emission"]
                ):
                    kind = kind or str(rng.choice(["wood", "cloth", "hard", "any"], p=[0.3, 0.3, 0.25, 0.15]))
                    favourite = self.favourites.get(kind)
                    number = (
                        int(rng.choice(favourite)) if favourite and rng.random() < 0.6 else self.draw(kind)
                    )
                    if number >= 0:
                        texture, mode, mirrored = number, LOCAL_METRES, True
                        size = 0.3 * 5 ** rng.random()
                        scale, shift = (1 / size, 1 / size), (rng.random(), rng.random())
                        mean = max(float(self.bank.texture_mean[number].mean()), 0.1)
                        if rng.random() < 0.5:  # its own colour with the pattern's structure
                            gain, amount = 1 / mean, float(0.4 + 0.6 * rng.random())
                            tint = np.maximum(tint, 0.06)
                        else:
                            tint = np.ones(3)
                elif recolour:
                    tint = np.array(self.colour(0.2))
            tint = np.clip(tint + shift_all, 0.02, 1.0)
            emission = m["emission"] + (float(1.5 + 2 * rng.random()) if m["glows"] and lit else 0.0)
            rows.append(
                material(
                    self.bank, -1 if texture is None else texture, tint=tint, mode=mode, scale=scale, shift=shift,
                    amount=amount,
                    gain=gain, specular=float(0.5 * m["specular"] * rng.random()), shininess=m["shininess"],
                    mirror=min(m["mirror"], 0.6 if "mirror" in name or "miroir" in name else 0.08),
                    opacity=m["opacity"], emission=emission, cutout=m["cutout"], mirrored=mirrored,
                )
            )  # fmt: skip
        return np.stack(rows)
