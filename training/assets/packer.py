"""Make packed assets of the sources: meshes.npz, images.bin, catalogue.json and manifest.json in one folder.

The folder appears at once, when all of it has been written: whatever happens before that leaves an older one as it was.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from elvsm_core.files import owned

from . import geometry
from .geometry import Mesh, MeshError
from .glb import read_glb
from .obj import read_obj
from .roles import GLOWS, role_of
from .sources import AssetError, Credit, Library, Pack, Piece, sha256

FORMAT = 1
KIND = "packed assets"
"""What the markers of packed folders say."""
OUTDOORS = (
    "aristea", "chinese_garden", "city", "dawn", "esplanade", "forest", "hilly", "kloppenheim", "modern_buildings",
    "narrow_moonlit", "night", "noon_grass", "park", "peppermint", "phalzer", "rainforest", "sky", "st_peters",
    "sunrise",
    "sunset", "venice",
)  # fmt: skip
Image.MAX_IMAGE_PIXELS = 64_000_000


class Packer:
    """Collects assets; `write` makes the folder. report: called with a line now and then."""

    def __init__(self, report: Callable[[str], None] = print) -> None:
        self.report = report
        self.images: list[dict[str, Any]] = []
        self.blobs: list[bytes] = []
        self.known: dict[str, int] = {}
        self.meshes: list[dict[str, Any]] = []
        self.packed: list[dict[str, Any]] = []
        self.layouts: dict[str, Any] = {}
        self.credits: list[Credit] = []
        self.skipped: dict[str, str] = {}
        self.sources: dict[str, str] = {}

    # Images.

    def image(
        self, data: bytes, credit: Credit, kind: str, name: str, most: int, keep: bool = False
    ) -> int | None:
        """Add an image, at most `most` pixels wide, and return its number; None for one that cannot be read.

        keep: store the file as it is. The same file is stored once for each kind.
        """
        key = f"{kind}/{credit.sha256}"
        if key in self.known:
            return self.known[key]
        try:
            picture = Image.open(io.BytesIO(data))
            picture.load()
        except (
            UnidentifiedImageError,
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:
            self.skipped[f"{credit.source}:{credit.path}"] = f"broken image: {error}"
            return None
        width, height = picture.size
        has_alpha = picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
        picture = picture.convert("RGBA" if has_alpha else "RGB")
        if has_alpha and np.asarray(picture)[..., 3].min() > 200:
            picture, has_alpha = picture.convert("RGB"), False
        if not keep:
            target = tuple(min(most, 1 << max(0, round(math.log2(max(side, 1))))) for side in (width, height))
            if target != picture.size:
                picture = picture.resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0)
            out = io.BytesIO()
            picture.save(out, "WEBP", quality=80, method=4)
            data = out.getvalue()
        self.known[key] = number = len(self.images)
        self.images.append(
            {
                "name": name, "kind": kind, "bytes": len(data), "width": picture.width, "height": picture.height,
                "aspect": round(width / height, 4), "alpha": has_alpha, "credit": self.credit(credit),
                "mean": [round(float(x) / 255, 4) for x in np.asarray(picture.convert("RGB")).reshape(-1, 3).mean(0)],
            }
        )  # fmt: skip
        self.blobs.append(data)
        return number

    def credit(self, credit: Credit) -> int:
        self.credits.append(credit)
        return len(self.credits) - 1

    # Meshes.

    def mesh(
        self, mesh: Mesh, entry: dict[str, Any], textures: Callable[[str], int | None], limit: int
    ) -> bool:
        """Add a mesh with what the catalogue says of it; return False if it cannot be used, which is counted."""
        label = entry["label"]
        try:
            mesh = geometry.checked(mesh)
            if len(mesh) > 150_000:
                raise MeshError(f"{len(mesh)} triangles")
            small = geometry.simplify(mesh, limit)
            used = np.unique(small.slot)
            materials = []
            for slot in used:
                m = asdict(small.materials[slot])
                m["texture"] = None if m["texture"] is None else textures(m["texture"])
                m["glows"] = bool(entry.get("lamps")) and bool(GLOWS.search(m["name"]))
                materials.append(m)
            renumber = np.zeros(len(small.materials), np.int32)
            renumber[used] = np.arange(len(used))
            if len(used) > 255:
                raise MeshError(f"{len(used)} materials")
            kept = Mesh(
                small.position,
                small.normal,
                small.uv,
                renumber[small.slot],
                tuple(small.materials[i] for i in used),
            )
            packed = geometry.pack(kept)
        except MeshError as error:
            self.skipped[label] = f"broken mesh: {error}"
            return False
        flat = kept.position.reshape(-1, 3)
        entry |= {
            "materials": materials, "triangles": len(kept), "vertices": len(packed["position"]),
            "low": flat.min(0).round(4).tolist(), "high": flat.max(0).round(4).tolist(),
        }  # fmt: skip
        self.meshes.append(entry)
        self.packed.append(packed)
        return True

    def add_library(self, library: Library, least: Callable[[Piece], bool] = lambda piece: True) -> None:
        """Add the furniture of a library that belongs into rooms; least: which pieces to take."""
        self.sources[library.name] = library.licence
        added = 0
        for piece in library.pieces():
            label = f"{library.name}:{piece.model}"
            role = role_of(piece.name, piece.category, piece.size, piece.elevation, piece.opening)
            if role is None or not least(piece):
                continue
            if not piece.creator and library.licence != "CC0-1.0":
                self.skipped[label] = "no creator in the catalogue, whom its licence wants credited"
                continue
            try:
                data = library.read(piece.model)
            except KeyError:
                self.skipped[label] = "the catalogue's model is not in the library"
                continue
            author = piece.creator or "not named (CC0)"
            credit = Credit(library.name, piece.model, library.licence, author, sha256(data))

            def texture(name: str, author: str = author, piece: Piece = piece) -> int | None:
                try:
                    data = library.read(name)
                except KeyError:
                    self.skipped[f"{library.name}:{name}"] = "texture missing"
                    return None
                c = Credit(library.name, name, library.licence, author, sha256(data))
                return self.image(data, c, "model", name, 256 if max(piece.size) > 0.5 else 128)

            try:
                mesh = stand(geometry.checked(read_obj(piece.model, library.read)), piece)
            except MeshError as error:
                self.skipped[label] = f"broken mesh: {error}"
                continue
            entry = {
                "label": label, "name": piece.name, "category": piece.category, "role": role,
                "size": [round(x, 4) for x in piece.size], "elevation": piece.elevation, "top": piece.top,
                "lamps": [[round(x, 3) for x in lamp] for lamp in piece.lamps], "credit": self.credit(credit),
            }  # fmt: skip
            added += self.mesh(mesh, entry, texture, geometry.limit_for(np.array(piece.size)))
        self.report(f"{library.name}: {added} meshes")

    def add_pack(self, pack: Pack) -> None:
        """Add textures, panoramas and worlds."""
        self.sources["pack"] = pack.version
        for path, (data, credit) in pack.files("textures_128.zip").items():
            self.image(data, credit, "surface", path.split("/")[0], 128, keep=True)
        for path, (data, credit) in pack.files("textures_512.zip").items():
            folder = path.split("/")[0]
            if folder in ("surface", "picture", "portrait"):
                kind = "surface" if folder == "surface" else "picture"
                self.image(data, credit, kind, Path(path).stem, 256)
        for path, (data, credit) in pack.files("panoramas.zip").items():
            if path.endswith(".jpg"):
                kind = "outdoors" if path.startswith(OUTDOORS) else "indoors"
                self.image(data, credit, kind, Path(path).stem, 1024)
        self._add_worlds(pack.files("worlds.zip"))
        self.skipped |= pack.skipped
        self.report(f"pack: {len(self.images)} images, {len(self.layouts)} layouts")

    def _add_worlds(self, files: dict[str, tuple[bytes, Credit]]) -> None:
        numbers: dict[str, int] = {}
        for path, (data, credit) in files.items():
            if not path.endswith(".glb"):
                continue
            try:
                mesh, images = read_glb(data)
                mesh = geometry.checked(mesh)
            except MeshError as error:
                self.skipped[f"worlds.zip/{path}"] = f"broken mesh: {error}"
                continue

            def texture(
                name: str, images: dict[str, bytes] = images, credit: Credit = credit, path: str = path
            ) -> int | None:
                data = images[name]
                c = Credit(credit.source, f"{path}#{name}", credit.licence, credit.author, sha256(data))
                return self.image(data, c, "model", f"{path}#{name}", 256)

            plain = Path(path).stem.replace("aws_robomaker_", "").split("_", 1)[-1]
            size = np.ptp(mesh.position.reshape(-1, 3), axis=0)
            entry = {
                "label": path, "name": plain, "category": path.split("/")[0], "role": "world",
                "size": [round(float(x), 4) for x in size], "elevation": 0.0, "top": None, "lamps": [],
                "credit": self.credit(credit),
            }  # fmt: skip
            if self.mesh(mesh, entry, texture, 16000):
                numbers[path] = len(self.meshes) - 1
        for path, (data, credit) in files.items():
            if path.endswith(".json") and path != "models.json":
                layout = json.loads(data)
                placed = [
                    {"mesh": numbers[p["file"]], "matrix": to_z_up(p["matrix_gltf"])}
                    for p in layout["placements"]
                    if p.get("file") in numbers
                ]
                lights = [x["position"] for x in layout["lights"] if x.get("type") != "directional"]
                self.layouts[Path(path).stem] = {
                    "placements": placed,
                    "lights": lights,
                    "credit": self.credit(credit),
                }

    # Writing.

    def write(self, out: Path) -> dict[str, Any]:
        """Write the folder and return its manifest. Raises AssetError when the disk is full, say."""
        if not self.meshes and not self.images:
            raise AssetError("there is nothing to pack: every file was left out, see the reasons above")
        out = out.resolve()
        try:
            with owned.temporary(out, KIND) as scratch:
                folder = scratch / out.name
                folder.mkdir()
                manifest = self._fill(folder)
                owned.mark(folder, KIND)
                replace_folder(folder, out, scratch / "old")
        except owned.ForeignFolderError as error:
            raise AssetError(str(error)) from error
        except OSError as error:
            raise AssetError(
                f"cannot write {out}: {error.strerror}; what was there before is unchanged"
            ) from error
        return manifest

    def _fill(self, folder: Path) -> dict[str, Any]:
        arrays = join(self.packed)
        with zipfile.ZipFile(folder / "meshes.npz", "w", zipfile.ZIP_LZMA) as archive:
            for name, value in arrays.items():
                out = io.BytesIO()
                np.lib.format.write_array(out, np.ascontiguousarray(value), allow_pickle=False)
                archive.writestr(f"{name}.npy", out.getvalue())
        (folder / "images.bin").write_bytes(b"".join(self.blobs))
        catalogue = {"format": FORMAT, "meshes": self.meshes, "images": self.images, "layouts": self.layouts}
        (folder / "catalogue.json").write_text(json.dumps(catalogue, separators=(",", ":")))
        names = ("meshes.npz", "images.bin", "catalogue.json")
        manifest = {
            "format": FORMAT, "sources": self.sources, "files": [asdict(c) for c in self.credits],
            "skipped": self.skipped,
            "outputs": {name: sha256((folder / name).read_bytes()) for name in names},
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=0))
        (folder / "NOTICE").write_text(notice(self.credits))
        for file in folder.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        return manifest


def stand(mesh: Mesh, piece: Piece) -> Mesh:
    """Turn a model of a catalogue upright: metres, z up, its back towards +y, the floor's middle below it at the
    origin."""
    position, normal = mesh.position, mesh.normal
    if piece.rotation is not None:
        turn = np.array(piece.rotation, np.float32).reshape(3, 3)
        position, normal = position @ turn.T, normal @ turn.T
    # y is up in the file and the front looks along +z.
    turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)
    position, normal = position @ turn.T, normal @ turn.T
    flat = position.reshape(-1, 3)
    low, high = flat.min(0), flat.max(0)
    scale = np.array(piece.size, np.float32) / np.maximum(high - low, 1e-6)
    middle = (low + high) / 2
    middle[2] = low[2]
    normal = normal / scale
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    return Mesh(
        ((position - middle) * scale).astype(np.float32),
        normal.astype(np.float32),
        mesh.uv,
        mesh.slot,
        mesh.materials,
    )


def to_z_up(matrix: list[list[float]]) -> list[list[float]]:
    """Change the axes of a glTF placement from y up to z up on both sides."""
    turn = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    out = turn @ np.array(matrix) @ turn.T
    return [[round(float(x), 6) for x in row] for row in out]


def join(packed: list[dict[str, Any]]) -> dict[str, Any]:
    """Concatenate meshes; faces and positions as differences, which compress better."""
    out: dict[str, Any] = {}
    for name in ("low", "span", "uv_low", "uv_span"):
        width = 3 if name in ("low", "span") else 2
        out[name] = np.array([p[name] for p in packed], np.float32).reshape(-1, width)
    for name, kind, width in (("position", np.uint16, 3), ("uv", np.uint16, 2), ("normal", np.int8, 2)):
        parts = [np.diff(p[name], axis=0, prepend=np.zeros((1, width), p[name].dtype)) for p in packed]
        joined = np.concatenate(parts).astype(kind) if parts else np.zeros((0, width), kind)
        for k in range(width):
            out[f"{name}{k}"] = planes(joined[:, k])
    faces = [np.diff(p["face"].astype(np.int32).reshape(-1), prepend=0) for p in packed]
    face = np.concatenate(faces).astype(np.int32) if faces else np.zeros(0, np.int32)
    out["face"] = planes((face << 1) ^ (face >> 31))  # zigzag: small numbers, whatever their sign
    out["slot"] = np.concatenate([p["slot"] for p in packed]) if packed else np.zeros(0, np.uint8)
    return out


def planes(values: Any) -> Any:
    """Return a vector's bytes plane by plane, [bytes of a value, n]."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1).T.copy()


def replace_folder(new: Path, out: Path, old: Path) -> None:
    """Put a finished folder in place of another one that this program packed, which goes to `old`.

    Raises ForeignFolderError for another one that is not empty.
    """
    if not out.exists():
        os.rename(new, out)
        return
    owned.claim(out, KIND)
    os.rename(out, old)
    try:
        os.rename(new, out)
    except OSError:
        os.rename(old, out)
        raise


def notice(credits: list[Credit]) -> str:
    """Return who has to be credited: a line for each source, licence and author, with what is theirs."""
    groups: dict[tuple[str, str, str], set[str]] = {}
    for c in credits:
        groups.setdefault((c.source, c.licence, c.author), set()).add(c.path)
    lines = ["Assets by these authors, under these licences:", ""]
    for (source, licence, author), paths in sorted(groups.items()):
        shown = sorted(paths)
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        lines.append(f"{source} ({licence}): {author}: {', '.join(shown[:3])}{more}")
    return "\n".join(lines) + "\n"
