"""Walks out of mixed datasets: which views, which size and scale, how often from which; and a training on them."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from footage import picture, ring, save

import elvsm_core as ec
from training.data.store import DatasetError, PosedScene
from training.sampling.mixture import (
    WalkSamples,
    choose_by_gap,
    choose_by_overlap,
    fit_depth,
    open_entries,
    placed,
)
from training.sampling.overlap import overlaps, typical_distances
from training.sampling.samples import SKIPS
from training.settings import SettingsError, StoreSettings, load_settings
from training.train import train


def footage(
    folder: Path,
    poses: np.ndarray,
    metric: bool = True,
    size: tuple[int, int] = (96, 64),
    depth: bool = False,
) -> Path:
    frames = []
    for i, pose in enumerate(poses):
        save(folder / "images" / f"{i:03d}.png", picture(i, *size))
        frames.append({"file": f"{i:03d}.png", "c2w": pose.tolist()})
        if depth:
            save(
                folder / "depth" / f"{i:03d}.png", np.full((size[1] // 2, size[0] // 2), 2000 + i, np.uint16)
            )
            frames[-1]["depth"] = f"{i:03d}.png"
    w, h = size
    content = {
        "w": w,
        "h": h,
        "fx": w * 0.8,
        "fy": w * 0.8,
        "cx": w / 2,
        "cy": h / 2,
        "metric": metric,
        "frames": frames,
    }
    (folder / "cameras.json").write_text(json.dumps(content))
    return folder


def scene_of(poses: np.ndarray, **more) -> PosedScene:
    n = len(poses)
    return PosedScene(
        "s", np.linalg.inv(poses), np.tile([0.8, 1.2, 0.5, 0.5], (n, 1)), True, lambda i: b"", **more
    )


def test_views_by_gap():
    rng = random.Random(0)
    assert choose_by_gap(11, 12, (25, 192), rng) is None
    assert choose_by_gap(12, 12, (25, 192), rng) == list(range(12))
    spans = set()
    for _ in range(300):
        chosen = choose_by_gap(300, 6, (25, 60), rng)
        assert chosen == sorted(set(chosen)) and len(chosen) == 6 and chosen[0] >= 0 and chosen[-1] < 300
        spans.add(chosen[-1] - chosen[0])
    assert min(spans) == 25 and max(spans) == 60


def test_overlap_of_frusta():
    poses = ring(24, radius=2.0, turn=345.0)
    scene = scene_of(poses)
    distances = typical_distances(scene)
    np.testing.assert_allclose(distances, 2.0, atol=0.05)  # they all look at the origin
    shares = overlaps(scene.w2c, scene.intrinsics, distances, 0)
    assert shares[0] == 1 and shares[1] > 0.8
    around = np.array([shares[i] for i in (0, 1, 2, 3, 4)])
    assert (np.diff(around) < 0.05).all(), "the farther around the ring, the less is common"
    assert shares[12] == 0, "the other side sees other sides"
    # The same for any unit of length, and for cameras that look apart from one place.
    other = overlaps(np.linalg.inv(scaled(poses, 100.0)), scene.intrinsics, 100 * distances, 0)
    np.testing.assert_allclose(other, shares, atol=1e-9)
    apart = np.tile(np.eye(4), (2, 1, 1))
    apart[1, :3, :3] = np.diag([-1, 1, -1])
    np.testing.assert_array_equal(overlaps(np.linalg.inv(apart), scene.intrinsics[:2], np.ones(2), 0), [1, 0])


def scaled(poses: np.ndarray, factor: float) -> np.ndarray:
    out = poses.copy()
    out[:, :3, 3] *= factor
    return out


def test_views_by_overlap_are_neighbours_in_any_order_of_files():
    order = np.random.default_rng(0).permutation(40)
    scene = scene_of(ring(40, turn=351.0)[order], ordered=False)
    for seed in range(20):
        chosen = choose_by_overlap(scene, 5, (0.3, 0.95), random.Random(seed))
        places = np.sort(order[chosen])
        gaps = np.diff(np.append(places, places[0] + 40))
        assert gaps.max() >= 40 - 16, "they lie within an arc"
        centres = np.linalg.inv(scene.w2c[chosen])[:, :3, 3]
        along = (centres - centres[0]) @ (centres[-1] - centres[0])
        assert (np.diff(along) > 0).all(), "and are in the order of it"
    assert choose_by_overlap(scene_of(ring(3)), 5, (0.3, 0.95), random.Random(0)) is None
    alone = scene_of(scaled(ring(8, turn=315), -1))  # they look outwards, each at something else
    assert choose_by_overlap(alone, 4, (0.5, 0.95), random.Random(0)) is None


def test_scale_is_metric_or_the_same_for_all():
    poses = ring(6)
    poses[:, :3, 3] += (448262.1, 5412345.7, 300.2)  # a map in UTM
    metric, factor = placed(np.linalg.inv(poses), True)
    assert factor == 1
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(metric[:, :3, 3], axis=0), axis=1),
        np.linalg.norm(np.diff(ring(6)[:, :3, 3], axis=0), axis=1), atol=1e-8,
    )  # fmt: skip
    assert np.abs(metric[:, :3, 3]).max() < 5
    results = [placed(np.linalg.inv(scaled(ring(6), s)), False)[0] for s in (0.01, 1.0, 300.0)]
    for result in results:
        np.testing.assert_allclose(result, results[0], atol=1e-9)
        assert np.linalg.norm(result[:, :3, 3], axis=1).max() == pytest.approx(1.0)
    with pytest.raises(Exception, match="poses coincide"):
        placed(np.linalg.inv(np.tile(poses[:1], (4, 1, 1))), True)


def test_walks_of_a_mixture(tmp_path):
    footage(tmp_path / "wide", ring(30, turn=90), size=(120, 64), depth=True)
    footage(tmp_path / "tall", ring(30, turn=90), metric=False, size=(64, 96))
    settings = [
        StoreSettings(path=str(tmp_path / "wide"), weight=3, gap=(10, 20)),
        StoreSettings(path=str(tmp_path / "tall"), weight=1, views="overlap"),
    ]
    walks = WalkSamples(open_entries(settings), 6, (32, 48), seed=1, depth=True)
    assert len(walks) == 2
    drawn = [walks[n] for n in range(60)]
    share = Counter(walk["entry"] for walk in drawn)
    assert 0.5 < share[0] / 60 < 0.95
    for walk in drawn:
        assert walk["images"].shape == (6, 3, 32, 48) and walk["images"].dtype == torch.uint8
        assert walk["c2w"].shape == (6, 4, 4) and walk["skipped"].sum() == 0
        assert walk["metric"] == (walk["entry"] == 0)
        # A square pixel stays square, whatever was cut off.
        np.testing.assert_allclose(walk["fxfycxcy"][:, 0], walk["fxfycxcy"][:, 1], rtol=0.02)
        if walk["entry"] == 0:
            assert (walk["depth"] >= 2.0).all() and (walk["depth"] < 2.04).all()
        else:
            assert (walk["depth"] == 0).all()
    again = WalkSamples(open_entries(settings), 6, (32, 48), seed=1)[7]
    torch.testing.assert_close(again["images"], drawn[7]["images"])
    torch.testing.assert_close(again["c2w"], drawn[7]["c2w"])


def test_a_view_keeps_its_pixels_rays_and_depths(tmp_path):
    footage(tmp_path / "one", ring(12), depth=True)
    walks = WalkSamples(
        open_entries([StoreSettings(path=str(tmp_path / "one"), gap=(11, 11))]), 12, (64, 96), 0, True
    )
    walk = walks[0]
    for i in range(12):
        np.testing.assert_array_equal(walk["images"][i].permute(1, 2, 0).numpy(), picture(i))
        np.testing.assert_allclose(walk["fxfycxcy"][i], [76.8, 76.8, 48, 32], rtol=1e-6)
        np.testing.assert_allclose(walk["depth"][i], 2 + i / 1000, rtol=1e-6)
    moved = walk["c2w"].double().numpy()
    relative = np.linalg.inv(moved[0]) @ moved
    np.testing.assert_allclose(relative, np.linalg.inv(ring(12)[0]) @ ring(12), atol=1e-5)


def test_depths_are_cut_like_their_images():
    v, u = np.mgrid[0:60, 0:100].astype(np.float32)
    image = np.stack([u, v, 0 * u], -1).astype(np.uint8)
    camera = ec.Camera(80, 80, 50, 30, 100, 60, np.eye(4))
    small, _ = ec.resize_and_crop(image, camera, (30, 30))
    np.testing.assert_allclose(fit_depth(u, (100, 60), (30, 30)), small[..., 0].numpy(), atol=1.1)
    np.testing.assert_allclose(fit_depth(v[::2, ::2], (100, 60), (30, 30)), small[..., 1].numpy(), atol=2.1)


def test_damaged_frames_and_scenes_are_counted(tmp_path):
    for name in ("a", "b", "c"):
        footage(tmp_path / "all" / name, ring(8))
    (tmp_path / "all" / "b" / "images" / "003.png").write_bytes(b"")
    (tmp_path / "all" / "c" / "cameras.json").write_text("[]")
    walks = WalkSamples(open_entries([StoreSettings(path=str(tmp_path / "all"))]), 8, (32, 32), 0)
    counts = Counter()
    for n in range(20):
        counts.update(dict(zip(SKIPS, walks[n]["skipped"].tolist(), strict=True)))
    assert counts["damaged frame"] > 0 and counts["damaged scene"] > 0
    few = WalkSamples(open_entries([StoreSettings(path=str(tmp_path / "all"))]), 9, (32, 32), 0)
    with pytest.raises(DatasetError, match=r"none of 1000 scenes drawn from .* too few frames"):
        few[0]
    with pytest.raises(DatasetError, match=r"data.stores\[1\]: there is no dataset"):
        open_entries([StoreSettings(path=str(tmp_path / "all")), StoreSettings(path="/nowhere")])


def test_settings_of_a_mixture(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "model: {width: 64, head_dim: 32, layers: 1, patch_size: 8, image_size: [32, 48]}\n"
        "data:\n- {store: re10k, path: a, weight: 3}\n- {path: b, options: {images: images_4}, gap: [5, 9]}\n"
    )
    data = load_settings(file, ["data.views=6"]).data
    assert data.source == "mixture" and data.size == (32, 48) and data.views == 6
    assert [s.weight for s in data.stores] == [3, 1] and data.stores[1].gap == (5, 9)
    assert data.stores[1].options == {"images": "images_4"}
    for text, reason in {
        "[{path: a, wieght: 2}]": "unknown setting 'data.stores.wieght': did you mean 'data.stores.weight'",
        "[{store: colmap}]": "a store of data.stores needs a path",
        "[{path: a, weight: 0}]": "weight of a store must be positive",
        "[{path: a, views: near}]": "views must be one of auto, gap, overlap",
        "[{path: a, overlap: [0.9, 0.1]}]": "two increasing shares",
        "[]": "data.source is mixture exactly where data.stores names datasets",
    }.items():
        file.write_text(f"data: {text}")
        with pytest.raises(SettingsError, match=reason.replace("[", r"\[")):
            load_settings(file)
    file.write_text("data: {source: re10k, re10k: {path: a}, stores: [{path: b}]}")
    with pytest.raises(SettingsError, match="give both or none"):
        load_settings(file)


SMALL = [
    "device=cpu", "compile=false", "minutes=0", "batch=2", "eval_scenes=0", "logger=none", "pictures=0", "resume=auto",
    "model={width: 32, head_dim: 16, layers: 1, patch_size: 8, image_size: [16, 16]}", "checkpoint_minutes=0",
    "sampling={inputs: [2, 3], input_shares: [0.5, 0.5], targets: 2, crop: 0.0}", "optim.lr=1e-3", "optim.warmup=1",
]  # fmt: skip
DATA = (
    "data={{source: mixture, size: [16, 16], views: 6, draw_batch: 2, pool: 4, tiles: 8, texture_size: 16, "
    "scenes: {{supersampling: 1}}, "
    "re10k: {{workers: 0}}, stores: [{{path: {}, weight: 2}}, {{store: procedural}}]}}"
)


@pytest.mark.slow
def test_a_training_on_a_mixture_resumes_exactly(tmp_path):
    footage(tmp_path / "walk", ring(20))
    data = DATA.format(tmp_path / "walk")

    def run(out: str, steps: int) -> dict[str, torch.Tensor]:
        torch.set_num_threads(1)
        train(
            load_settings(
                None, [*SMALL, data, f"out={tmp_path / out}", f"steps={steps}", "optim.schedule=constant"]
            )
        )
        (newest,) = sorted((tmp_path / out).glob("checkpoint-*.pt"))[-1:]
        return torch.load(newest, weights_only=False)["model"]

    whole = run("whole", 6)
    run("parts", 3)
    parts = run("parts", 6)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert "and procedural scenes" in (tmp_path / "whole" / "log.txt").read_text()
