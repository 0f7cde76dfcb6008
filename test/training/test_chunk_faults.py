"""Chunks of somebody's converter: one broken scene among good ones, and things in them that nobody needs."""

from __future__ import annotations

import collections
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.conversion import to_chunks
from training.data.formats import open_store
from training.data.inspection import inspect_store
from training.data.readers.chunks import ChunkError, open_chunk
from training.data.store import DatasetError
from training.sampling.samples import SKIPS, SampleConfig, TrainingSamples

CONFIG = SampleConfig(inputs=2, targets=3, image_size=32)


@pytest.fixture
def entries(mini_scenes) -> list[dict]:
    return [scene.entry() for scene in mini_scenes]


def write(folder: Path, entries: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(entries, folder / "000000.torch")
    return folder


def breakages() -> dict:
    def fewer(entry):
        entry["cameras"] = entry["cameras"][:19].clone()

    def lists(entry):
        entry["cameras"] = entry["cameras"].tolist()

    def pixels(entry):
        entry["images"][5] = entry["images"][5].float()

    def arrays(entry):
        entry["images"] = [image.numpy() for image in entry["images"]]

    def nameless(entry):
        del entry["key"]

    def gaps(entry):
        entry["images"][3] = entry["images"][3][::2]

    def count(entry):
        entry["images"] = 7

    return {f.__name__: f for f in (fewer, lists, pixels, arrays, nameless, gaps, count)}


@pytest.mark.parametrize("name", breakages())
def test_one_broken_scene_costs_only_itself(name, entries, tmp_path, caplog):
    breakages()[name](entries[1])
    folder = write(tmp_path / "chunks", entries)
    store = open_store(folder)
    assert list(store.keys) == sorted(entries[i]["key"] for i in (0, 2))
    (key,) = store.damaged
    assert key == ("number 1" if name == "nameless" else entries[1]["key"])
    assert str(folder / "000000.torch") in store.damaged[key] and caplog.records
    for good in store.keys:
        assert len(store.scene(good)) == 32 and store.scene(good).frame(31).image.size == (64, 36)
    # It is counted where people look: in a conversion's report, and by inspect.
    report = to_chunks(store, tmp_path / "out")
    assert len(report.written) == 2 and list(report.failed) == [key]
    found, _ = inspect_store(store, "re10k")
    assert found.scenes == 2 and list(found.damaged) == [key] and not found.healthy


def test_a_broken_scene_that_an_index_names_is_passed_over_and_counted(entries, tmp_path):
    breakages()["fewer"](entries[1])
    folder = write(tmp_path / "chunks", entries)
    names = ", ".join(f'"{entry["key"]}": "000000.torch"' for entry in entries)
    (folder / "index.json").write_text("{" + names + "}")
    store = open_store(folder)
    assert len(store) == 3
    with pytest.raises(DatasetError, match=r"32 images, cameras .19, 18., which should be .32, 18."):
        store.scene(entries[1]["key"])
    samples = TrainingSamples(store, CONFIG, seed=0)
    skipped = sum(samples[n]["skipped"] for n in range(3))
    assert dict(zip(SKIPS, skipped.tolist(), strict=True))["damaged scene"] >= 1


def test_a_chunk_of_nothing_but_broken_scenes_is_an_error(entries, tmp_path):
    for entry in entries:
        breakages()["fewer"](entry)
    with pytest.raises(ChunkError, match="none of its 3 scenes is usable"):
        open_chunk(write(tmp_path / "chunks", entries) / "000000.torch")


class Foreign:
    """A class that whoever reads the chunk does not have."""

    def __init__(self) -> None:
        self.text = "hello"


def test_what_nobody_needs_is_ignored(entries, tmp_path):
    plain = open_store(write(tmp_path / "plain", entries))
    for entry in entries:
        entry |= {
            "timestamp": np.float64(1.5),
            "count": np.int64(32),
            "valid": torch.ones(32, dtype=torch.bool),
            "path": Path("/data/scene"),
            "half": torch.zeros(3, dtype=torch.bfloat16),
            "complex": torch.zeros(3, dtype=torch.complex64),
            "array": np.arange(4),
            "objects": np.array([Path("a"), None], dtype=object),
            "slice": slice(1, 5),
            "set": {1, 2},
            "counter": collections.Counter("abc"),
            "foreign": Foreign(),
            "parameter": torch.nn.Parameter(torch.zeros(2)),
            "sliced": torch.arange(20)[5:15:2],
        }
    rich = open_store(write(tmp_path / "rich", entries))
    assert not rich.damaged
    for key in plain.keys:
        a, b = plain.scene(key), rich.scene(key)
        np.testing.assert_array_equal(a.w2c, b.w2c)
        np.testing.assert_array_equal(a.intrinsics, b.intrinsics)
        assert all(a.encoded(i) == b.encoded(i) for i in range(32))


def test_tensors_that_are_views_of_larger_ones(entries, tmp_path):
    expected = entries[0]["cameras"].clone()
    wide = torch.full((40, 25), 7.0)
    wide[4:36, 3:21] = expected
    entries[0]["cameras"] = wide[4:36, 3:21]
    entries[1]["cameras"] = expected.double()
    entries[2]["cameras"] = torch.nn.Parameter(expected.T.contiguous().T)
    images = entries[0]["images"]
    buffer = torch.cat([torch.zeros(5, dtype=torch.uint8), *images])
    entries[0]["images"] = list(buffer[5:].split([len(i) for i in images]))
    store = open_store(write(tmp_path / "chunks", entries))
    for entry in entries:
        scene = store.scene(entry["key"])
        np.testing.assert_allclose(scene.w2c[:, :3].reshape(-1, 12), expected[:, 6:].double(), rtol=1e-6)
    assert store.scene(entries[0]["key"]).encoded(9) == bytes(images[9].numpy())


def test_keys_that_are_numpy_texts_numbers_and_paths(entries, tmp_path):
    entries[0]["key"], entries[1]["key"], entries[2]["key"] = (
        np.str_("first"),
        np.int64(17),
        Path("hall/walk"),
    )
    store = open_store(write(tmp_path / "chunks", entries))
    assert list(store.keys) == ["17", "first", "hall/walk"]
    assert all(len(store.scene(key)) == 32 for key in store.keys)


class Exploit:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_no_code_of_a_chunk_is_run(entries, tmp_path):
    entries[0]["extra"] = Exploit(str(tmp_path / "ran"))
    entries[1]["key"] = Exploit(str(tmp_path / "ran"))
    store = open_store(write(tmp_path / "chunks", entries))
    assert len(store) == 3 and not (tmp_path / "ran").exists()


def test_pixels_where_fractions_are_meant(entries, tmp_path):
    entries[1]["cameras"][:, :4] *= torch.tensor([64.0, 36, 64, 36])
    store = open_store(write(tmp_path / "chunks", entries))
    with pytest.raises(
        DatasetError, match="they seem to be pixels where fractions of width and height are meant"
    ):
        store.scene(entries[1]["key"])
