"""PSNR that forgives shifts of up to a pixel, and nothing more."""

import torch

import elvsm_core as ec
from training.evaluation.registration import shifted_psnr


def test_small_shifts_are_forgiven_and_large_ones_are_not():
    g = torch.Generator().manual_seed(0)
    scene = torch.nn.functional.interpolate(
        torch.rand(2, 3, 24, 24, generator=g), scale_factor=3, mode="bicubic"
    )
    scene = scene.clamp(0, 1)
    target = scene[..., 4:-4, 4:-4]
    by_one, by_three = scene[..., 5:-3, 4:-4], scene[..., 7:-1, 4:-4]
    assert (ec.metrics.psnr(by_one, target) < 25).all()
    assert (shifted_psnr(by_one, target) > 60).all()
    assert (shifted_psnr(by_three, target) < 22).all()
    # A local shift: the halves moved apart.
    torn = torch.cat([scene[..., 5:-3, 4:-4][..., :32], scene[..., 3:-5, 4:-4][..., 32:]], -1)
    assert (shifted_psnr(torn, target) > ec.metrics.psnr(torn, target) + 3).all()
    assert (shifted_psnr(target, target) > 100).all()
