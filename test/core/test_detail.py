"""Detail from keyframes: depth and pictures of a scene whose depth is known exactly, and what must not get worse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import elvsm_core as ec
from elvsm_core.detail import DetailSettings, View, add_detail
from elvsm_core.detail.volume import blur

SIZE = (96, 128)
FOCAL = 110.0


def pattern(x, y, seed):
    """Colours [h, w, 3] of a surface with detail of every size from a hand's breadth down to a pixel."""
    rng = np.random.default_rng(seed)
    colours = np.full((*x.shape, 3), 0.5)
    for frequency in (2, 5, 9, 17, 31):
        for channel in range(3):
            a, b, phase = rng.normal(size=2) * frequency, rng.normal() * frequency, rng.uniform(0, 6)
            colours[..., channel] += 0.09 * np.sin(a[0] * x + b * y + phase)
    return colours.clip(0, 1)


def draw(view: View):
    """Picture [3, H, W] and depth [H, W] of a wall at z = 4 and a board in front of it at z = 2."""
    (height, width), (fx, fy, cx, cy) = view.size, view.fxfycxcy
    u, v = np.meshgrid((np.arange(2 * width) + 0.5) / 2, (np.arange(2 * height) + 0.5) / 2)
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1) @ view.c2w[:3, :3].T
    x0, y0, z0 = view.c2w[:3, 3]
    image, depth = np.zeros((*u.shape, 3)), np.zeros(u.shape)
    for z, half, seed in ((4.0, np.inf, 1), (2.0, 0.45, 2)):
        t = (z - z0) / rays[..., 2]
        x, y = x0 + t * rays[..., 0], y0 + t * rays[..., 1]
        hit = (np.abs(x) < half) & (np.abs(y) < half)
        image, depth = np.where(hit[..., None], pattern(x, y, seed), image), np.where(hit, t, depth)
    image = torch.from_numpy(image).float().permute(2, 0, 1)
    return F.avg_pool2d(image, 2), torch.from_numpy(depth[::2, ::2].copy()).float()


def at(x, y=0.0, z=0.0, yaw=0.0, size=SIZE):
    T = np.eye(4)
    T[:3, :3] = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    T[:3, 3] = x, y, z
    focal = FOCAL * size[1] / SIZE[1]
    return View((focal, focal, size[1] / 2, size[0] / 2), T, size)


TARGET = at(0.02, 0.01)
AROUND = [at(-0.2, 0.05, yaw=0.02), at(-0.08, -0.06), at(0.12, 0.06, yaw=-0.02), at(0.25, -0.05, 0.05)]


def psnr(a, b):
    return float(ec.metrics.psnr(a[None], b[None]))


@pytest.fixture(scope="module")
def drawn():
    """Pictures of the keyframes, the target's own, its depth, and what a network that blurs would render."""
    pictures = torch.stack([draw(view)[0] for view in AROUND])
    truth, depth = draw(TARGET)
    return pictures, truth, depth, blur(truth, 2.0)


def seen_by_two(depth):
    """Where at least two keyframes see the surface itself, not something in front of it."""
    height, width = SIZE
    fx, fy, cx, cy = TARGET.fxfycxcy
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    z = depth.numpy()
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z, np.ones_like(z)], -1) @ TARGET.c2w.T
    count = np.zeros(z.shape)
    for view in AROUND:
        x, y, far, _ = np.moveaxis(points @ np.linalg.inv(view.c2w).T, -1, 0)
        x, y = view.fxfycxcy[0] * x / far + width / 2, view.fxfycxcy[1] * y / far + height / 2
        inside = (x > 0) & (x < width) & (y > 0) & (y < height)
        own = draw(view)[1].numpy()[y.astype(int).clip(0, height - 1), x.astype(int).clip(0, width - 1)]
        count += inside & (np.abs(own - far) < 0.1)
    return torch.from_numpy(count >= 2)


def test_depth_and_picture_are_right_where_two_keyframes_see(drawn):
    pictures, truth, depth, render = drawn
    out = add_detail(pictures, AROUND, TARGET, render)
    seen = seen_by_two(depth)
    error = ((out.depth - depth).abs() / depth)[seen]
    assert float((error < 0.05).float().mean()) > 0.9
    assert float(error.median()) < 0.02
    assert psnr(out.image, truth) > psnr(render, truth) + 4
    assert float(out.confidence[seen].mean()) > 0.7
    assert out.image.dtype == out.depth.dtype == out.confidence.dtype == torch.float32
    assert float(out.confidence.min()) >= 0
    assert float(out.confidence.max()) <= 1


def test_confidence_tells_right_pixels_from_wrong_ones(drawn):
    pictures, truth, _, render = drawn
    wrong = pictures.clone()
    wrong[:, :, 30:60, 40:80] = torch.rand(4, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    out = add_detail(wrong, AROUND, TARGET, render)
    assert float(out.confidence[38:52, 50:70].mean()) < 0.3
    assert psnr(out.image, truth) > psnr(render, truth) - 0.1


@pytest.mark.parametrize("case", ["one keyframe", "pure rotation", "one pose for all"])
def test_without_parallax_the_network_shows(drawn, case):
    render = drawn[-1]
    views = {
        "one keyframe": AROUND[:1],
        "pure rotation": [at(0.02, 0.01, yaw=yaw) for yaw in (-0.1, -0.05, 0.05, 0.1)],
        "one pose for all": [TARGET] * 4,
    }[case]
    seen = torch.stack([draw(view)[0] for view in views])
    out = add_detail(seen, views, TARGET, render)
    assert torch.equal(out.image, render)
    assert float(out.confidence.max()) == 0
    assert torch.isfinite(out.depth).all()


@pytest.mark.parametrize("seed", range(4))
def test_wrong_poses_lower_confidence_and_never_ruin_the_picture(drawn, seed):
    pictures, truth, _, render = drawn
    rng = np.random.default_rng(seed)
    moved = [
        dataclasses.replace(view, c2w=at(*rng.uniform(-0.5, 0.5, 3), yaw=rng.uniform(-0.3, 0.3)).c2w)
        for view in AROUND
    ]
    right, out = (add_detail(pictures, views, TARGET, render) for views in (AROUND, moved))
    assert float(out.confidence.mean()) < 0.2 * float(right.confidence.mean())
    assert psnr(out.image, truth) > psnr(render, truth) - 0.1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [0.01, 0.03])
def test_small_errors_of_poses_never_cost_more_than_a_tenth_of_a_decibel(drawn, seed, size):
    pictures, truth, _, render = drawn
    rng = np.random.default_rng(seed)
    moved = []
    for view in AROUND:
        T, error = view.c2w.copy(), at(0, yaw=rng.uniform(-size, size)).c2w
        pitch = rng.uniform(-size, size)
        error[:3, :3] @= [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
        T = T @ error
        T[:3, 3] += rng.uniform(-2 * size, 2 * size, 3)
        moved.append(dataclasses.replace(view, c2w=T))
    out = add_detail(pictures, moved, TARGET, render)
    assert psnr(out.image, truth) > psnr(render, truth) - 0.1


def test_errors_of_poses_are_corrected_and_right_poses_left_alone(drawn):
    pictures, truth, _, render = drawn
    turned = [
        dataclasses.replace(view, c2w=view.c2w @ at(0, yaw=yaw).c2w)
        for view, yaw in zip(AROUND, (0.02, -0.02, 0.015, -0.01), strict=True)
    ]
    fixed, kept = DetailSettings(), DetailSettings(align_rounds=0)
    with_, without = (
        psnr(add_detail(pictures, turned, TARGET, render, s).image, truth) for s in (fixed, kept)
    )
    assert with_ > without + 1
    with_, without = (add_detail(pictures, AROUND, TARGET, render, s).image for s in (fixed, kept))
    assert psnr(with_, without) > 60


def test_a_keyframe_of_another_exposure_serves_as_well(drawn):
    pictures, truth, _, render = drawn
    dark = pictures.clone()
    dark[0] *= 0.75
    dark[2] = (dark[2] * 1.2).clamp(0, 1)
    alike, out = (add_detail(p, AROUND, TARGET, render) for p in (pictures, dark))
    assert psnr(out.image, truth) > psnr(alike.image, truth) - 1
    assert float(out.confidence.mean()) > 0.9 * float(alike.confidence.mean())


def test_a_view_that_looks_elsewhere_changes_nothing(drawn):
    pictures, _, _, render = drawn
    away = at(0, yaw=np.pi)
    more = torch.cat([pictures, torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))])
    a = add_detail(pictures, AROUND, TARGET, render)
    b = add_detail(more, [*AROUND, away], TARGET, render)
    assert float((a.image - b.image).abs().mean()) < 0.01


def test_the_answer_does_not_depend_on_the_unit_of_length_or_on_chance(drawn):
    pictures, _, _, render = drawn
    first, again = (add_detail(pictures, AROUND, TARGET, render) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))

    def in_millimetres(view):
        c2w = view.c2w.copy()
        c2w[:3, 3] *= 1000
        return dataclasses.replace(view, c2w=c2w)

    far = add_detail(pictures, [in_millimetres(v) for v in AROUND], in_millimetres(TARGET), render)
    assert float(((far.depth / 1000 - first.depth).abs() / first.depth).median()) < 1e-3
    assert psnr(far.image, first.image) > 45


def test_sizes_need_not_be_multiples_and_may_be_finer_than_the_render(drawn):
    pictures, _, _, render = drawn
    for size in ((50, 67), (33, 45), (143, 191)):
        target = TARGET.resized(size)
        small = F.interpolate(render[None], (48, 64), mode="area")[0]
        out = add_detail((pictures * 255).round().to(torch.uint8), AROUND, target, small)
        truth, depth = draw(target)
        assert out.image.shape == (3, *size) and out.depth.shape == out.confidence.shape == size
        enlarged = F.interpolate(small[None], size, mode="bilinear")[0]
        assert psnr(out.image, truth) > psnr(enlarged, truth) + 1
        assert float(((out.depth - depth).abs() / depth < 0.05).float().mean()) > 0.75


def test_a_target_behind_everything_is_answered(drawn):
    pictures, _, _, render = drawn
    out = add_detail(pictures, AROUND, at(0, 0, 9.0), render)
    assert torch.isfinite(out.depth).all() and torch.isfinite(out.image).all()
    assert psnr(out.image, render) > 20


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DetailSettings().coarse = 2  # type: ignore[misc]
