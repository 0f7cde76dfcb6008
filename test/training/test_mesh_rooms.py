"""Rooms of meshes: the same for a seed, walks that keep clear of things, views that agree, batches in the pool."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from training.assets.packed import load_packed
from training.assets.packer import Packer
from training.assets.sources import Library, Pack
from training.evaluate import main
from training.evaluation.mesh_scenes import mesh_test_scenes
from training.procedural.meshes.bank import make_mesh_bank
from training.procedural.meshes.floorplan import draw_plan
from training.procedural.meshes.materials import Stylist
from training.procedural.meshes.rooms import plan_mesh_scenes, room_scene, world_scene
from training.procedural.meshes.scene import HostWorld, MeshConfig, MeshScene, Surroundings, render_mesh_plan
from training.procedural.meshes.shell import Shell
from training.procedural.pool import ScenePool
from training.procedural.scenes import SceneConfig
from training.procedural.textures import make_texture_bank
from training.procedural.walks import MARGIN
from training.settings import DataSettings, MeshSettings, SettingsError, load_settings

from .mesh_assets import CUBE, MTL, entry, image, library, pack

pytestmark = pytest.mark.slow

CONFIG = SceneConfig(noise=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Packed assets with a few pieces of each sort, all of them boxes."""
    path = tmp_path_factory.mktemp("assets")
    pieces = [
        ("Sofa", "Living room", 180, 80, 70), ("Chair", "Living room", 45, 50, 90), ("Table", "Living room", 140,
        80, 74),
        ("Coffee cup", "Kitchen", 9, 9, 10), ("Book", "Office", 20, 14, 3), ("Yucca", "Living room", 60, 60, 150),
    ]  # fmt: skip
    catalogue = "".join(
        entry(k, name, "/a/cube.obj", category, width=w, depth=d, height=h)
        for k, (name, category, w, d, h) in enumerate(pieces, 1)
    )
    files = {"a/cube.obj": CUBE, "a/cube.mtl": MTL, "a/front.png": image()}
    packer = Packer(report=lambda line: None)
    packer.add_library(Library(library(path / "Scopia.sh3f", files, catalogue)))
    packer.add_pack(Pack(path, pack(path)))
    packer.write(path / "packed")
    return path / "packed"


@pytest.fixture(scope="module")
def bank(folder):
    return make_mesh_bank(load_packed(folder))


def plan(bank, seed, batch=2, views=3, size=(24, 32)):
    return plan_mesh_scenes(CONFIG, bank, batch, views, size, torch.Generator().manual_seed(seed))


def test_a_seed_gives_the_same_scenes_and_another_seed_gives_others(bank):
    a, b, c = plan(bank, 3), plan(bank, 3), plan(bank, 4)
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, field.name
    assert not torch.equal(a.c2w, c.c2w)
    first, second = render_mesh_plan(bank, a), render_mesh_plan(bank, b, chunk=1)
    assert torch.equal(first.images, second.images) and torch.equal(first.depth, second.depth)


def test_the_catalogue_plans_what_the_bank_plans(bank):
    assert bank.catalogue().tables["texels"].numel() == 1
    assert torch.equal(plan(bank, 8).instances, plan(bank.catalogue(), 8).instances)


def test_pictures_are_exposed_and_deep(bank):
    scenes = render_mesh_plan(bank, plan(bank, 5, batch=4))
    assert scenes.images.shape == (4, 3, 3, 24, 32) and scenes.images.dtype == torch.uint8
    means = scenes.images.float().mean((1, 2, 3, 4))
    assert (means > 40).all() and (means < 220).all()
    assert (scenes.images.float().std((1, 2, 3, 4)) > 5).all()
    assert (
        scenes.depth.min() > 0.1 and scenes.depth.median() < 12 and torch.isfinite(scenes.depth.half()).all()
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_walks_keep_their_margin_to_everything_that_stands_around(bank, seed):
    rng = np.random.default_rng(seed)
    scene, walk = room_scene(bank, 8, rng, torch.Generator().manual_seed(seed))
    gaps = HostWorld(scene).distances(walk[:, :3, 3].numpy(), 1.0)
    counted = np.array([p.obstacle for p in scene.pieces])
    assert gaps[:, counted].min() >= MARGIN - 1e-4
    # Nor is any pose outside of the room: up and down there are ceiling and floor.
    for way in ((0, 0, 1.0), (0, 0, -1.0)):
        t, _, _ = HostWorld(scene).cast(walk[:, :3, 3].numpy(), np.broadcast_to(way, (8, 3)), 10.0)
        assert (t < 4).all()


def test_views_of_a_scene_agree_on_where_things_are(bank):
    """Points seen from one view lie, seen from another one, at the depth that it shows, or behind it."""
    drawn = plan(bank, 12, batch=1, views=3, size=(48, 64))
    depth = render_mesh_plan(bank, drawn, MeshConfig(ambient=0, shadows=False)).depth[0]
    c2w, k = drawn.c2w[0].double(), drawn.fxfycxcy[0].double()
    x = (torch.arange(64).double() + 0.5 - k[0, 2]) / k[0, 0]
    y = (torch.arange(48).double()[:, None] + 0.5 - k[0, 3]) / k[0, 1]
    local = (
        torch.stack([x.expand(48, 64), y.expand(48, 64), torch.ones(48, 64).double()], -1)
        * depth[0, ..., None].double()
    )
    world = local.reshape(-1, 3) @ c2w[0, :3, :3].T + c2w[0, :3, 3]
    other = (world - c2w[1, :3, 3]) @ c2w[1, :3, :3]
    column, row = (other[:, i] / other[:, 2] * k[1, i] + k[1, 2 + i] for i in range(2))
    inside = (other[:, 2] > 0.1) & (column >= 0) & (column < 64) & (row >= 0) & (row < 48)
    assert inside.sum() > 300
    shown = depth[1][row[inside].long(), column[inside].long()].double()
    gap = (other[inside, 2] - shown) / shown
    assert (gap > -0.06).double().mean() > 0.97  # hardly anything in front of what is shown
    assert (gap.abs() < 0.06).double().mean() > 0.6


@pytest.mark.parametrize("seed", range(6))
def test_a_room_is_closed_but_for_its_windows(bank, seed):
    rng = np.random.default_rng(seed)
    layout = draw_plan(rng, l_shaped=1.0)
    scene = MeshScene(bank, around=Surroundings())
    shell = Shell(scene, layout, Stylist(bank, rng), rng)
    shell.build()
    angle = rng.random(400) * 2 * math.pi
    d = np.stack([np.cos(angle), np.sin(angle), rng.normal(0, 0.6, 400)], 1)
    inside = rng.random((4000, 2)) * layout.size - layout.size / 2
    spot = inside[layout.inside(inside, 0.3)][0]
    t, _, _ = HostWorld(scene).cast(np.broadcast_to([*spot, 1.2], (400, 3)), d, 60.0)
    out = np.array([*spot, 1.2]) + d * t[:, None]
    windows = [(w, o) for w in layout.walls for o in w.openings if o.kind == "window"]
    for i in np.flatnonzero(t > 59):
        # Where such a ray crosses the walls' planes there is a window.
        crossings = []
        for wall, o in windows:
            speed = d[i, :2] @ wall.inward
            s = (wall.a - spot) @ wall.inward / speed if abs(speed) > 1e-9 else -1
            at = np.array([*spot, 1.2]) + d[i] * s
            along = (at[:2] - wall.a) @ wall.along
            crossings.append(s > 0 and o.start <= along <= o.end and o.low <= at[2] <= o.high)
        assert any(crossings), (spot, d[i])
    assert (t < 59).mean() > 0.5 and np.isfinite(out[t < 59]).all()


def test_small_things_stand_on_furniture(bank):
    found = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        scene, _ = room_scene(bank, 3, rng, torch.Generator().manual_seed(seed))
        world = HostWorld(scene)
        for k, piece in enumerate(scene.pieces):
            if bank.shapes[piece.shape].name in ("Coffee cup", "Book"):
                low, high = scene.box_of(piece)
                middle = (low + high) / 2
                t, below, _ = world.cast(
                    np.array([[*middle[:2], low[2] - 2e-4]]), np.array([[0, 0, -1.0]]), 1.0
                )
                assert t[0] < 0.01 and below[0] != k and scene.pieces[below[0]].group == piece.group
                found += 1
    assert found > 5


def test_a_world_without_a_free_place_inside_is_left(bank):
    # The layout is a bare plate in the open: no walk is inside of anything.
    assert world_scene(bank, 3, np.random.default_rng(0), torch.Generator().manual_seed(0)) is None


def test_the_pool_mixes_kinds_of_scenes_and_repeats_them(bank, folder):
    settings = DataSettings(
        size=(16, 16),
        views=3,
        draw_batch=2,
        pool=12,
        tiles=16,
        texture_size=16,
        meshes=MeshSettings(str(folder), 0.5, 1, 0),
    )
    textures = make_texture_bank(16, 16, 0)
    pool = ScenePool(settings, textures, 4, bank)
    kinds = {type(pool.plans[number]).__name__ for number in range(12)}
    assert kinds == {"SceneDraft", "MeshPlan"}
    again = ScenePool(settings, textures, 4, bank)
    assert torch.equal(pool.images, again.images) and torch.equal(pool.c2w, again.c2w)
    assert (pool.images.float().std((1, 2, 3, 4)) > 1).all()


def test_the_test_set_is_fixed_and_evaluated(bank, folder, capsys):
    first, longer = mesh_test_scenes(bank, 1, (16, 16), 2, 1), mesh_test_scenes(bank, 1, (16, 16), 2, 1)
    assert torch.equal(first.images, longer.images) and first.images.shape == (1, 3, 3, 16, 16)
    arguments = [
        "--data",
        "meshes",
        "--scenes",
        "1",
        "--inputs",
        "2",
        "--image-size",
        "16",
        "--device",
        "cpu",
    ]
    assert main([*arguments, "--assets", str(folder)]) == 0
    assert "rooms of meshes, 1 scenes, 2 inputs at 16x16: render" in capsys.readouterr().out
    assert main(arguments) == 2 and "--assets" in capsys.readouterr().err
    assert main([*arguments, "--assets", str(folder / "nowhere")]) == 2
    assert "holds no packed assets" in capsys.readouterr().err


def test_settings_of_meshes_are_checked():
    with pytest.raises(SettingsError, match=r"give data\.meshes\.assets"):
        load_settings(None, ["data.meshes.share=0.5"])
    with pytest.raises(SettingsError, match="between 0 and 1"):
        load_settings(None, ["data.meshes.share=2", "data.meshes.assets=x"])
    assert (
        load_settings(None, ["data.meshes.share=0.5", "data.meshes.assets=x"]).data.meshes.config()
        == MeshConfig()
    )
