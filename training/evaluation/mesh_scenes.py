"""The test set of mesh rooms: fixed seed, never trained on; the same for the same packed assets."""

from __future__ import annotations

from pathlib import Path

import torch

from ..assets.packed import load_packed
from ..procedural.meshes.bank import MeshBank, make_mesh_bank
from ..procedural.meshes.rooms import plan_mesh_scenes
from ..procedural.meshes.scene import MeshConfig, render_mesh_plan
from ..procedural.scenes import SceneBatch, SceneConfig

TEST_SEED = (
    2**41
)  # generators take 32 bits of it: like the other test scenes' and unlike all that training draws


def open_bank(assets: str | Path, device: torch.device | str) -> MeshBank:
    """Return the bank of packed assets. Raises AssetError."""
    return make_mesh_bank(load_packed(assets)).to(device)


def mesh_test_scenes(
    bank: MeshBank, count: int, size: tuple[int, int], inputs: int = 4, targets: int = 3
) -> SceneBatch:
    """Draw the test set on the bank's device; per scene inputs first, then the targets between them; on the CPU."""
    views = 2 * inputs - 1
    order = list(range(0, views, 2)) + list(range(1, views, 2))[:targets]
    furnishing = bank.catalogue()
    parts = []
    for first in range(0, count, 10):
        generator = torch.Generator().manual_seed(TEST_SEED + first)
        plan = plan_mesh_scenes(SceneConfig(), furnishing, min(10, count - first), views, size, generator)
        batch = render_mesh_plan(bank, plan, MeshConfig(rays=4, ambient=2))
        parts.append([x[:, order].cpu() for x in (batch.images, batch.c2w, batch.fxfycxcy, batch.depth)])
    return SceneBatch(*(torch.cat([part[k] for part in parts]) for k in range(4)))
