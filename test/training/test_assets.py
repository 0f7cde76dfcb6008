"""The packer of meshes, textures and panoramas: what it keeps, what it leaves out, what it never destroys."""

import json
import subprocess
import sys

import numpy as np
import pytest

from training.assets.packed import decode, load_packed
from training.assets.packer import Packer
from training.assets.roles import role_of
from training.assets.sources import AssetError, Library, Pack, open_libraries

from .mesh_assets import CUBE, MTL, entry, glb, image, library, pack, simple_library


def packed_library(path, tmp_path):
    packer = Packer(report=lambda line: None)
    packer.add_library(Library(path))
    packer.write(tmp_path / "packed")
    return load_packed(tmp_path / "packed"), packer


def test_a_model_comes_back_upright_in_metres_with_its_materials_and_author(tmp_path):
    assets, _ = packed_library(simple_library(tmp_path), tmp_path)
    (mesh,) = assets.catalogue["meshes"]
    assert mesh["role"] == "desk" and mesh["triangles"] == 12
    np.testing.assert_allclose(assets.position.min(0), [-0.4, -0.8, 0.0], atol=1e-4)
    np.testing.assert_allclose(assets.position.max(0), [0.4, 0.8, 0.4], atol=1e-4)
    # The face at +z of the file is the front: it looks along -y here, and bears the texture upright.
    front = assets.face[assets.slot == [m["name"] for m in mesh["materials"]].index("front")]
    np.testing.assert_allclose(assets.normal[front].reshape(-1, 3), [[0, -1, 0]] * 6, atol=0.02)
    upper = assets.position[front].reshape(-1, 3)[:, 2] > 0.2
    np.testing.assert_allclose(assets.uv[front].reshape(-1, 2)[:, 1], upper, atol=1e-4)
    assert mesh["materials"][1]["colour"] == [0.2, 0.4, 0.6]
    row = assets.manifest["files"][mesh["credit"]]
    assert (row["author"], row["licence"], row["source"]) == ("Ada", "CC-BY-3.0", "Scopia")
    assert "Ada" in (tmp_path / "packed" / "NOTICE").read_text()


def test_textures_keep_their_colour(tmp_path):
    assets, _ = packed_library(simple_library(tmp_path), tmp_path)
    pixels = decode(assets.images[0])
    assert np.abs(pixels[..., :3].reshape(-1, 3).mean(0) - [200, 30, 30]).max() < 6


def test_negative_numbers_quads_and_missing_normals_are_read(tmp_path):
    relative = CUBE.replace("f 5/1 6/2 7/3 8/4", "f -4/1 -3/2 -2/3 -1/4")
    files = {"a/cube.obj": relative, "a/cube.mtl": MTL, "a/front.png": image()}
    a, _ = packed_library(
        library(tmp_path / "Scopia.sh3f", files, entry(1, "Table", "/a/cube.obj")), tmp_path
    )
    (tmp_path / "b").mkdir()
    b, _ = packed_library(simple_library(tmp_path / "b"), tmp_path / "b")
    np.testing.assert_array_equal(a.position[a.face], b.position[b.face])


def test_a_large_model_is_simplified_and_keeps_its_shape_and_texture(tmp_path):
    pytest.importorskip("fast_simplification", reason="extra [train]")
    n = 80
    lines = [f"v {x / n} {y / n} {0.05 * np.sin(9 * x / n)}" for y in range(n + 1) for x in range(n + 1)]
    lines += [f"vt {x / n} {y / n}" for y in range(n + 1) for x in range(n + 1)]
    for y in range(n):
        for x in range(n):
            a, b = y * (n + 1) + x + 1, (y + 1) * (n + 1) + x + 1
            lines.append(f"f {a}/{a} {a + 1}/{a + 1} {b + 1}/{b + 1} {b}/{b}")
    catalogue = entry(1, "Painting", "/a/wave.obj", width=100, depth=10, height=100)
    files = {
        "a/wave.obj": "mtllib m.mtl\nusemtl front\n" + "\n".join(lines),
        "a/m.mtl": MTL,
        "a/front.png": image(),
    }
    files |= {"a/m.mtl": MTL}
    assets, _ = packed_library(library(tmp_path / "Scopia.sh3f", files, catalogue), tmp_path)
    (mesh,) = assets.catalogue["meshes"]
    assert 1000 < mesh["triangles"] <= 7200 < 2 * n * n
    place = assets.position[assets.face].reshape(-1, 3)
    uv = assets.uv[assets.face].reshape(-1, 2)
    np.testing.assert_allclose(place[:, 0] + 0.5, uv[:, 0], atol=0.03)
    np.testing.assert_allclose(place[:, 2], uv[:, 1], atol=0.03)


def test_the_pack_gives_textures_panoramas_and_a_layout(tmp_path):
    packer = Packer(report=lambda line: None)
    packer.add_pack(Pack(tmp_path, pack(tmp_path)))
    packer.write(tmp_path / "out")
    catalogue = load_packed(tmp_path / "out").catalogue
    kinds = [i["kind"] for i in catalogue["images"]]
    assert sorted(kinds) == ["indoors", "model", "outdoors", "picture", "surface", "surface", "surface"]
    placed = catalogue["layouts"]["tiny"]["placements"]
    ground = catalogue["meshes"][placed[0]["mesh"]]
    assert ground["low"] == [-1, -1, 0.5] and ground["high"] == [1, 1, 0.5]  # z is up


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"leave_out": ("Wood/Wood001.webp",)}, "no row in MANIFEST.csv"),
        ({"licences": {"Wood/Wood001.webp": "CC-BY-NC-4.0"}}, "licence 'CC-BY-NC-4.0' is not among"),
        ({"licences": {"Wood/Wood001.webp": ""}}, "licence '' is not among"),
        ({"spoil": {"Wood/Wood001.webp": b"RIFF no picture"}}, "broken image"),
    ],
)
def test_a_file_that_is_not_covered_or_broken_is_left_out_and_counted(tmp_path, how, reason):
    packer = Packer(report=lambda line: None)
    packer.add_pack(Pack(tmp_path, pack(tmp_path, **how)))
    (found,) = packer.skipped.items()
    assert "Wood001" in found[0] and reason in found[1]
    assert "Wood" not in [i["name"] for i in packer.images]


def test_a_broken_glb_is_counted_and_its_layout_has_one_thing_less(tmp_path):
    packer = Packer(report=lambda line: None)
    packer.add_pack(Pack(tmp_path, pack(tmp_path, spoil={"tiny/models/ground.glb": glb()[:-4000]})))
    assert "broken mesh" in packer.skipped["worlds.zip/tiny/models/ground.glb"]
    assert packer.layouts["tiny"]["placements"] == []


def test_another_version_of_the_pack_is_an_error(tmp_path):
    pack(tmp_path)
    with pytest.raises(AssetError, match="another version of the pack"):
        Pack(tmp_path)
    with pytest.raises(AssetError, match=r"no MANIFEST\.csv"):
        Pack(tmp_path / "nowhere", {})


@pytest.mark.parametrize(
    ("files", "catalogue", "reason"),
    [
        ({"a/cube.obj": "o nothing"}, entry(1, "Table", "/a/cube.obj"), "broken mesh: no faces"),
        (
            {"a/cube.obj": "v 0 0 0\nv 1 0 0\nf 1 2 7"},
            entry(1, "Table", "/a/cube.obj"),
            "names vertex 7 of 2",
        ),
        (
            {"a/cube.obj": "v 0 0 x\nv 1 0 0\nv 0 1 0\nf 1 2 3"},
            entry(1, "Table", "/a/cube.obj"),
            "have an area",
        ),
        ({}, entry(1, "Table", "/a/cube.obj"), "not in the library"),
        ({"a/cube.obj": CUBE}, entry(1, "Table", "/a/cube.obj", creator=""), "no creator"),
    ],
)
def test_a_broken_or_uncredited_model_is_left_out_and_counted(tmp_path, files, catalogue, reason):
    packer = Packer(report=lambda line: None)
    packer.add_library(Library(library(tmp_path / "Scopia.sh3f", files, catalogue)))
    assert packer.meshes == [] and reason in packer.skipped["Scopia:a/cube.obj"]


def test_a_library_without_its_licence_is_an_error(tmp_path):
    with pytest.raises(AssetError, match=r"LICENSE\.TXT"):
        Library(library(tmp_path / "Scopia.sh3f", {}, "", licence="all rights reserved"))
    with pytest.raises(AssetError, match="its licence is not known"):
        Library(library(tmp_path / "Unknown.sh3f", {}, ""))
    with pytest.raises(AssetError, match="apt-get download"):
        open_libraries(tmp_path / "missing.deb", tmp_path)


FILL = """
import resource, sys
from pathlib import Path
from training.assets.packer import Packer
from training.assets.sources import AssetError, Library
packer = Packer(report=lambda line: None)
packer.add_library(Library(Path(sys.argv[1])))
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))  # writing more fails, as on a full disk
try:
    packer.write(Path(sys.argv[2]))
except AssetError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(tmp_path):
    source = simple_library(tmp_path)
    packed_library(source, tmp_path)
    before = {f.name: f.read_bytes() for f in (tmp_path / "packed").iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(source), str(tmp_path / "packed")], capture_output=True, text=True
    )
    assert done.returncode == 3 and "what was there before is unchanged" in done.stdout, done.stderr
    assert {f.name: f.read_bytes() for f in (tmp_path / "packed").iterdir()} == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["Scopia.sh3f", "packed"]


def test_packing_again_replaces_the_folder(tmp_path):
    source = simple_library(tmp_path)
    packed_library(source, tmp_path)
    (tmp_path / "packed" / "old").write_text("from before")
    packed_library(source, tmp_path)
    assert not (tmp_path / "packed" / "old").exists()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["Scopia.sh3f", "packed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["packed", ".packed-old"])
def test_a_folder_of_somebody_else_is_neither_replaced_nor_deleted(name, tmp_path):
    source = simple_library(tmp_path)
    mine = tmp_path / name
    mine.mkdir()
    (mine / "photo.jpg").write_text("mine")
    command = ["-m", "training.assets", "--furniture", str(source), "--out", str(tmp_path / "packed")]
    for _ in range(2):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert done.returncode == (name == "packed"), done.stderr
        assert name == ".packed-old" or f"{mine} was not made by this program" in done.stderr
        assert [(file.name, file.read_text()) for file in mine.iterdir()] == [("photo.jpg", "mine")]


def test_damaged_or_uncredited_packed_assets_are_errors(tmp_path):
    packed_library(simple_library(tmp_path), tmp_path)
    folder = tmp_path / "packed"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": []}))
    with pytest.raises(AssetError, match=r"no licence in manifest\.json"):
        load_packed(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(AssetError, match="format 0"):
        load_packed(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    data = bytearray((folder / "meshes.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "meshes.npz").write_bytes(data)
    with pytest.raises(AssetError, match="is not the file"):
        load_packed(folder)
    with pytest.raises(AssetError, match="holds no packed assets"):
        load_packed(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "category", "size", "elevation", "role"),
    [
        ("Sofa", "Living room", (2.0, 0.9, 0.8), 0.0, "wall"),
        ("Chair", "Office", (0.5, 0.5, 0.9), 0.0, "seat"),
        ("Table", "Living room", (1.4, 0.9, 0.75), 0.0, "desk"),
        ("Coffee cup", "Kitchen", (0.1, 0.1, 0.1), 0.0, "clutter"),
        ("Pendant lamp", "Lights", (0.1, 0.8, 0.6), 1.9, "ceiling"),
        ("Wall flat TV", "Living room", (1.0, 0.1, 0.7), 1.0, "hung"),
        ("Yucca", "Living room", (1.0, 1.0, 1.8), 0.0, "plant"),
        ("Concept Sedan 01", "Vehicles", (1.8, 4.5, 1.5), 0.0, None),
    ],
)
def test_roles(name, category, size, elevation, role):
    assert role_of(name, category, size, elevation, False) == role
