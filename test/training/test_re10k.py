"""Reading RealEstate10K, and the samples drawn from it."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import elvsm_core as ec
from training.data.conversion import chunk_entry, encode, to_folders, write_chunk, write_index
from training.data.formats import open_store
from training.data.frames import c2w_from_w2c, preprocess_frame
from training.data.readers.chunks import ChunkError, open_chunk
from training.data.readers.re10k import main as re10k_main
from training.data.readers.re10k import open_store as open_re10k
from training.data.readers.re10k import parse_cameras
from training.data.store import DatasetError, FrameError
from training.sampling.samples import (
    SKIPS,
    EvaluationSamples,
    SampleConfig,
    StepSampler,
    TrainingSamples,
    read_index,
)

CONFIG = SampleConfig(inputs=2, targets=3, image_size=32)


def test_chunks_read_as_torch_load_reads_them(mini_re10k, mini_scenes):
    loaded = {s["key"]: s for f in mini_re10k.glob("*.torch") for s in torch.load(f, weights_only=True)}
    store = open_store(mini_re10k)
    assert list(store.keys) == sorted(loaded)
    for mini in mini_scenes:
        expected, scene = loaded[mini.key], store.scene(mini.key)
        assert len(scene) == len(expected["images"]) == 32
        assert all(scene.encoded(i) == bytes(expected["images"][i].numpy()) for i in range(32))
        rows = expected["cameras"].double().numpy()
        np.testing.assert_array_equal(scene.w2c[:, :3].reshape(-1, 12), rows[:, 6:])
        image, fxfycxcy, w2c = scene.frame(7)
        np.testing.assert_array_equal(np.asarray(image), mini.images[7])
        np.testing.assert_allclose(fxfycxcy, rows[7, :4] * [64, 36, 64, 36])
        np.testing.assert_allclose(w2c, mini.w2c[7], atol=1e-6)


def test_frames_that_share_one_buffer_are_cut_out(mini_scenes, tmp_path):
    data = [encode(image) for image in mini_scenes[0].images]
    buffer = torch.frombuffer(bytearray(b"".join(data)), dtype=torch.uint8)
    entry = mini_scenes[0].entry()
    entry["images"] = list(buffer.split([len(d) for d in data]))
    torch.save([entry], tmp_path / "shared.torch")
    scene = open_store(tmp_path).scene(mini_scenes[0].key)
    assert [scene.encoded(i) for i in range(32)] == data
    entry["cameras"] = entry["cameras"].T.contiguous().T
    torch.save([entry], tmp_path / "strided.torch")
    strided = open_chunk(tmp_path / "strided.torch").scenes[mini_scenes[0].key]
    np.testing.assert_array_equal(strided.cameras, entry["cameras"].numpy())


def test_index_and_scan_give_the_same_scenes(mini_re10k, tmp_path):
    for file in mini_re10k.glob("*.torch"):
        shutil.copy(file, tmp_path)
    assert open_store(tmp_path).keys == open_store(mini_re10k).keys
    one = open_store(tmp_path / "000001.torch")
    assert list(one.keys) == ["17d9303ee77c3a3d"]


def test_real_trajectories_are_rigid(test_data):
    files = sorted((test_data / "re10k" / "trajectories_raw").rglob("*.txt"))
    assert files
    for file in files:
        rows = np.array([line.split() for line in file.read_text().splitlines()[1:]], dtype=float)
        w2c, intrinsics = parse_cameras(rows[:, 1:], file.stem)
        ec.Camera(*intrinsics[0], 1, 1, np.linalg.inv(w2c[0]))
        assert (np.abs(np.linalg.det(w2c[:, :3, :3]) - 1) < 1e-3).all()


def test_a_sample_is_what_the_published_pipeline_prepares(mini_re10k):
    store = open_store(mini_re10k)
    sample = TrainingSamples(store, CONFIG, seed=1)[4]
    scene = store.scene(store.keys[sample["scene"]])
    assert sample["input_image"].shape == (2, 3, 32, 32) and sample["target_image"].shape == (3, 3, 32, 32)
    first, last = sample["input_frame"].tolist()
    assert 25 <= last - first < 32
    # Targets are drawn from all five views, and the poses are normalised over all five together.
    frame = scene.frame(first)
    pixels, intrinsics = preprocess_frame(frame.image, frame.fxfycxcy, 32)
    np.testing.assert_array_equal(sample["input_image"][0].numpy(), pixels)
    np.testing.assert_allclose(sample["input_fxfycxcy"][0].numpy(), intrinsics)
    five = torch.cat([sample["input_c2w"], sample["target_c2w"]])
    assert five[:, :3, 3].abs().max() <= 1 / 1.35 + 1e-6
    c2w = torch.from_numpy(c2w_from_w2c(scene.w2c))
    relative = torch.linalg.inv(sample["input_c2w"][0].double()) @ sample["input_c2w"][1].double()
    expected = torch.linalg.inv(c2w[first].double()) @ c2w[last].double()
    torch.testing.assert_close(relative[:3, :3], expected[:3, :3], atol=1e-5, rtol=0)


def test_samples_follow_from_seed_and_number_alone(mini_re10k):
    def drawn(sample):
        return sample["scene"], *sample["input_frame"].tolist(), *sample["target_frame"].tolist()

    def draw(seed, number):
        return drawn(TrainingSamples(open_store(mini_re10k), CONFIG, seed)[number])

    samples = TrainingSamples(open_store(mini_re10k), CONFIG, 3)
    assert [drawn(samples[n]) for n in (5, 0, 4, 5)] == [draw(3, n) for n in (5, 0, 4, 5)]
    assert len({draw(seed, n) for seed in (3, 4) for n in range(12)}) > 15
    for epoch in range(3):
        assert sorted(samples.scene_number(3 * epoch + i) for i in range(3)) == [0, 1, 2]
    orders = {tuple(samples.scene_number(3 * epoch + i) for i in range(3)) for epoch in range(20)}
    assert len(orders) > 3


def test_options_of_a_sample(mini_re10k):
    store = open_store(mini_re10k)
    apart = TrainingSamples(store, SampleConfig(2, 3, 32, target_has_input=False), 0)
    for n in range(6):
        sample = apart[n]
        assert not set(sample["input_frame"].tolist()) & set(sample["target_frame"].tolist())
    among = TrainingSamples(store, CONFIG, 0)
    assert any(
        set(among[n]["input_frame"].tolist()) & set(among[n]["target_frame"].tolist()) for n in range(6)
    )
    shuffled = TrainingSamples(store, SampleConfig(2, 3, 32, shuffle_inputs=True), 0)
    orders = [torch.diff(shuffled[n]["input_frame"]).sign().item() for n in range(12)]
    assert set(orders) == {1, -1}
    dynamic = TrainingSamples(store, SampleConfig(2, 3, 32, dynamic_inputs=(2, 3, 4), batch=4), 0)
    counts = [len(dynamic[n]["input_frame"]) for n in range(32)]
    assert set(counts) == {2, 3, 4}
    assert all(len(set(counts[i : i + 4])) == 1 for i in range(0, 32, 4))
    wide = TrainingSamples(store, SampleConfig(2, 3, 32, image_width=56), 0)
    assert wide[0]["input_image"].shape == (2, 3, 32, 56)
    apart_and_more = {"target_has_input": False, "dynamic_inputs": (3,)}
    for broken in ({"dynamic_inputs": (9,)}, {"image_size": 30}, {"inputs": 0}, apart_and_more):
        with pytest.raises(DatasetError):
            SampleConfig(**{"inputs": 2, "targets": 3, **broken})


def test_scenes_that_give_no_sample_are_counted_and_replaced(mini_scenes, tmp_path):
    good = mini_scenes[0]
    same = np.tile(good.w2c[3], (len(good.images), 1, 1))
    data = [encode(image) for image in good.images]
    portrait = [encode(np.rot90(image)) for image in good.images]
    cut = [image[: len(image) // 2] for image in data]
    nan = good.w2c.copy()
    nan[5, 0, 3] = np.nan
    write_chunk(
        tmp_path / "000000.torch",
        [
            chunk_entry("good", data, good.w2c, good.relative),
            chunk_entry("short", data[:26], good.w2c[:26], good.relative[:26]),
            chunk_entry("cut", cut, good.w2c, good.relative),
            chunk_entry("same", data, same, good.relative),
            chunk_entry("portrait", portrait, good.w2c, good.relative),
            chunk_entry("nan", data, nan, good.relative),
        ],
    )
    (tmp_path / "000001.torch").write_bytes((tmp_path / "000000.torch").read_bytes()[:5000])
    with pytest.raises(ChunkError, match="truncated"):
        write_index(tmp_path)
    store = open_store(tmp_path)  # no index: the damaged chunk is left out, and said
    assert list(store.unreadable) == [tmp_path / "000001.torch"]
    samples = TrainingSamples(store, CONFIG, seed=0)
    counted = Counter()
    for i in range(12):
        sample = samples[i]
        assert store.keys[sample["scene"]] == "good"
        counted.update(dict(zip(SKIPS, sample["skipped"].tolist(), strict=True)))
    assert all(counted[reason] > 0 for reason in SKIPS), counted
    only = tmp_path / "only"
    only.mkdir()
    write_chunk(only / "000000.torch", [chunk_entry("same", data, same, good.relative)])
    with pytest.raises(DatasetError, match="poses coincide 1000"):
        TrainingSamples(open_store(only), CONFIG, seed=0)[0]


def test_a_damaged_frame_never_shifts_the_others(mini_scenes, tmp_path):
    mini = mini_scenes[1]
    data = [encode(image, "png") for image in mini.images]
    data[3], data[9] = b"no image", b""
    write_chunk(tmp_path / "a.torch", [chunk_entry("key", data, mini.w2c, mini.relative)])
    scene = open_store(tmp_path).scene("key")
    assert len(scene) == 32
    with pytest.raises(FrameError, match="frame 3 of scene key does not decode"):
        scene.frame(3)
    with pytest.raises(FrameError, match="frame 9 of scene key is missing"):
        scene.frame(9)
    np.testing.assert_array_equal(np.asarray(scene.frame(10).image), mini.images[10])
    with pytest.raises(DatasetError, match="32 frames"):
        scene.frame(32)


def test_grey_and_transparent_frames(mini_scenes, tmp_path):
    mini = mini_scenes[0]
    pictures = [Image.fromarray(image) for image in mini.images]
    data = [encode(p.convert(("L", "RGBA")[i % 2]), "png") for i, p in enumerate(pictures)]
    write_chunk(tmp_path / "a.torch", [chunk_entry("key", data, mini.w2c, mini.relative)])
    sample = TrainingSamples(open_store(tmp_path), CONFIG, 0)[0]
    assert sample["input_image"].shape == (2, 3, 32, 32) and sample["skipped"].sum() == 0


def test_folders_of_png_give_the_same_samples(mini_re10k, tmp_path):
    to_folders(open_store(mini_re10k), tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")  # the list and the JSON files name paths that are gone
    chunks, folders = (TrainingSamples(open_store(p), CONFIG, 7) for p in (mini_re10k, tmp_path / "moved"))
    for n in range(3):
        a, b = chunks[n], folders[n]
        assert a["scene"] == b["scene"] and torch.equal(a["target_frame"], b["target_frame"])
        assert torch.equal(a["input_image"], b["input_image"])
        torch.testing.assert_close(a["target_c2w"], b["target_c2w"])
        torch.testing.assert_close(a["target_fxfycxcy"], b["target_fxfycxcy"])


def test_damaged_folders_are_said(mini_re10k, tmp_path):
    to_folders(open_store(mini_re10k), tmp_path)
    store = open_store(tmp_path / "full_list.txt")
    keys = list(store.keys)
    metadata = tmp_path / "metadata" / f"{keys[0]}.json"
    metadata.write_text(metadata.read_text()[:300])
    with pytest.raises(DatasetError, match="truncated or of another layout"):
        store.scene(keys[0])
    (tmp_path / "metadata" / f"{keys[1]}.json").unlink()
    with pytest.raises(DatasetError, match="there is no"):
        store.scene(keys[1])
    png = tmp_path / "images" / keys[2] / "00004.png"
    png.write_bytes(png.read_bytes()[:200])
    with pytest.raises(FrameError, match="frame 4"):
        store.scene(keys[2]).frame(4)


def test_paths_without_data_say_what_was_expected(tmp_path, mini_re10k):
    with pytest.raises(DatasetError, match="there is no dataset"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"neither full_list.txt nor \.torch"):
        open_re10k(tmp_path)
    shutil.copytree(mini_re10k, tmp_path / "train")
    with pytest.raises(DatasetError, match="chunks are in train"):
        open_re10k(tmp_path)
    assert [key.partition("/")[0] for key in open_store(tmp_path).keys] == ["train"] * 3
    torch.save({"not": "a list"}, tmp_path / "x.torch")
    with pytest.raises(DatasetError, match="not a list of scenes"):
        open_store(tmp_path / "x.torch")
    torch.save([{"key": "a", "images": []}], tmp_path / "y.torch")
    with pytest.raises(ChunkError, match="without cameras"):
        open_chunk(tmp_path / "y.torch")
    torch.save([torch.nn.Linear(1, 1)], tmp_path / "code.torch")
    with pytest.raises(ChunkError, match="has a scene without"):
        open_chunk(tmp_path / "code.torch")


def test_evaluation_samples(mini_re10k, mini_scenes, tmp_path):
    a, b, c = (scene.key for scene in mini_scenes)
    index = {
        a: {"context": [2, 30], "target": [5, 9, 30]},
        b: None,
        c: {"context": [2, 40], "target": [5, 9, 12]},
        "elsewhere": {"context": [0, 1], "target": [1, 1, 1]},
    }
    (tmp_path / "index.json").write_text(json.dumps(index))
    store = open_store(mini_re10k)
    samples = EvaluationSamples(store, read_index(tmp_path / "index.json"), CONFIG)
    assert samples.dropped == {"null": [b], "missing": ["elsewhere"]}
    assert samples.keys == sorted([a, c])
    sample = samples[samples.keys.index(a)]
    assert sample["scene"] == a
    assert sample["input_frame"].tolist() == [2, 30] and sample["target_frame"].tolist() == [5, 9, 30]
    torch.testing.assert_close(sample["input_c2w"][1], sample["target_c2w"][2])
    assert "32 frames" in samples[samples.keys.index(c)]["error"]
    one = EvaluationSamples(store, {a: index[a]}, SampleConfig(1, 1, 32))[0]
    assert one["input_frame"].tolist() == [2] and one["target_frame"].tolist() == [5]
    with pytest.raises(DatasetError, match="there is no evaluation index"):
        read_index(tmp_path / "none.json")
    with pytest.raises(DatasetError, match="is it the training split"):
        EvaluationSamples(store, {"elsewhere": index[a]}, CONFIG)


def test_the_published_evaluation_index(test_data):
    index = read_index(test_data / "re10k" / "evaluation_index_re10k.json")
    usable = [key for key, entry in index.items() if entry]
    assert (len(index), len(usable)) == (7194, 6474)


def test_steps_of_all_ranks_cover_all_samples_once():
    batches = [list(StepSampler(3, 2, rank=r, world=2)) for r in range(2)]
    assert sorted(n for batch in batches for numbers in batch for n in numbers) == list(range(12))
    assert list(StepSampler(3, 2, first_step=1, rank=1, world=2)) == batches[1][1:]
    assert len(StepSampler(3, 2, first_step=1)) == 2


@pytest.mark.slow
def test_workers_deliver_what_the_process_itself_draws(mini_re10k):
    from torch.utils.data import DataLoader

    samples = TrainingSamples(open_store(mini_re10k), CONFIG, 0)
    loader = DataLoader(samples, batch_sampler=StepSampler(2, 2), num_workers=1)
    batches = list(loader)
    assert batches[1]["input_image"].shape == (2, 2, 3, 32, 32)
    assert torch.equal(batches[1]["target_image"][0], samples[2]["target_image"])


def test_benchmark_prints_a_rate(mini_re10k, capsys):
    arguments = ["--benchmark", str(mini_re10k), "--workers", "0", "--samples", "2", "--batch", "1"]
    re10k_main([*arguments, "--image-size", "32"])
    assert "samples/s" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        re10k_main(["--benchmark", "nowhere"])
