"""What assets are made from: Debian's package of furniture libraries, and the folder of zips with their manifest.

Each file that is used is covered: by a row of the pack's MANIFEST.csv with a licence that is known here, or by a
library's LICENSE.TXT together with the creator whom its catalogue names. What is not covered is left out and counted.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import subprocess
import tempfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

PACK_VERSIONS = {"pack of 2026-11-28": "b0a8882620ef1b459d2dd378399ea4c6bac7da3a6a5cde6a58bcb7b50ba4aa11"}
"""Manifests that this program knows: their SHA-256."""
LICENCES = ("CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "MIT-0", "Apache-2.0", "LicenseRef-Public-Domain")
"""Licences under which pictures may train weights that are published under Apache-2.0, as SPDX names."""
COLUMNS = ["zip", "path", "repository", "commit", "original_path", "licence", "attribution"]
FURNITURE_PACKAGE = re.compile(r"^sweethome3d-furniture\b")
LIBRARIES = {  # the licence's line in LICENSE.TXT that has to be there, and its SPDX name
    "BlendSwap-CC-0": (r"Creative Commons Zero|CC-?0|Public Domain", "CC0-1.0"),
    "BlendSwap-CC-BY": (r"Creative Commons Attribution 3\.0", "CC-BY-3.0"),
    "KatorLegaz": (r"Creative Commons Attribution 3\.0|Attribution 3\.0", "CC-BY-3.0"),
    "Reallusion": (r"Creative Commons Attribution 3\.0|Attribution 3\.0", "CC-BY-3.0"),
    "Scopia": (r"Creative Commons Attribution 3\.0", "CC-BY-3.0"),
}


class AssetError(ValueError):
    """Assets that cannot be used: the message names what is wrong and what to do."""


@dataclass(frozen=True)
class Credit:
    """Where a file comes from and what allows its use."""

    source: str
    path: str
    licence: str
    author: str
    sha256: str


@dataclass(frozen=True)
class Piece:
    """A piece of furniture of a catalogue; lengths in metres, lamps relative to its own box (0 to 1 per axis)."""

    library: str
    name: str
    category: str
    model: str
    size: tuple[float, float, float]
    elevation: float
    opening: bool
    creator: str
    rotation: tuple[float, ...] | None
    top: float | None
    lamps: tuple[tuple[float, float, float], ...]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Library:
    """One .sh3f file: a zip of models with a catalogue."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        try:
            self.zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise AssetError(f"{path} is not a furniture library (a zip): {error}") from error
        self.names = {n.lstrip("/"): n for n in self.zip.namelist()}
        if self.name not in LIBRARIES:
            raise AssetError(
                f"{path.name}: its licence is not known here; known libraries: {', '.join(LIBRARIES)}"
            )
        wanted, self.licence = LIBRARIES[self.name]
        text = self.read("LICENSE.TXT").decode("latin-1") if "LICENSE.TXT" in self.names else ""
        if not re.search(wanted, text, re.I):
            raise AssetError(
                f"{path.name}: LICENSE.TXT does not have the line {wanted!r}: it is another version"
            )

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises KeyError."""
        return self.zip.read(self.names[name.lstrip("/")])

    def pieces(self) -> list[Piece]:
        """Return what the catalogue lists."""
        rows: dict[int, dict[str, str]] = defaultdict(dict)
        for line in self.read("PluginFurnitureCatalog.properties").decode("latin-1").splitlines():
            match = re.match(r"(\w+)#(\d+)=(.*)", line.strip())
            if match:
                rows[int(match[2])][match[1]] = match[3].strip()
        found = []
        for row in rows.values():
            if not all(k in row for k in ("name", "model", "width", "depth", "height")):
                continue
            axes = [[float(x) for x in row.get(f"lightSource{a}", "").split()] for a in "XYZ"]
            size = (float(row["width"]) / 100, float(row["depth"]) / 100, float(row["height"]) / 100)
            lamps = tuple(
                (x / 100 / size[0], 1 - y / 100 / size[1], z / 100 / size[2])
                for x, y, z in zip(*axes, strict=False)
            )
            turn = tuple(float(x) for x in row["modelRotation"].split()) if "modelRotation" in row else None
            top = row.get("dropOnTopElevation")
            found.append(
                Piece(
                    self.name, row["name"], row.get("category", ""), row["model"].lstrip("/"), size,
                    float(row.get("elevation", 0)) / 100, row.get("doorOrWindow") == "true", row.get("creator", ""),
                    turn if turn is not None and len(turn) == 9 else None, float(top) / 100 if top else None, lamps,
                )
            )  # fmt: skip
        return found


def open_libraries(path: Path, scratch: Path) -> list[Library]:
    """Return the libraries of a .deb, or of a folder or single .sh3f file. Raises AssetError."""
    if not path.exists():
        raise AssetError(f"{path} does not exist: fetch it with `apt-get download sweethome3d-furniture`")
    if path.suffix == ".deb":
        try:
            subprocess.run(
                ["dpkg-deb", "-x", str(path), str(scratch)], check=True, capture_output=True, text=True
            )
        except FileNotFoundError as error:
            raise AssetError(
                "dpkg-deb is missing: unpack the package elsewhere and give its folder"
            ) from error
        except subprocess.CalledProcessError as error:
            raise AssetError(f"{path} is not a Debian package: {error.stderr.strip()}") from error
        path = scratch
    files = [path] if path.is_file() else sorted(path.rglob("*.sh3f"))
    if not files:
        raise AssetError(f"{path} holds no furniture libraries (*.sh3f)")
    return [Library(file) for file in files]


class Pack:
    """The folder of zips. versions: manifests that are accepted."""

    def __init__(self, folder: Path, versions: dict[str, str] | None = None) -> None:
        versions = PACK_VERSIONS if versions is None else versions
        self.folder = folder
        try:
            text = (folder / "MANIFEST.csv").read_bytes()
        except OSError as error:
            raise AssetError(f"{folder} has no MANIFEST.csv: it is no asset pack") from error
        digest = sha256(text)
        if digest not in versions.values():
            raise AssetError(
                f"{folder}/MANIFEST.csv has SHA-256 {digest[:16]}…: another version of the pack than"
                f" {', '.join(versions)}; read its licences, then add it to PACK_VERSIONS in training/assets/sources.py"
            )
        self.version = next(name for name, known in versions.items() if known == digest)
        rows = list(csv.DictReader(io.StringIO(text.decode())))
        if not rows or list(rows[0]) != COLUMNS:
            raise AssetError(f"{folder}/MANIFEST.csv must have the columns {', '.join(COLUMNS)}")
        self.rows = {(r["zip"], r["path"]): r for r in rows}
        self.skipped: dict[str, str] = {}

    def files(self, name: str) -> dict[str, tuple[bytes, Credit]]:
        """Return a zip's files that the manifest covers, by path; the others are counted in `skipped`."""
        out: dict[str, tuple[bytes, Credit]] = {}
        try:
            with zipfile.ZipFile(self.folder / name) as archive:
                for path in sorted(archive.namelist()):
                    if path.endswith("/") or path.startswith("licenses/"):
                        continue
                    row = self.rows.get((name, path))
                    label = f"{name}/{path}"
                    if row is None:
                        self.skipped[label] = "no row in MANIFEST.csv"
                    elif row["licence"] not in LICENCES:
                        self.skipped[label] = f"licence {row['licence']!r} is not among {', '.join(LICENCES)}"
                    elif not row["attribution"].strip():
                        self.skipped[label] = "nobody to credit in MANIFEST.csv"
                    else:
                        try:
                            data = archive.read(path)
                        except (zipfile.BadZipFile, OSError, EOFError) as error:
                            self.skipped[label] = f"damaged: {error}"
                            continue
                        source = f"{row['repository']}@{row['commit'][:7]}"
                        out[path] = (
                            data,
                            Credit(
                                source, row["original_path"], row["licence"], row["attribution"], sha256(data)
                            ),
                        )
        except (OSError, zipfile.BadZipFile) as error:
            raise AssetError(f"{self.folder / name} cannot be read: {error}") from error
        return out


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="assets-")
