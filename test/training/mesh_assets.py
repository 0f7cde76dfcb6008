"""Small sources of assets for tests: a furniture library, a pack of textures, panoramas and a world."""

import csv
import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from training.assets.sources import COLUMNS

CUBE = """mtllib cube.mtl
v 0 0 0
v 2 0 0
v 2 1 0
v 0 1 0
v 0 0 4
v 2 0 4
v 2 1 4
v 0 1 4
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl front
f 5/1 6/2 7/3 8/4
usemtl rest
f 1/1 4/2 3/3 2/4
f 1/1 2/2 6/3 5/4
f 4/1 8/2 7/3 3/4
f 1/1 5/2 8/3 4/4
f 2/1 3/2 7/3 6/4
"""
MTL = """newmtl front
Kd 1 1 1
map_Kd front.png
newmtl rest
Kd 0.2 0.4 0.6
Ks 0.5 0.5 0.5
Ns 30
"""
BY = "This file is under the Creative Commons Attribution 3.0 license: http://creativecommons.org/licenses/by/3.0/"


def image(size=(32, 32), colour=None, kind="PNG", seed=0):
    """Return an image file: one colour, or noise."""
    rng = np.random.default_rng(seed)
    pixels = (
        np.full((size[1], size[0], 3), colour, np.uint8)
        if colour
        else rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def entry(number, name, model, category="Living room", creator="Ada", width=80, depth=160, height=40):
    lines = {"name": name, "model": model, "category": category, "width": width, "depth": depth, "height": height,
             "movable": "true", "doorOrWindow": "false"} | ({"creator": creator} if creator else {})  # fmt: skip
    return "".join(f"{key}#{number}={value}\n" for key, value in lines.items())


def library(path: Path, files: dict, catalogue: str, licence: str = BY) -> Path:
    """Write a .sh3f file. Its name says which library it is."""
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("PluginFurnitureCatalog.properties", catalogue)
        z.writestr("LICENSE.TXT", licence)
        for name, data in files.items():
            z.writestr(name, data)
    return path


def simple_library(folder: Path) -> Path:
    files = {"a/cube.obj": CUBE, "a/cube.mtl": MTL, "a/front.png": image(colour=(200, 30, 30))}
    return library(folder / "Scopia.sh3f", files, entry(1, "Table", "/a/cube.obj"))


def glb(textured=True) -> bytes:
    """Return a square of 2 x 2 metres on the ground (y up) with a texture."""
    position = np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], np.float32)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    index = np.array([0, 2, 1, 0, 3, 2], np.uint16)
    picture = image(kind="JPEG")
    picture += b"\0" * (-len(picture) % 4)
    blob = position.tobytes() + uv.tobytes() + index.tobytes() + picture
    views, at = [], 0
    for part in (position.tobytes(), uv.tobytes(), index.tobytes(), picture):
        views.append({"buffer": 0, "byteOffset": at, "byteLength": len(part)})
        at += len(part)
    scene = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0,
        "translation": [0, 0.5, 0]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": 4, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5123, "count": 6, "type": "SCALAR"},
        ],
        "bufferViews": views, "buffers": [{"byteLength": len(blob)}], "images": [{"bufferView": 3,
        "mimeType": "image/jpeg"}],
        "textures": [{"source": 0}],
        "materials": [{"name": "ground",
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}} if textured else {}}],
    }  # fmt: skip
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    chunks = (
        struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x004E4942) + blob
    )
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def layout() -> str:
    placements = [{"model": "ground", "file": "tiny/models/ground.glb", "matrix_gltf": np.eye(4).tolist()}]
    return json.dumps({"placements": placements, "lights": []})


def pack(folder: Path, leave_out=(), licences=None, spoil=None) -> dict[str, str]:
    """Write a pack and return its version. leave_out: paths without a row; licences, spoil: path -> licence, bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "textures_128.zip": {"Wood/Wood001.webp": image(kind="WEBP"), "Paint/Paint001.webp": image(kind="WEBP",
        seed=1)},
        "textures_512.zip": {"surface/oak.webp": image((48, 40), kind="WEBP"), "picture/boat.webp": image((40, 30),
        kind="WEBP"),
                             "atlas/parts.webp": image(kind="WEBP")},
        "panoramas.zip": {"lab.jpg": image((64, 32), kind="JPEG"), "park__x.jpg": image((64, 32), kind="JPEG", seed=2)},
        "worlds.zip": {"tiny/models/ground.glb": glb(), "tiny/tiny.json": layout().encode(), "models.json": b"{}"},
    }  # fmt: skip
    rows = []
    for name, files in content.items():
        with zipfile.ZipFile(folder / name, "w") as z:
            for path, data in files.items():
                z.writestr(path, (spoil or {}).get(path, data))
                if path not in leave_out:
                    licence = (licences or {}).get(path, "CC0-1.0")
                    rows.append(
                        dict(
                            zip(
                                COLUMNS,
                                (name, path, "someone/pictures", "abcdef012345", path, licence, "Bob"),
                                strict=True,
                            )
                        )
                    )
    with (folder / "MANIFEST.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return {"test": hashlib.sha256((folder / "MANIFEST.csv").read_bytes()).hexdigest()}
