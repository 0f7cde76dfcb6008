"""The ray caster for meshes, compiled for the CPU of the source that a GPU runs, against geometry and brute force."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from training.procedural.meshes.bank import SOLIDS, make_mesh_bank
from training.procedural.meshes.floorplan import BOX, CYLINDER, QUAD, SPHERE, block, frame, quad
from training.procedural.meshes.scene import (
    MESH_UV,
    WORLD_METRES,
    HostWorld,
    Light,
    MeshConfig,
    MeshScene,
    Surroundings,
    join_tables,
    material,
    render_tables,
)
from training.procedural.meshes.tracer import FAR, build_hierarchy
from training.procedural.walks import look

pytestmark = pytest.mark.slow

SIZE = (24, 32)
EVEN = Surroundings(below=(0.5, 0.5, 0.5), above=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def bank():
    return make_mesh_bank()


def with_texture(bank, pixels):
    """Return the bank with one more texture, [h, w, 4] uint8; its number is 1."""
    from training.procedural.meshes.bank import mip_levels

    levels = mip_levels(pixels)
    texels = np.concatenate([np.ascontiguousarray(x).view(np.int32).reshape(-1) for x in levels])
    rows = torch.tensor([[0, 1, 1, 1], [1, pixels.shape[1], pixels.shape[0], len(levels)]], dtype=torch.int32)
    tables = bank.tables | {
        "textures": rows,
        "texels": torch.cat([bank.tables["texels"], torch.from_numpy(texels)]),
    }
    mean = np.concatenate([bank.texture_mean, pixels[None, ..., :3].mean((1, 2)) / 255]).astype(np.float32)
    return dataclasses.replace(bank, tables=tables, texture_mean=mean)


def camera(position, yaw=0.0, pitch=0.0, focal=20.0, size=SIZE):
    """Return c2w [1, 1, 4, 4] and intrinsics [1, 1, 4] of one camera."""
    place = torch.tensor([position], dtype=torch.float32)
    c2w = look(place, *(torch.tensor([float(x)]) for x in (yaw, pitch, 0.0)))[None]
    return c2w, torch.tensor([[[focal, focal * 1.01, size[1] / 2 + 0.3, size[0] / 2 - 0.2]]])


def shot(scene, c2w, k, size=SIZE, gain=1.0, **config):
    """Render one view: uint8 [3, H, W], depth [H, W], linear light [H, W, 3]."""
    tables = scene.tables()
    tables.pop("order")

    def tone(light):
        return torch.tensor([gain, 1.0]).expand(*light.shape[:2], 2)

    images, depth, light = render_tables(
        scene.bank, join_tables([tables]), c2w, k, size, tone, MeshConfig(**config)
    )
    return images[0, 0], depth[0, 0], light[0, 0]


def rays(c2w, k, size=SIZE):
    """Return origin [3] and directions [H, W, 3] with unit z in the camera, float64."""
    fx, fy, cx, cy = k[0, 0].double().tolist()
    x = (torch.arange(size[1]).double() + 0.5 - cx) / fx
    y = (torch.arange(size[0]).double()[:, None] + 0.5 - cy) / fy
    local = torch.stack([x.expand(size), y.expand(size), torch.ones(size).double()], -1)
    return c2w[0, 0, :3, 3].double(), local @ c2w[0, 0, :3, :3].double().T


def leave_box(o, d, half):
    """Return where rays leave a box around the origin."""
    return ((half * d.sign() - o) / d).amin(-1)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_depth_in_a_box_is_exact_at_pixel_centres(bank, count):
    scene = MeshScene(bank, around=EVEN)
    scene.add(BOX, block([0, 0, 0], [6.0, 5.0, 3.0]))
    c2w, k = camera((0.7, -0.4, 0.3), 0.6, -0.2)
    _, depth, _ = shot(scene, c2w, k, rays=count)
    o, d = rays(c2w, k)
    truth = leave_box(o, d, torch.tensor([3.0, 2.5, 1.5]).double())
    torch.testing.assert_close(depth.double(), truth, atol=2e-5, rtol=1e-5)


def test_depth_of_a_turned_and_stretched_solid_is_that_of_its_shape(bank):
    scene = MeshScene(bank, around=EVEN)
    scene.add(BOX, block([0, 0, 0], [8.0, 8.0, 8.0]))
    half, yaw = np.array([0.6, 0.9, 0.4]), 0.5
    scene.add(SPHERE, block([2.0, 0.3, 0.1], 2 * half, yaw))
    c2w, k = camera((0, 0, 0))
    _, depth, _ = shot(scene, c2w, k)
    o, d = rays(c2w, k)
    turn = torch.tensor(block([0, 0, 0], 2 * half, yaw)[:3, :3] / 2)
    inverse = torch.linalg.inv(turn)
    lo, ld = inverse @ (o - torch.tensor([2.0, 0.3, 0.1]).double()), d @ inverse.T
    a, b, c = (ld * ld).sum(-1), (ld * lo).sum(-1), (lo * lo).sum() - 1
    root = (b * b - a * c).clamp_min(0).sqrt()
    inside = b * b - a * c > 0.15 * a  # outlines of a ball of triangles are not round
    truth = (-b - root) / a
    assert inside.sum() > 30
    assert (depth.double() - truth)[inside].abs().max() < 0.02
    assert (depth[~(b * b - a * c > 0)] > 3.9).all()


def brute_force(triangles, o, d):
    """Return the nearest hit's t of rays [n, 3] with triangles [m, 3, 3], inf where there is none."""
    e1, e2 = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    p = np.cross(d[:, None], e2[None])
    det = (e1 * p).sum(-1)
    with np.errstate(all="ignore"):
        s = o[:, None] - triangles[None, :, 0]
        u = (s * p).sum(-1) / det
        q = np.cross(s, e1[None])
        v = (d[:, None] * q).sum(-1) / det
        t = (e2 * q).sum(-1) / det
    good = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (np.abs(det) > 1e-14)
    return np.where(good, t, np.inf).min(1)


def test_both_levels_of_the_hierarchy_find_what_brute_force_finds(bank):
    rng = np.random.default_rng(4)
    scene = MeshScene(bank, around=EVEN)
    world = []
    solids = {}
    for name in SOLIDS:
        root = bank.shapes[SOLIDS.index(name)].root
        ends = [s.root for s in bank.shapes if s.root > root] + [len(bank.tables["nodes"])]
        nodes = bank.tables["nodes"].numpy()[root : min(ends), 12:14]
        leaves = sorted({(~c) >> 3 for c in nodes.reshape(-1) if c < 0})
        last = max(leaves)
        count = max(((~c) & 7) + 1 for c in nodes.reshape(-1) if c < 0 and (~c) >> 3 == last)
        rows = bank.tables["triangles"].numpy()[leaves[0] : last + count].view(np.float32)
        v, e1, e2 = rows[:, 0:3], rows[:, 4:7], rows[:, 8:11]
        solids[name] = np.stack([v, v + e1, v + e2], 1).astype(np.float64)
    for k in range(40):
        shape = k % len(SOLIDS)
        matrix = frame(rng.normal(0, 2, 3), *(rng.normal(0, 0.7, (3, 3))))
        scene.add(shape, matrix)
        world.append(solids[SOLIDS[shape]] @ matrix[:3, :3].T + matrix[:3, 3])
    o = rng.normal(0, 3, (400, 3))
    d = rng.normal(0, 1.5, (400, 3)) - o  # towards where things are
    t, piece, normal = HostWorld(scene).cast(o, d, FAR)
    each = np.stack([brute_force(x, o, d) for x in world], 1)
    truth = each.min(1)
    assert np.isfinite(truth).sum() > 100
    np.testing.assert_array_equal(piece >= 0, np.isfinite(truth))
    found = piece >= 0
    np.testing.assert_allclose(t[found], truth[found], rtol=2e-4, atol=1e-4)
    assert (each[found, piece[found]] - truth[found] < 1e-3).all()
    assert ((normal * d).sum(1)[found] < 0).all()


def test_a_hierarchy_holds_every_box_once(bank):
    rng = np.random.default_rng(0)
    low = rng.random((300, 3)).astype(np.float32)
    low[100:200] = 0.5  # the same box a hundred times
    nodes, order = build_hierarchy(low, low + 0.1, 4)
    assert sorted(order) == list(range(300))
    child = nodes.view(np.int32)[:, 12:14].reshape(-1)
    held = [n for c in child if c < 0 for n in range((~c) >> 3, ((~c) >> 3) + ((~c) & 7) + 1)]
    assert sorted(held) == list(range(300))
    with pytest.raises(ValueError, match="at least one box"):
        build_hierarchy(low[:0], low[:0], 4)


def test_distances_are_those_of_the_surface(bank):
    scene = MeshScene(bank, around=EVEN)
    scene.add(BOX, block([1, 0, 0], [1.0, 1.0, 1.0]))
    scene.add(QUAD, quad([0, 0, -1], [4, 0, 0], [0, 4, 0]))
    points = np.array([[0, 0, 0], [1, 0, 1.0], [0, 0, -0.9], [1.9, 0.9, 0]])
    gaps = HostWorld(scene).distances(points, 0.7)
    truth = [[0.5, 0.7], [0.5, 0.7], [math.hypot(0.5, 0.4), 0.1], [math.hypot(0.4, 0.4), 0.7]]
    np.testing.assert_allclose(gaps, truth, atol=1e-5)


def checker():
    """A texture whose upper left is red, upper right green, lower left blue, lower right white."""
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[:32, :32, :3], pixels[:32, 32:, :3], pixels[32:, :32, :3] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return pixels


def test_a_texture_lies_upright_on_its_quad(bank):
    bank = with_texture(bank, checker())
    scene = MeshScene(bank, around=EVEN)
    # The camera at the origin looks along +x: its right is -y.
    scene.add(QUAD, quad([1, 0, 0], [0, -2, 0], [0, 0, 2]), material(bank, 1, mode=MESH_UV))
    c2w, k = camera((0, 0, 0), focal=10)
    _, _, light = shot(scene, c2w, k, ambient=0)
    shown = (light / 0.5).clamp(0, 1)
    for (row, column), colour in {
        (6, 10): (1, 0, 0),
        (6, 22): (0, 1, 0),
        (18, 10): (0, 0, 1),
        (18, 22): (1, 1, 1),
    }.items():
        torch.testing.assert_close(shown[row, column], torch.tensor(colour).float(), atol=0.02, rtol=0)


def test_a_texture_in_metres_repeats_and_is_averaged_far_away(bank):
    stripes = np.full((64, 64, 4), 255, np.uint8)
    stripes[:, 32:, :3] = 0
    bank = with_texture(bank, stripes)
    rows = material(bank, 1, mode=WORLD_METRES, scale=(1.0, 1.0))
    scene = MeshScene(bank, around=EVEN)
    scene.add(QUAD, quad([0, 0, 0], [400, 0, 0], [0, 400, 0]), rows)
    c2w, k = camera((0, 0, 1.0), math.pi / 2, -math.pi / 2 + 1e-4, focal=16)
    _, _, light = shot(scene, c2w, k, ambient=0)
    line = light[12, :, 0] / 0.5
    assert (line > 0.9).any() and (line < 0.1).any()
    assert ((line[:16] - line[16:]).abs() < 0.1).float().mean() > 0.8  # a metre is 16 pixels
    high, k = camera((0, 0, 150.0), math.pi / 2, -math.pi / 2 + 1e-4, focal=16)
    _, _, light = shot(scene, high, k, ambient=0)
    assert (light / 0.5 - 0.5**2.2).abs().max() < 0.04  # the mean of white and black as displayed


def test_holes_of_a_texture_show_what_is_behind(bank):
    pixels = np.full((16, 16, 4), 255, np.uint8)
    pixels[:, :8, 3] = 0
    bank = with_texture(bank, pixels)
    scene = MeshScene(bank, around=EVEN)
    scene.add(QUAD, quad([1, 0, 0], [0, -4, 0], [0, 0, 4]), material(bank, 1, cutout=True))
    scene.add(QUAD, quad([2, 0, 0], [0, -40, 0], [0, 0, 40]))
    _, depth, _ = shot(scene, *camera((0, 0, 0)))
    assert (depth[:, :15] - 2).abs().max() < 1e-5 and (depth[:, 18:] - 1).abs().max() < 1e-5


def test_glass_tints_what_is_behind_it_and_depth_goes_through(bank):
    scene = MeshScene(bank, around=EVEN)
    scene.add(QUAD, quad([2, 0, 0], [0, -40, 0], [0, 0, 40]), material(bank, tint=(1, 1, 1)))
    view = camera((0, 0, 0))
    _, _, clear = shot(scene, *view, ambient=0)
    scene.add(QUAD, quad([1, 0, 0], [0, -40, 0], [0, 0, 40]), material(bank, tint=(1, 0.2, 0.2), opacity=0.3))
    _, depth, light = shot(scene, *view, ambient=0)
    assert (depth - 2).abs().max() < 1e-5
    ratio = (light / clear).mean((0, 1))
    assert ratio[1] < 0.8 * ratio[0]
    opaque = MeshScene(bank, scene.pieces[:1], around=EVEN)
    opaque.add(QUAD, quad([1, 0, 0], [0, -40, 0], [0, 0, 40]), material(bank, opacity=1.0))
    assert (shot(opaque, *view)[1] - 1).abs().max() < 1e-5


def test_a_mirror_shows_the_other_side(bank):
    scene = MeshScene(bank, around=EVEN)
    scene.add(QUAD, quad([2, 0, 0], [0, -40, 0], [0, 0, 40]), material(bank, tint=(0, 0, 0), mirror=1.0))
    scene.add(QUAD, quad([-2, 0, 0], [0, 40, 0], [0, 0, 40]), material(bank, tint=(1, 0, 0), emission=1.0))
    _, depth, light = shot(scene, *camera((0, 0, 0)))
    assert (depth - 2).abs().max() < 1e-5  # of the mirror itself
    assert light[..., 0].min() > 0.8 and light[..., 1].max() < 0.05


def test_a_plate_shades_the_floor_below_it_and_glass_does_not(bank):
    lamp = Light((0, 0, 3.0), (2, 2, 2), (0.01, 0, 0), (0, 0.01, 0))

    def floor(opacity):
        scene = MeshScene(bank, around=Surroundings(below=(0, 0, 0), above=(0, 0, 0)), lights=[(lamp, 0)])
        scene.add(QUAD, quad([0, 0, 0], [10, 0, 0], [0, 10, 0]))
        scene.add(QUAD, quad([0, 0, 1.5], [1, 0, 0], [0, 1, 0]), material(bank, opacity=opacity))
        # A camera between plate and floor, that sees the shadow of two metres and the light around it.
        size = (96, 128)  # light is averaged over five pixels
        view = camera((0, -3, 1.2), math.pi / 2, -0.35, focal=64, size=size)
        return shot(scene, *view, size=size)[2].mean(-1)

    dark, bright = floor(1.0), floor(0.1)
    seen = bright > 1e-3  # the rest is sky
    ratio = (dark / bright)[seen]
    assert seen.float().mean() > 0.4
    assert ((ratio > 0.9) | (ratio < 0.1)).float().mean() > 0.7
    assert 0.03 < (ratio < 0.1).float().mean() < 0.6


def test_corners_get_less_ambient_light_and_lamps_fade_softly(bank):
    scene = MeshScene(bank, around=dataclasses.replace(EVEN, reach=1.0))
    scene.add(BOX, block([0, 0, 0], [6.0, 6.0, 6.0]), material(bank, tint=(0.4, 0.4, 0.4)))
    view = camera((-1, 0, 0), 0.0, 0.0, focal=12)
    _, _, light = shot(scene, *view, ambient=2)
    _, _, flat = shot(scene, *view, ambient=0)
    shade = (light / flat).mean(-1)
    assert shade[12, 16] > 0.97
    edge = int(16 + 12 * 3 / 4)  # the wall's end
    assert shade[12, edge - 1] < 0.9


def test_a_light_panel_shines_to_its_side_alone(bank):
    for normal, lit in (((1.0, 0, 0), False), ((-1.0, 0, 0), True)):
        lamp = Light((1, 0, 0), (1, 1, 1), (0, 0.2, 0), (0, 0, 0.2), normal)
        scene = MeshScene(bank, around=Surroundings(below=(0, 0, 0), above=(0, 0, 0)), lights=[(lamp, 0)])
        scene.add(QUAD, quad([-1, 0, 0], [0, -40, 0], [0, 0, 40]))
        _, _, light = shot(scene, *camera((0, 0, 0), math.pi))
        assert (light.max() > 0.01) == lit


def test_a_panorama_has_the_depth_of_its_sphere(bank):
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[:16, :, 0] = 255  # the sky is red
    bank = with_texture(bank, pixels)
    around = Surroundings(panorama=1, centre=(0, 0, 0), radius=30.0)
    scene = MeshScene(bank, around=around)
    scene.add(BOX, block([-9, 0, 0], [1, 1, 1]))
    c2w, k = camera((3.0, 0, 0))
    _, depth, light = shot(scene, c2w, k)
    o, d = rays(c2w, k)
    torch.testing.assert_close(
        ((o + d * depth[..., None].double()).norm(dim=-1)), torch.full(SIZE, 30.0).double(), atol=1e-3, rtol=0
    )
    assert light[:8, :, 0].min() > 0.9 and light[16:, :, 0].max() < 0.1


def test_scenes_of_a_batch_do_not_mix(bank):
    tables, poses = [], []
    for k, distance in enumerate((1.0, 2.0, 3.0)):
        scene = MeshScene(bank, around=EVEN)
        for n in range(5 * k):
            scene.add(CYLINDER, block([-5 - n, 0, 0], [1, 1, 1]))
        colour = [0.0, 0.0, 0.0]
        colour[k] = 1.0
        scene.add(QUAD, quad([distance, 0, 0], [0, -40, 0], [0, 0, 40]), material(bank, tint=colour))
        table = scene.tables()
        table.pop("order")
        tables.append(table)
        poses.append(camera((0, 0, 0)))
    c2w, k = (torch.cat(x) for x in zip(*poses, strict=True))
    images, depth, _ = render_tables(
        bank, join_tables(tables), c2w, k, SIZE, lambda light: torch.ones(*light.shape[:2], 2), MeshConfig()
    )
    for n in range(3):
        assert (depth[n] - (n + 1)).abs().max() < 1e-5
        assert images[n, 0].float().mean((1, 2)).argmax() == n


def test_settings_are_checked():
    with pytest.raises(ValueError, match="1, 2 or 4"):
        MeshConfig(rays=3)
