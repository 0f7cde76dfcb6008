"""Photographic textures for rooms, from a pack of assets on disk whose manifest says where each file is from.

A pack is a folder with `MANIFEST.csv` (columns zip, path, licence, attribution and more, one row a file) and the zips
`textures_128.zip` (one folder a material), `textures_512.zip` (surface/, picture/, portrait/, atlas/) and
`panoramas.zip`. Nothing of it is part of this project: what the manifest does not cover, or covers with a licence that
is not listed here, is an error and not a texture.
"""

from __future__ import annotations

import csv
import io
import logging
import random
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

LICENCES = ("CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "MIT-0", "MIT", "Apache-2.0", "LicenseRef-Public-Domain")
"""Licences (SPDX) under which pictures may go into drawn rooms."""

MATERIALS: dict[str, tuple[str, ...]] = {
    "photo_wood": (
        "Bamboo", "Chipboard", "Cork", "Logs", "Planks", "Tatami", "Wood", "WoodFloor", "WoodSiding",
    ),
    "photo_tiles": (
        "Bricks", "GlazedTerracotta", "Granite", "Marble", "Onyx", "PavingStones", "Porcelain", "Terrazzo", "Tiles",
        "Travertine",
    ),
    "photo_fabric": ("Carpet", "Fabric"),
    "photo_wall": ("Clay", "Concrete", "OfficeCeiling", "Paint", "Paper", "Plaster", "Wallpaper"),
    "photo_rough": (
        "Asphalt", "Bark", "Cardboard", "CorrugatedSteel", "DiamondPlate", "Foil", "Grass", "Gravel", "Ground",
        "Metal", "Moss", "Plastic", "Road", "Rock", "Rocks", "RoofingTiles", "Rubber", "Rust", "Snow",
        "ThatchedRoof", "WoodChips",
    ),
}  # fmt: skip
"""Kinds of tile, and the materials of textures_128.zip that belong to each; others are left out."""
SURFACES: dict[str, str] = {
    "photo_wood": "wood|plank|pine|plywood|door|wardrobe|table|bark",
    "photo_tiles": "tile|brick|marble|cinder|checker",
    "photo_fabric": "carpet|cloth|canvas|bed",
    "photo_wall": "wall|ceiling|stucco|concrete",
    "photo_rough": "",
}
"""The same for textures_512.zip, surface/: patterns of names, the first that fits."""
KINDS = (*MATERIALS, "photo_picture", "photo_view")

log = logging.getLogger("training")


class AssetError(ValueError):
    """A pack of assets that cannot be used, with the reason."""


@dataclass(frozen=True)
class Asset:
    """A row of the manifest."""

    licence: str
    attribution: str


class AssetPack:
    """A folder of zips and the manifest that covers them."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.assets: dict[tuple[str, str], Asset] = {}
        self.used: set[tuple[str, str]] = set()
        self.broken: list[str] = []
        manifest = self.folder / "MANIFEST.csv"
        try:
            with manifest.open(newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise AssetError(
                f"{self.folder} is no pack of assets: its MANIFEST.csv cannot be read ({error.strerror})"
            ) from error
        for number, row in enumerate(rows, start=2):
            values = [(row.get(name) or "").strip() for name in ("zip", "path", "licence", "attribution")]
            archive, path, licence, attribution = values  # no zip: a file of the folder itself
            if not (path and licence and attribution):
                raise AssetError(f"{manifest}, line {number}: path, licence and attribution are all needed")
            self.assets[archive, path] = Asset(licence, attribution)

    def images(
        self, archive: str, wanted: Callable[[str], bool] = lambda name: True
    ) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield names and pictures uint8 [H, W, 3] of a zip, by name, of those whose name is wanted.

        A damaged picture is left out and counted in `broken`. Raises AssetError for a zip that is missing or damaged,
        and for a file that the manifest does not cover, with a licence of LICENCES.
        """
        try:
            with zipfile.ZipFile(self.folder / archive) as file:
                for name in sorted(file.namelist()):
                    if name.lower().endswith((".webp", ".png", ".jpg", ".jpeg")):
                        self._check(archive, name)
                        if not wanted(name):
                            continue
                        try:
                            picture = Image.open(io.BytesIO(file.read(name))).convert("RGB")
                        except (OSError, zipfile.BadZipFile) as error:
                            self.broken.append(f"{archive}/{name}")
                            log.warning("%s/%s is left out: %s", archive, name, error)
                            continue
                        self.used.add((archive, name))
                        yield name, np.array(picture)
        except (OSError, zipfile.BadZipFile) as error:
            raise AssetError(f"{self.folder / archive} cannot be read: {error}") from error

    def _check(self, archive: str, name: str) -> None:
        asset = self.assets.get((archive, name))
        if asset is None:
            raise AssetError(
                f"{archive} holds {name}, which MANIFEST.csv does not list: add its source and licence, or remove it"
            )
        if asset.licence not in LICENCES:
            raise AssetError(
                f"{archive}/{name} is under {asset.licence!r}, which is none of {', '.join(LICENCES)}: remove it"
            )

    def credits(self) -> list[str]:
        """Return what a model card has to say about the pictures read so far: attributions, CC0 by source only."""
        lines = Counter(
            re.sub(r"^ambientCG \S+ ", "ambientCG ", self.assets[key].attribution) for key in self.used
        )
        return [f"{text} ({count} files)" if count > 1 else text for text, count in sorted(lines.items())]


def photo_tiles(pack: AssetPack, size: int, seed: int = 0) -> dict[str, Tensor]:
    """Read the pack's pictures as square tiles of `size` pixels, uint8 [n, 3, size, size] for each of KINDS.

    Materials are repeated rather than enlarged. Atlases and panoramas are cut into random pieces, by the seed.
    Raises AssetError as AssetPack.images does, and for a kind without a single picture.
    """
    dice = random.Random(seed)
    tiles: dict[str, list[NDArray[np.uint8]]] = {kind: [] for kind in KINDS}
    kind_of = {name: kind for kind, names in MATERIALS.items() for name in names}

    def indoors(name: str) -> bool:
        return name.partition("/")[0] in kind_of and not name.startswith("Rust/Rust001")

    for name, picture in pack.images("textures_128.zip", indoors):
        tiles[kind_of[name.partition("/")[0]]].append(_repeat(_square(picture), size))
    for name, picture in pack.images("textures_512.zip"):
        folder, _, file = name.partition("/")
        if folder == "surface":
            kind = next(kind for kind, pattern in SURFACES.items() if re.search(pattern, file.lower()))
            tiles[kind].append(_resize(_square(picture), size))
        elif folder == "atlas":
            for _ in range(3):
                patch = _piece(picture, 0.25 + 0.35 * dice.random(), dice)
                if patch.std() > 10:  # flat parts show nothing
                    tiles["photo_picture"].append(_resize(patch, size))
        else:
            tiles["photo_picture"].append(_resize(picture, size))
    for _, picture in pack.images("panoramas.zip"):
        for _ in range(6):
            tiles["photo_view"].append(_resize(_outlook(picture, dice), size))
    empty = [kind for kind, pictures in tiles.items() if not pictures]
    if empty:
        raise AssetError(f"{pack.folder} holds no pictures for {', '.join(empty)}")
    return {
        kind: torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) for kind, pictures in tiles.items()
    }


def _square(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    return picture[top : top + side, left : left + side]


def _resize(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))


def _repeat(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Fill a tile with copies of a small picture that tiles, so that none is enlarged by more than half."""
    copies = max(1, round(size / picture.shape[0]))
    while size % copies:
        copies -= 1
    return np.tile(_resize(picture, size // copies), (copies, copies, 1))


def _piece(picture: NDArray[np.uint8], share: float, dice: random.Random) -> NDArray[np.uint8]:
    side = max(8, int(min(picture.shape[:2]) * share))
    top, left = (dice.randrange(picture.shape[k] - side + 1) for k in range(2))
    return picture[top : top + side, left : left + side]


def _outlook(panorama: NDArray[np.uint8], dice: random.Random) -> NDArray[np.uint8]:
    """Cut a view of 35 to 75 degrees near the horizon out of an equirectangular picture."""
    height, width = panorama.shape[:2]
    side = int(width * (35 + 40 * dice.random()) / 360)
    top = int((height - side) * (0.4 + 0.2 * dice.random()))
    left = dice.randrange(width)
    return np.roll(panorama, -left, axis=1)[top : top + side, :side]
