"""Packs of photographic textures: what the manifest covers gets into rooms, and nothing else."""

import csv
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from training.procedural.furniture import furnish
from training.procedural.photos import KINDS, MATERIALS, AssetError, AssetPack, photo_tiles
from training.procedural.textures import make_texture_bank
from training.settings import SettingsError, load_settings
from training.train import main

COLUMNS = ("zip", "path", "repository", "commit", "original_path", "licence", "attribution")


def picture(colour, size=(24, 24)):
    pixels = np.full((*size, 3), colour, dtype=np.uint8)
    pixels[::2, ::3] = 255 - pixels[::2, ::3]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_pack(folder, change=None, extra=None):
    """Write a pack with a picture or two of each kind; change: edits the manifest's rows, extra: further files."""
    files = {"textures_128.zip": {}, "textures_512.zip": {}, "panoramas.zip": {}}
    for number, names in enumerate(MATERIALS.values()):
        files["textures_128.zip"][f"{names[0]}/{names[0]}001.png"] = picture((40 * number, 90, 30))
    files["textures_128.zip"]["PineNeedles/PineNeedles001.png"] = picture((0, 255, 0))
    for folder_name in ("surface/wood_1", "picture/a", "portrait/b", "atlas/c"):
        files["textures_512.zip"][f"{folder_name}.png"] = picture((10, 20, 200), (48, 40))
    files["panoramas.zip"]["hall.jpg"] = picture((90, 120, 150), (64, 128))
    rows = [
        {"zip": archive, "path": name, "licence": "CC-BY-3.0", "attribution": f"Somebody's {name}"}
        for archive, members in files.items()
        for name in members
    ]
    if change is not None:
        change(rows)
    for archive, name, data in extra or []:
        files[archive][name] = data
    for archive, members in files.items():
        with zipfile.ZipFile(folder / archive, "w") as file:
            for name, data in members.items():
                file.writestr(name, data)
    with (folder / "MANIFEST.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="x")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_a_packs_pictures_become_tiles_and_get_into_rooms(tmp_path):
    pack = AssetPack(write_pack(tmp_path))
    tiles = photo_tiles(pack, 16, seed=1)
    assert tuple(tiles) == KINDS and all(
        x.dtype == torch.uint8 and x.shape[1:] == (3, 16, 16) for x in tiles.values()
    )
    assert len(tiles["photo_wood"]) == 2 and len(tiles["photo_view"]) == 6
    assert "Somebody's picture/a.png" in pack.credits()
    assert not any("Pine" in line for line in pack.credits()), "not for rooms"
    assert all(
        torch.equal(a, b) for a, b in zip(tiles.values(), photo_tiles(pack, 16, seed=1).values(), strict=True)
    )
    bank, plain = make_texture_bank(8, 16, 0, photos=tiles), make_texture_bank(8, 16, 0)
    first, count = bank.ranges["photo_view"]
    assert bank.tiles == 8 + sum(len(x) for x in tiles.values()) and count == 6
    assert torch.allclose(bank.image(first), tiles["photo_view"][0].float() / 255, atol=1e-6)
    assert torch.equal(bank.image(3), plain.image(3)), (
        "generated tiles are those of a bank without photographs"
    )

    def shares(photos):
        room = furnish(bank, 20, torch.Generator().manual_seed(2), "cpu", 0.5, photos)
        return (room.material[..., 0] >= 8).float().mean()

    assert shares(0.0) == 0 and 0.1 < shares(0.3) < shares(0.9) < 0.9
    with pytest.raises(ValueError, match="give a pack of assets"):
        furnish(plain, 2, torch.Generator().manual_seed(2), "cpu", 0.5, 0.5)


def test_what_the_manifest_does_not_cover_is_refused(tmp_path):
    def refused(name, **how):
        folder = tmp_path / name
        folder.mkdir()
        write_pack(folder, **how)
        with pytest.raises(AssetError) as error:
            photo_tiles(AssetPack(folder), 16)
        return str(error.value)

    unlisted = [("textures_512.zip", "picture/found.png", picture((1, 2, 3)))]
    assert "holds picture/found.png, which MANIFEST.csv does not list" in refused("unlisted", extra=unlisted)
    assert "under 'CC-BY-NC-4.0'" in refused("nc", change=lambda rows: rows[0].update(licence="CC-BY-NC-4.0"))
    assert "line 3: path, licence and attribution are all needed" in refused(
        "silent", change=lambda rows: rows[1].update(licence=" ")
    )
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(AssetError, match=r"MANIFEST\.csv cannot be read"):
        AssetPack(bare)
    whole = write_pack(bare)
    (whole / "panoramas.zip").write_bytes(b"PK cut")
    with pytest.raises(AssetError, match=r"panoramas\.zip cannot be read"):
        photo_tiles(AssetPack(whole), 16)


def test_a_damaged_picture_is_left_out_and_counted(tmp_path, caplog):
    damaged = ("textures_512.zip", "surface/wood_1.png", picture((1, 2, 3))[:60])
    pack = AssetPack(write_pack(tmp_path, extra=[damaged]))
    assert len(photo_tiles(pack, 16)["photo_wood"]) == 1
    assert pack.broken == ["textures_512.zip/surface/wood_1.png"] and "is left out" in caplog.text


def test_photographs_without_a_pack_are_an_error_of_settings(tmp_path, capsys):
    with pytest.raises(SettingsError, match=r"give data\.assets"):
        load_settings(None, ["data.scenes.photos=0.5"])
    nowhere = ["device=cpu", "compile=false", "eval_scenes=0", "logger=none", f"out={tmp_path}"]
    assert main([*nowhere, "data.scenes.photos=0.5", "data.assets=/nowhere"]) == 2
    assert "/nowhere is no pack of assets" in capsys.readouterr().err
