"""The ray caster against geometry, and its scenes against their promises."""

import dataclasses
import math

import pytest
import torch

from elvsm_core import compute_rays
from training.procedural.furniture import furnish
from training.procedural.raycast import render_views
from training.procedural.rng import Dice
from training.procedural.room import MATERIAL, Room
from training.procedural.scenes import SceneConfig, draw_scenes, make_texture_bank, walk
from training.procedural.walks import MARGIN, draw_intrinsics, draw_walks, look

SIZE = (32, 40)


@pytest.fixture(scope="module")
def bank():
    return make_texture_bank(16, 32, seed=3)


@pytest.fixture(scope="module")
def furnished(bank):
    generator = torch.Generator().manual_seed(11)
    room = furnish(bank, 3, generator, "cpu")
    dice = Dice(3, generator, "cpu", 4096)
    c2w, room = draw_walks(room, 4, dice)
    return room, c2w, draw_intrinsics(dice, 4, SIZE, (45.0, 80.0))


def one_box(centre, half) -> Room:
    """A 6 x 6 x 3 m room with one axis-parallel box, lit evenly."""
    material = torch.zeros(1, 8, MATERIAL)
    material[..., 1] = 1.0
    material[..., 4:7] = 0.8
    material[:, 0, 4:7] = torch.tensor([0.9, 0.1, 0.1])
    return Room(
        size=torch.tensor([[6.0, 6.0, 3.0]]), counts=(1, 0, 0), centre=torch.tensor([[centre]]),
        axes=torch.eye(3)[None, None], half=torch.tensor([[half]]), valid=torch.ones(1, 1, dtype=torch.bool),
        group=torch.zeros(1, 1, dtype=torch.long), groups=1, material=material, skirting=torch.zeros(1),
        lights=torch.tensor([[[0.0, 0.0, 2.9]]]), power=torch.zeros(1, 1, 3), ambient=torch.ones(1, 2, 3),
        tone=torch.tensor([[0.9, 2.2]]),
    )  # fmt: skip


def test_same_seed_same_scenes_other_seed_other_scenes(bank):
    config = SceneConfig(supersampling=1)
    a, b, c = (draw_scenes(config, bank, 2, 3, (16, 16), seed) for seed in (7, 7, 8))
    for field in dataclasses.fields(a):
        assert torch.equal(getattr(a, field.name), getattr(b, field.name))
    assert not torch.equal(a.images, c.images)
    assert a.images.shape == (2, 3, 3, 16, 16) and a.images.dtype == torch.uint8
    assert a.depth.shape == (2, 3, 16, 16) and a.c2w.shape == (2, 3, 4, 4) and a.fxfycxcy.shape == (2, 3, 4)


def test_a_box_is_where_pinhole_geometry_puts_it(bank):
    """Pixel centres at +0.5, x right, y down: the box's edges fall where its corners project."""
    room = one_box([2.0, 0.5, 1.0], [0.25, 0.25, 0.25])  # ahead (+x) and to the left (+y), below the camera
    c2w = look(torch.tensor([[[0.0, 0.0, 1.5]]]), *(torch.zeros(1, 1) for _ in range(3)))
    k = torch.tensor([[[40.0, 44.0, 19.0, 17.5]]])
    images, depth = render_views(room, bank, c2w, k, SIZE, supersampling=1, shadows=False)
    front = 2.0 - 0.25
    red = (images[0, 0, 0].int() - images[0, 0, 1].int()) > 50
    on_front = red & ((depth[0, 0] - front).abs() < 1e-4)
    columns = [x for x in range(40) if on_front[:, x].any()]
    rows = [y for y in range(32) if on_front[y].any()]

    def inside(low, high, count):
        return [i for i in range(count) if low < i + 0.5 < high]

    # The camera's x is the world's -y, its y is the world's -z.
    assert columns == inside(19.0 + 40 * -0.75 / front, 19.0 + 40 * -0.25 / front, 40)
    assert rows == inside(17.5 + 44 * 0.25 / front, 17.5 + 44 * 0.75 / front, 32)
    assert torch.isclose(depth[0, 0, 0, 39], torch.tensor(3.0)), "depth is along the axis, not along the ray"


def test_depth_reprojects_onto_the_other_view(furnished, bank):
    """A point seen in view 0 lies at view 1's depth, or is hidden there by something nearer."""
    room, c2w, k = furnished
    images, depth = render_views(room, bank, c2w, k, SIZE, supersampling=1)
    height, width = SIZE
    origins, directions = compute_rays(c2w, k, SIZE)
    axis = c2w[..., :3, 2, None, None]
    points = origins + directions * (depth[:, :, None] / (directions * axis).sum(2, keepdim=True))
    agree, colours, total = 0, [], 0
    for b in range(3):
        world = points[b, 0].flatten(1)
        local = c2w[b, 1, :3, :3].T @ (world - c2w[b, 1, :3, 3:])
        u = local[0] / local[2] * k[b, 1, 0] + k[b, 1, 2]
        v = local[1] / local[2] * k[b, 1, 1] + k[b, 1, 3]
        seen = (local[2] > 0.1) & (u > 1) & (u < width - 1) & (v > 1) & (v < height - 1)
        column, row = u[seen].long(), v[seen].long()
        there = depth[b, 1, row, column]
        # Nothing may be farther away there than the point that is seen from here.
        slack = 0.05 * local[2][seen] + 0.1
        nearest = torch.stack(
            [
                depth[b, 1, (row + i).clamp(0, height - 1), (column + j).clamp(0, width - 1)]
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            ]
        ).amin(0)
        assert (nearest <= local[2][seen] + slack).float().mean() > 0.97
        same = (there - local[2][seen]).abs() < 0.02 * local[2][seen]
        agree, total = agree + int(same.sum()), total + int(seen.sum())
        here = images[b, 0].flatten(1)[:, seen][:, same].float()
        other = images[b, 1, :, row, column][:, same].float()
        colours.append((here - other).abs().mean())
    assert total > 500, "the views don't overlap"
    assert agree > 0.7 * total
    assert torch.stack(colours).mean() < 20


def test_both_methods_draw_the_same(furnished, bank):
    room, c2w, k = furnished
    a, depth_a = render_views(room, bank, c2w[:, :2], k[:, :2], SIZE, supersampling=1, method="windowed")
    b, depth_b = render_views(room, bank, c2w[:, :2], k[:, :2], SIZE, supersampling=1, method="dense")
    assert ((depth_a - depth_b).abs() < 1e-3).float().mean() > 0.999
    assert ((a.int() - b.int()).abs() <= 2).float().mean() > 0.995


def test_no_camera_is_inside_anything(furnished):
    room, c2w, _ = furnished
    position = c2w[..., :3, 3]
    assert room.clearance(position).min() >= MARGIN - 1e-5
    half = room.size[:, None] / 2
    assert (position[..., :2].abs() <= half[..., :2] - MARGIN + 1e-4).all()
    assert (position[..., 2] >= 0.25).all() and (position[..., 2] <= room.size[:, None, 2] - MARGIN).all()
    rotation = c2w[..., :3, :3]
    assert torch.allclose(rotation.mT @ rotation, torch.eye(3).expand_as(rotation), atol=1e-5)
    assert (c2w[..., 2, 1] < 0).all(), "the image's down axis points down"


def test_a_stroll_is_smooth_and_free(bank):
    path = walk(5, 60, bank, step=0.05, turn=3.0)
    position = path.c2w[0, :, :3, 3]
    rotation = path.c2w[0, :, :3, :3]
    assert path.c2w.shape == (1, 60, 4, 4) and path.room.clearance(position[None]).min() >= MARGIN - 1e-5
    step = position.diff(dim=0).norm(dim=-1)
    cosine = (torch.einsum("nij,nij->n", rotation[1:], rotation[:-1]) - 1) / 2
    assert step.max() < 0.08 and step.min() > 0.005
    assert cosine.clamp(-1, 1).acos().max() < math.radians(5)


def test_supersampling_averages_and_lamps_cast_shadows(furnished, bank):
    room, c2w, k = furnished
    one = render_views(room, bank, c2w[:, :1], k[:, :1], SIZE, supersampling=1)[0].float()
    four = render_views(room, bank, c2w[:, :1], k[:, :1], SIZE, supersampling=2)[0].float()
    edges = [x.diff(dim=-1).abs().mean() for x in (one, four)]
    assert (one - four).abs().mean() < 12 and edges[1] < edges[0]
    bright = render_views(room, bank, c2w[:, :1], k[:, :1], SIZE, supersampling=1, shadows=False)[0].float()
    assert (bright - one).min() > -3 and (bright - one).max() > 10


def test_busy_rooms_have_texture_on_most_surfaces(bank):
    def coloured(busy):
        room = furnish(bank, 40, torch.Generator().manual_seed(4), "cpu", busy)
        first, count = bank.ranges["photo"]
        photo = (room.material[..., 0] >= first) & (room.material[..., 0] < first + count)
        return photo.float().mean(1)

    plain, some, all_ = (coloured(busy) for busy in (0.0, 0.5, 1.0))
    assert plain.mean() < 0.1 < 0.2 < all_.mean() < 0.35
    assert 10 < (some > 0.13).sum() < 30


def test_bad_texture_banks_are_refused():
    with pytest.raises(ValueError, match="power of two"):
        make_texture_bank(16, 33)
    with pytest.raises(ValueError, match="at least 8 tiles"):
        make_texture_bank(3, 32)
