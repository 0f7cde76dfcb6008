"""What eight bits would cost: renders with rounded linear layers or keys and values, against bfloat16.

ELVSM_TEST_DATA=FOLDER python benchmarks/low_precision.py

FOLDER holds office_walk/. Values are rounded to float8 (e4m3) or int8 with a scale for every row, which is
more than a device's own kernels keep, and computed with in float32: an upper bound of the quality.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import elvsm_core as ec
from elvsm_training.evaluate import load_frames

STARTS = range(0, 201, 40)
CONTEXT, TARGETS = (0, 4, 8, 12), (2, 6, 10)


def fp8(x: Tensor) -> Tensor:
    """Round to float8 e4m3 with a scale for each row."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 448
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


def int8(x: Tensor) -> Tensor:
    """Round to int8 with a scale for each row."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (x / scale).round() * scale


def round_linear(model: ec.EfficientLVSM, part: str, rounded: Callable[[Tensor], Tensor]) -> None:
    """Round weights and inputs of the blocks' linear layers whose names hold `part`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "blocks" in name and part in name:
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))


def round_keys_values(model: ec.EfficientLVSM, keys: bool, values: bool) -> None:
    """Round what the decoder reads of views to float8."""
    for block in model.self_cross_blocks:
        original = block.cross_attn.keys_values

        def keys_values(source: Tensor, original: Callable = original) -> tuple[Tensor, Tensor]:
            k, v = original(source)
            return (fp8(k) if keys else k), (fp8(v) if values else v)

        block.cross_attn.keys_values = keys_values


def render(model: ec.EfficientLVSM, walk: object, engine: str = "eager") -> Tensor:
    """Render the frames between some keyframes, float32 [n, 3, H, W]."""
    height, width = model.config.image_size
    cameras = [
        ec.Camera(*k.tolist(), width, height, T.double().numpy())
        for k, T in zip(walk.fxfycxcy, walk.c2w, strict=True)
    ]
    renders = []
    for start in STARTS:
        context = [start + step for step in CONTEXT]
        frame = ec.SceneFrame.fit(np.stack([cameras[i].T_world_cam for i in context]))
        scene = ec.Scene(model, len(context), frame=frame, engine=engine)
        for i in context:
            scene.insert(walk.images[i].permute(1, 2, 0).contiguous(), cameras[i])
        renders.append(scene.render_tensor([cameras[start + step] for step in TARGETS]))
    return torch.cat(renders)


def main() -> None:
    """Run the command line."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    load = lambda dtype="float32": ec.load_model("demo", device="cpu", dtype=dtype)  # noqa: E731
    walk = load_frames(str(Path(os.environ["ELVSM_TEST_DATA"]) / "office_walk"), load().config.image_size)
    truth = torch.stack([walk.images[start + step] for start in STARTS for step in TARGETS]) / 255
    reference = render(load("bfloat16"), walk)

    def report(name: str, model: ec.EfficientLVSM) -> None:
        renders = render(model, walk)
        same = ec.metrics.psnr(renders, reference)
        print(
            f"{name:22} against bfloat16: {same.mean():5.1f} dB, the worst {same.min():5.1f}; "
            f"against the truth {ec.metrics.psnr(renders, truth).mean():.2f}"
        )

    report("float32", load())
    fused = ec.metrics.psnr(render(load("bfloat16"), walk, "fused"), render(load(), walk))
    print(f"bfloat16, the fused engine, against float32: {fused.mean():.1f} dB, the worst {fused.min():.1f}")
    for name, part, rounded in (
        ("fp8 linear", "", fp8), ("fp8 MLPs only", "mlp", fp8), ("int8 linear", "", int8),
        ("int8 MLPs only", "mlp", int8),
    ):  # fmt: skip
        model = load()
        round_linear(model, part, rounded)
        report(name, model)
    for name, keys, values in (("fp8 keys and values", True, True), ("fp8 values only", False, True)):
        model = load()
        round_keys_values(model, keys, values)
        report(name, model)


if __name__ == "__main__":
    main()
