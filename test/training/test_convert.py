"""Converting between chunks and folders: nothing shifts, nothing is lost, and it goes on where it stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elvsm_core.files.atomic import write_bytes
from training.convert import main
from training.data.conversion import (
    chunk_entry,
    encode,
    pack_cameras,
    to_chunks,
    to_folders,
    write_chunk,
)
from training.data.formats import open_store
from training.data.readers.re10k import parse_cameras
from training.data.store import DatasetError, FrameError


def test_there_and_back_without_loss(mini_re10k, tmp_path):
    source = open_store(mini_re10k)
    assert not to_folders(source, tmp_path / "folders", workers=2).failed
    folders = open_store(tmp_path / "folders")
    report = to_chunks(folders, tmp_path / "chunks", "png", chunk_bytes=1)
    assert len(list((tmp_path / "chunks").glob("*.torch"))) == 3 and len(report.written) == 3
    back = open_store(tmp_path / "chunks")
    assert folders.keys == back.keys == source.keys
    for key in source.keys:
        a, b = source.scene(key), back.scene(key)
        np.testing.assert_array_equal(a.w2c, b.w2c)
        for i in (0, 17, 31):
            np.testing.assert_array_equal(np.asarray(a.frame(i).image), np.asarray(b.frame(i).image))
            np.testing.assert_allclose(a.frame(i).fxfycxcy, b.frame(i).fxfycxcy, rtol=1e-6)


def test_chunks_are_written_as_pixelsplat_writes_them(mini_scenes, tmp_path):
    mini = mini_scenes[0]
    write_chunk(tmp_path / "000000.torch", [mini.entry()])
    (scene,) = torch.load(tmp_path / "000000.torch", weights_only=True)
    assert scene["key"] == mini.key and scene["cameras"].shape == (32, 18)
    assert scene["cameras"].dtype == torch.float32
    assert all(
        image.dtype == torch.uint8 and bytes(image[:2].numpy()) == b"\xff\xd8" for image in scene["images"]
    )
    w2c, relative = parse_cameras(scene["cameras"].numpy(), "key")
    np.testing.assert_allclose(w2c, mini.w2c, atol=1e-6)
    np.testing.assert_allclose(relative, mini.relative, rtol=1e-6)
    np.testing.assert_array_equal(pack_cameras(w2c, relative), scene["cameras"].numpy())


def test_jpeg_is_copied_and_png_encoded(mini_scenes, tmp_path):
    write_chunk(tmp_path / "a.torch", [mini_scenes[0].entry()])
    source = open_store(tmp_path / "a.torch")
    (key,) = source.keys
    to_chunks(source, tmp_path / "copy")
    copied = open_store(tmp_path / "copy").scene(key)
    assert all(copied.encoded(i) == source.scene(key).encoded(i) for i in range(32))
    write_chunk(tmp_path / "b.torch", [mini_scenes[0].entry("png")])
    to_chunks(open_store(tmp_path / "b.torch"), tmp_path / "encoded")
    frame = open_store(tmp_path / "encoded").scene(key).frame(4).image
    assert frame.format == "JPEG"
    assert np.abs(np.asarray(frame, dtype=float) - mini_scenes[0].images[4]).mean() < 4


@pytest.fixture
def damaged(mini_scenes, tmp_path):
    """A chunk of two scenes; of the first, frame 0 is missing and frame 6 cut; of the second, no frame
    decodes."""
    mini = mini_scenes[0]
    data = [encode(image, "png") for image in mini.images]
    data[0], data[6] = b"", data[6][:100]
    entries = [
        chunk_entry("holes", data, mini.w2c, mini.relative),
        chunk_entry("nothing", [b"x"] * 32, mini.w2c, mini.relative),
    ]
    write_chunk(tmp_path / "damaged.torch", entries)
    return tmp_path / "damaged.torch"


def test_damaged_frames_keep_their_places(damaged, mini_scenes, tmp_path):
    report = to_folders(open_store(damaged), tmp_path / "folders")
    assert report.missing == {"holes": [0, 6]} and list(report.failed) == ["nothing"]
    assert "frames [0, 6] are missing" in str(report)
    folders = open_store(tmp_path / "folders")
    scene = folders.scene("holes")
    assert list(folders.keys) == ["holes"] and len(scene) == 32
    np.testing.assert_array_equal(np.asarray(scene.frame(7).image), mini_scenes[0].images[7])
    np.testing.assert_allclose(scene.frame(7).w2c, mini_scenes[0].w2c[7], atol=1e-6)
    np.testing.assert_allclose(
        scene.pixels(0, (64, 36)), mini_scenes[0].relative[0] * [64, 36, 64, 36], rtol=1e-6
    )
    with pytest.raises(FrameError, match="frame 6 of scene holes is missing"):
        scene.frame(6)
    back = to_chunks(folders, tmp_path / "chunks", "png")
    assert back.missing == {"holes": [0, 6]}
    again = open_store(tmp_path / "chunks").scene("holes")
    np.testing.assert_array_equal(np.asarray(again.frame(31).image), mini_scenes[0].images[31])
    np.testing.assert_allclose(again.intrinsics[0], mini_scenes[0].relative[0], rtol=1e-5)


def test_folders_go_on_where_they_stopped(mini_re10k, tmp_path):
    source = open_store(mini_re10k)
    a, b, c = source.keys

    class Killed(Exception):
        pass

    def after_two(keys, description):
        yield from list(keys)[:2]
        raise Killed

    with pytest.raises(Killed):
        to_folders(source, tmp_path, progress=after_two)
    (tmp_path / "metadata" / f"{a}.json").write_text("{")  # as if cut
    untouched = (tmp_path / "images" / b / "00003.png").stat().st_mtime_ns
    report = to_folders(source, tmp_path)
    assert (report.written, report.kept) == ([a, c], [b])
    assert (tmp_path / "images" / b / "00003.png").stat().st_mtime_ns == untouched
    png = tmp_path / "images" / b / "00003.png"
    good = png.read_bytes()
    png.write_bytes(good[:-40] + bytes([good[-40] ^ 1]) + good[-39:])  # one bit
    Image.fromarray(np.zeros((36, 60, 3), dtype=np.uint8)).save(
        tmp_path / "images" / c / "00001.png"
    )  # another size
    assert to_folders(source, tmp_path).written == [b, c]
    assert png.read_bytes() == good
    assert to_folders(source, tmp_path).kept == [a, b, c]
    assert len((tmp_path / "full_list.txt").read_text().split()) == 3


def test_scenes_with_other_cameras_are_written_again(mini_scenes, tmp_path):
    mini, source = mini_scenes[0], tmp_path / "a.torch"
    write_chunk(source, [mini.entry("png")])
    to_folders(open_store(source), tmp_path / "folders")
    moved = mini.w2c.copy()
    moved[4, 0, 3] += 0.5
    write_chunk(source, [mini._replace(w2c=moved).entry("png")])
    assert to_folders(open_store(source), tmp_path / "folders").written == [mini.key]
    np.testing.assert_allclose(open_store(tmp_path / "folders").scene(mini.key).w2c, moved, atol=1e-6)


def test_a_repaired_source_replaces_missing_frames(damaged, mini_scenes, tmp_path):
    to_folders(open_store(damaged), tmp_path / "folders")
    assert to_folders(open_store(damaged), tmp_path / "folders").kept == ["holes"]
    mini = mini_scenes[0]
    data = [encode(image, "png") for image in mini.images]
    write_chunk(damaged, [chunk_entry("holes", data, mini.w2c, mini.relative)])
    report = to_folders(open_store(damaged), tmp_path / "folders")
    assert report.written == ["holes"] and not report.missing
    assert open_store(tmp_path / "folders").scene("holes").frame(6).image.size == (64, 36)


def test_chunks_go_on_where_they_stopped(mini_re10k, mini_scenes, tmp_path):
    source = open_store(mini_re10k)
    to_chunks(source, tmp_path, "png", chunk_bytes=1)
    (tmp_path / "index.json").unlink()
    cut = tmp_path / "000001.torch"
    cut.write_bytes(cut.read_bytes()[:-100])
    report = to_chunks(source, tmp_path, "png", chunk_bytes=1)
    assert len(report.kept) == 2 and len(report.written) == 1
    assert (tmp_path / "000001.torch.damaged").exists()
    assert set(json.loads((tmp_path / "index.json").read_text())) == set(source.keys)
    other = mini_scenes[0]
    source = tmp_path / "other" / "source.torch"
    write_chunk(source, [chunk_entry(other.key, [b"x"] * 32, other.w2c[::-1], other.relative)])
    clash = to_chunks(open_store(source), tmp_path, "png")
    assert "another scene of this name" in clash.failed[other.key]


def test_a_full_disk_leaves_no_half_files(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    write_bytes(tmp_path / "a", b"before")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(tmp_path / "a", b"after")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"before"


def test_command(mini_re10k, damaged, tmp_path, capsys):
    assert main([str(mini_re10k), str(tmp_path / "folders"), "--to", "folders", "--workers", "1"]) == 0
    assert "3 scenes written" in capsys.readouterr().out
    main([str(tmp_path / "folders"), str(tmp_path / "chunks"), "--to", "chunks"])
    assert len(open_store(tmp_path / "chunks")) == 3
    assert main([str(damaged), str(tmp_path / "more"), "--to", "folders"]) == 1
    assert "nothing failed" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "more"), "--to", "folders"]) == 2
    assert "there is no dataset" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="'jpeg' or 'png'"):
        encode(np.zeros((8, 8, 3), dtype=np.uint8), "bmp")


@pytest.mark.parametrize(
    "name", ["../../outside", "/tmp/elvsm-outside", "a/b", "..", ".hidden", "a\\b", "", "x" * 300, "a\nb"]
)
def test_a_scenes_name_leads_nowhere(mini_scenes, tmp_path, name):
    one = mini_scenes[0]
    source, out = tmp_path / "source.torch", tmp_path / "deep" / "er" / "out"
    png = [encode(np.zeros((8, 8, 3), dtype=np.uint8), "png")] * 32
    write_chunk(source, [chunk_entry(name, png, one.w2c, one.relative)])
    flat = name in ("a/b", "/tmp/elvsm-outside")  # a scene in a folder of folders; its name becomes a_b
    assert main([str(source), str(out), "--to", "folders", "--workers", "1"]) == (0 if flat else 1)
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p != source]
    assert all(out in p.parents for p in written) and not Path("/tmp/elvsm-outside").exists()
    assert flat or [p.name for p in written] == ["full_list.txt"]
    assert not flat or sorted(p.name for p in (out / "images").iterdir()) == [name.replace("/", "_")]
    assert main([str(source), str(out / "more"), "--to", "cameras", "--workers", "1"]) == (0 if flat else 1)
    assert all(out in p.parents for p in tmp_path.rglob("*") if p.is_file() and p != source)


def test_files_of_somebody_else_are_not_put_aside(mini_re10k, tmp_path):
    mine = tmp_path / "weights.torch"
    mine.write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"weights\.torch cannot be read and was not written"):
        to_chunks(open_store(mini_re10k), tmp_path)
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    for name in ("000000.torch", "000000.torch.damaged"):
        (tmp_path / name).write_bytes(name.encode())
    to_chunks(open_store(mini_re10k), tmp_path)
    assert (tmp_path / "000000.torch.damaged").read_bytes() == b"000000.torch.damaged"
    assert (tmp_path / "000000.torch.damaged1").read_bytes() == b"000000.torch"
