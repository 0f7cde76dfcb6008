"""A real recording in the dataset's format: read, converted, drawn from and evaluated as RealEstate10K."""

import json

import numpy as np
import pytest
from PIL import Image

import elvsm_core as ec
from training.data.conversion import chunk_entry, to_folders, write_chunk, write_index
from training.data.readers.re10k import open_store
from training.evaluate import load_frames, main, neighbours, score
from training.sampling.samples import SampleConfig, TrainingSamples

FRAMES = 48
KEY = "office"


@pytest.fixture(scope="module")
def office(office_walk, tmp_path_factory):
    """A folder with one chunk: frames 0 to 47 of the walk, their JPEG files as they are."""
    walk = json.loads((office_walk / "cameras.json").read_text())
    frames = walk["frames"][:FRAMES]
    images = [(office_walk / "images" / frame["file"]).read_bytes() for frame in frames]
    w2c = np.linalg.inv([frame["c2w"] for frame in frames])
    relative = [
        walk["fx"] / walk["w"],
        walk["fy"] / walk["h"],
        walk["cx"] / walk["w"],
        walk["cy"] / walk["h"],
    ]
    folder = tmp_path_factory.mktemp("office")
    write_chunk(folder / "000000.torch", [chunk_entry(KEY, images, w2c, np.tile(relative, (FRAMES, 1)))])
    write_index(folder)
    return folder


def test_real_frames_survive_the_way_through_both_layouts(office, office_walk, tmp_path):
    store = open_store(office)
    assert not to_folders(store, tmp_path, workers=2).failed
    chunk, folder = store.scene(KEY), open_store(tmp_path).scene(KEY)
    names = sorted((office_walk / "images").iterdir())
    for i in (0, 20, FRAMES - 1):
        truth = np.asarray(Image.open(names[i]))
        for scene in (chunk, folder):
            np.testing.assert_array_equal(np.asarray(scene.frame(i).image), truth)
        np.testing.assert_allclose(folder.frame(i).fxfycxcy, chunk.frame(i).fxfycxcy, rtol=1e-6)
        np.testing.assert_allclose(folder.frame(i).w2c, chunk.frame(i).w2c, atol=1e-12)
    sample = TrainingSamples(store, SampleConfig(inputs=2, targets=6, image_size=64), seed=0)[0]
    assert sample["input_image"].shape == (2, 3, 64, 64) and int(sample["skipped"].sum()) == 0


def test_the_published_evaluation_gives_what_the_walks_own_gives(office, office_walk, tmp_path):
    index = tmp_path / "index.json"
    index.write_text(json.dumps({KEY: {"context": [18, 22], "target": [20]}}))
    command = ["--data", str(office), "--index", str(index), "--targets", "1", "--out", str(tmp_path / "out")]
    assert main([*command, "--no-lpips", "--device", "cpu", "--workers", "0", "--report", "0"]) == 0
    figure = json.loads((tmp_path / "out" / "metrics.json").read_text())["summary"]["psnr"]
    model = ec.load_model("demo", device="cpu", dtype="float32")
    walk = json.loads((office_walk / "cameras.json").read_text())
    (tmp_path / "cameras.json").write_text(json.dumps({**walk, "frames": walk["frames"][18:23]}))
    (tmp_path / "images").symlink_to(office_walk / "images")
    frames = load_frames(tmp_path, model.config.image_size)
    direct = score(model, *neighbours(frames, [2], [2]), inputs=2)
    # The published preprocessing resizes by another filter, and before the crop instead of after it.
    assert figure == pytest.approx(float(direct.psnr), abs=1.0)
    assert figure > float(direct.nearest_psnr) + 2
