"""Measure renders against the true images: drawn scenes, a walk on disk, or RealEstate10K as published.

python -m training.evaluate --checkpoint demo --data procedural
python -m training.evaluate --checkpoint demo --data meshes --assets packed/
python -m training.evaluate --checkpoint demo --data path/to/walk --frames 200:250 --context 2,4 --lpips
torchrun --nproc-per-node 8 -m training.evaluate --checkpoint FILE --data RE10K --index evaluation_index_re10k.json

The first three also measure a copy of the nearest context view. The last is the published protocol; it goes on where
it was interrupted. --incremental adds the views one by one instead and measures quality and latency after each.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import elvsm_core as ec

from .evaluation.mesh_scenes import mesh_test_scenes, open_bank
from .evaluation.registration import shifted_psnr
from .evaluation.sequences import DataError, Frames
from .procedural.scenes import SceneBatch, SceneConfig, draw_scenes, make_texture_bank

TEST_SEED = 2**40  # far from all seeds that training draws
BANK_SEED = 99


@dataclass(frozen=True)
class Scores:
    """Per target: PSNR (dB), SSIM and, if asked for, LPIPS of the render and of the nearest context view; [n] each.

    shifted_psnr, if asked for: of the render after the best shift of each block by up to a pixel, dB.
    """

    psnr: Tensor
    ssim: Tensor
    nearest_psnr: Tensor
    nearest_ssim: Tensor
    lpips: Tensor | None = None
    nearest_lpips: Tensor | None = None
    shifted_psnr: Tensor | None = None

    def __str__(self) -> str:
        render = f"render {self.psnr.mean():.2f} dB, SSIM {self.ssim.mean():.3f}"
        nearest = f"nearest view {self.nearest_psnr.mean():.2f} dB, SSIM {self.nearest_ssim.mean():.3f}"
        if self.lpips is not None and self.nearest_lpips is not None:
            render += f", LPIPS {self.lpips.mean():.3f}"
            nearest += f", LPIPS {self.nearest_lpips.mean():.3f}"
        if self.shifted_psnr is not None:
            render += f", {self.shifted_psnr.mean():.2f} dB after shifts of up to a pixel"
        return f"{render}; {nearest}; {len(self.psnr)} targets"


def load_frames(folder: str | Path, size: tuple[int, int]) -> Frames:
    """Read a walk: cameras.json (w, h, fx, fy, cx, cy; frames: file, c2w) and images/; cropped and resized to size.

    Raises DataError naming what is missing or malformed.
    """
    from PIL import Image

    folder = Path(folder)
    try:
        listing = json.loads((folder / "cameras.json").read_text())
        k = [float(listing[name]) for name in ("fx", "fy", "cx", "cy")]
        entries = [(entry["file"], np.array(entry["c2w"], dtype=np.float64)) for entry in listing["frames"]]
    except OSError as error:
        raise DataError(f"{folder} holds no readable cameras.json: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / 'cameras.json'} is malformed: {error!r}") from error
    images, poses, intrinsics = [], [], []
    for name, pose in entries:
        pixels = np.array(Image.open(folder / "images" / name).convert("RGB"))
        camera = ec.Camera(*k, pixels.shape[1], pixels.shape[0], _orthonormal(pose))
        small, camera = ec.resize_and_crop(pixels, camera, size)
        images.append(torch.as_tensor(small).permute(2, 0, 1))
        poses.append(torch.from_numpy(np.array(camera.T_world_cam)))
        intrinsics.append(torch.tensor(camera.fxfycxcy))
    return Frames(torch.stack(images), torch.stack(poses), torch.stack(intrinsics).float())


def _orthonormal(pose: np.ndarray) -> np.ndarray:
    """Return the pose with the nearest rotation: files round to six digits."""
    u, _, vt = np.linalg.svd(pose[:3, :3])
    out = pose.copy()
    out[:3, :3] = u @ vt
    return out


@torch.no_grad()
def score(
    model: ec.EfficientLVSM,
    images: Tensor,
    c2w: Tensor,
    fxfycxcy: Tensor,
    inputs: int,
    chunk: int = 16,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    shifts: bool = False,
) -> Scores:
    """Score renders of the views behind the first `inputs` ones of each scene.

    images uint8 [b, V, 3, H, W], c2w [b, V, 4, 4] metres, fxfycxcy [b, V, 4] pixels. Poses get the published
    normalisation over all V views. The nearest view is the input whose pose is nearest: metres plus radians.
    perceptual: a distance of images [n, 3, H, W] to compute as well, elvsm_core.metrics.lpips for example.
    shifts: compute `shifted_psnr`, too.
    """
    device, size = model.device, (images.shape[-2], images.shape[-1])
    result: list[list[Tensor]] = [[], [], [], [], [], []]
    shifted: list[Tensor] = []
    for i in range(0, len(images), chunk):
        true = images[i : i + chunk].to(device).float() / 255
        world = c2w[i : i + chunk].double()
        local = ec.normalize_poses(world).float().to(device)
        k = fxfycxcy[i : i + chunk].float().to(device)
        half = device.type == "cuda"
        with torch.autocast(device.type, torch.bfloat16, enabled=half and model.dtype == torch.float32):
            made = model(
                true[:, :inputs], local[:, :inputs], k[:, :inputs], local[:, inputs:], k[:, inputs:], size
            )
        metres = (world[:, inputs:, None, :3, 3] - world[:, None, :inputs, :3, 3]).norm(dim=-1)
        cosine = torch.einsum("bmij,bnij->bmn", world[:, inputs:, :3, :3], world[:, :inputs, :3, :3])
        nearest = (metres + ((cosine - 1) / 2).clamp(-1, 1).acos()).argmin(-1).to(device)
        copied = true[torch.arange(len(true), device=device)[:, None], nearest]
        target = true[:, inputs:].flatten(0, 1)
        for k_, image in ((0, made), (2, copied)):
            flat = image.flatten(0, 1).clamp(0, 1)
            result[k_].append(ec.metrics.psnr(flat, target).cpu())
            result[k_ + 1].append(ec.metrics.ssim(flat, target).cpu())
            if perceptual is not None:
                result[4 + k_ // 2].append(perceptual(flat, target).cpu())
        if shifts:
            shifted.append(shifted_psnr(made.flatten(0, 1), target).cpu())
    forgiving = torch.cat(shifted).float() if shifts else None
    return Scores(*(torch.cat(part).float() for part in result if part), shifted_psnr=forgiving)


def procedural_scenes(
    count: int,
    size: tuple[int, int],
    inputs: int = 4,
    targets: int = 3,
    device: torch.device | str = "cpu",
    tiles: int = 192,
    texture_size: int = 128,
) -> SceneBatch:
    """Draw the procedural test set: fixed seed, own textures; per scene inputs first, then the targets between them."""
    on_gpu = torch.device(device).type == "cuda"
    bank = make_texture_bank(tiles, texture_size, BANK_SEED, device)
    # Neighbours on a walk: two steps between inputs, targets on the steps between.
    views = 2 * inputs - 1
    order = list(range(0, views, 2)) + list(range(1, views, 2))[:targets]
    parts = []
    for first in range(0, count, 25):
        batch = draw_scenes(
            SceneConfig(), bank, min(25, count - first), views, size, TEST_SEED + first,
            method="dense" if on_gpu else "auto",  # not worth compiling for
        )  # fmt: skip
        parts.append([x[:, order].cpu() for x in (batch.images, batch.c2w, batch.fxfycxcy, batch.depth)])
    return SceneBatch(*(torch.cat([part[k] for part in parts]) for k in range(4)))


def neighbours(
    frames: Frames, targets: Sequence[int], context: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return samples (images, c2w, fxfycxcy) of inputs t-d and t+d for d in context, then the target t.

    Targets whose neighbours fall off the sequence's ends are left out.
    """
    offsets = [sign * d for d in context for sign in (-1, 1)]
    rows = [
        [t + o for o in offsets] + [t]
        for t in targets
        if t - max(context) >= 0 and t + max(context) < len(frames.images)
    ]
    if not rows:
        raise DataError(f"no target has neighbours at distance {max(context)} within the sequence")
    index = torch.tensor(rows)
    return frames.images[index], frames.c2w[index], frames.fxfycxcy[index]


def _pair(text: str) -> tuple[int, int]:
    height, _, width = text.partition(",")
    return int(height), int(width or height)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", default="demo", help="'demo', 'efficient-lvsm-256', a .safetensors or a .pt file")
    add(
        "--data",
        default="procedural",
        help="'procedural', 'meshes', RealEstate10K, or one scene of any format that elvsm_dataset reads",
    )
    add("--device", default="auto")
    add("--inputs", type=int, help="input views of a scene (procedural: 4, RealEstate10K: 2)")
    add(
        "--image-size",
        type=_pair,
        metavar="HEIGHT[,WIDTH]",
        help="render at this size, not at the model's own",
    )
    add(
        "--lpips",
        action=argparse.BooleanOptionalAction,
        help="LPIPS (vgg), too (RealEstate10K: yes, others: no)",
    )
    add(
        "--shifts",
        action="store_true",
        help="PSNR after shifts of up to a pixel, too (procedural scenes, walks)",
    )
    add("--lpips-weights", help="its weights: a file, or the folder that holds it")
    group = parser.add_argument_group("procedural scenes and walks")
    group.add_argument("--scenes", type=int, default=200, help="number of drawn scenes")
    group.add_argument("--assets", help="for 'meshes': the folder that `python -m training.assets` wrote")
    group.add_argument("--frames", help="FIRST:LAST target frames of the walk (LAST excluded)")
    group.add_argument(
        "--context", default="2,4", help="context frames: distances before and after the target"
    )
    add = parser.add_argument_group("RealEstate10K").add_argument
    add("--index", help="evaluation index, a JSON file; says which frames are inputs and targets")
    add("--targets", type=int, default=3, help="target views of a scene")
    add(
        "--out",
        default="evaluation",
        help="folder for report.html, metrics.json, summary.csv and what a restart needs",
    )
    add("--report", type=int, default=60, help="scenes with pictures in the report (0: no report)")
    add("--videos", type=int, default=3, help="scenes of the report with a video along the inputs' path")
    add(
        "--incremental",
        action="store_true",
        help="add views one by one: incremental.json, incremental.csv and incremental.html",
    )
    add("--bf16-rays", action="store_true", help="round rays to bfloat16, as in the published evaluation")
    add("--bf16-images", action="store_true", help="round renders to bfloat16 before measuring, as published")
    add("--bf16-lpips", action="store_true", help="compute LPIPS in bfloat16, as published")
    add("--as-published", action="store_true", help="all three: --bf16-rays --bf16-images --bf16-lpips")
    add("--resize", type=int, help="resize to a square of this side before measuring")
    add("--batch", type=int, default=4, help="scenes rendered together")
    add("--workers", type=int, default=2, help="processes that decode images, for each that renders")
    add("--limit", type=int, default=0, help="only the first scenes (0: all)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        if args.index is not None:
            return _published(args)
        if args.incremental:
            raise DataError("--incremental needs the views of an evaluation index: give --index")
        print(_beside_nearest(args))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk
        print(f"error: {error}; the results so far are kept, the same command goes on", file=sys.stderr)
        return 1
    return 0


def _beside_nearest(args: argparse.Namespace) -> str:
    if args.data == "meshes" and args.assets is None:
        raise DataError("--data meshes needs --assets, the folder that `python -m training.assets` wrote")
    model = ec.load_model(args.checkpoint, device=args.device)
    size = args.image_size or model.config.image_size
    model.check_size(size)
    perceptual = functools.partial(ec.metrics.lpips, weights=args.lpips_weights) if args.lpips else None
    if args.data == "procedural":
        inputs = 4 if args.inputs is None else args.inputs
        # On the CPU: the same scenes everywhere.
        scenes = procedural_scenes(args.scenes, size, inputs)
        sample = scenes.images, scenes.c2w, scenes.fxfycxcy
        label = f"procedural, {args.scenes} scenes, {inputs} inputs"
    elif args.data == "meshes":
        inputs = 4 if args.inputs is None else args.inputs
        scenes = mesh_test_scenes(open_bank(args.assets, model.device), args.scenes, size, inputs)
        sample = scenes.images, scenes.c2w, scenes.fxfycxcy
        label = f"rooms of meshes, {args.scenes} scenes, {inputs} inputs"
    else:
        from .evaluation.walks import load_scene

        walk = (Path(args.data) / "cameras.json").is_file()
        frames = load_frames(args.data, size) if walk else load_scene(args.data, size)
        first, _, last = (args.frames or f"0:{len(frames.images)}").partition(":")
        context = [int(d) for d in args.context.split(",")]
        sample = neighbours(frames, range(int(first), min(int(last), len(frames.images))), context)
        inputs = 2 * len(context)
        label = f"{Path(args.data).name} {first}:{last}, context " + ", ".join(f"t±{d}" for d in context)
    result = score(model, *sample, inputs=inputs, perceptual=perceptual, shifts=args.shifts)
    return f"{label} at {size[0]}x{size[1]}: {result}"


def _published(args: argparse.Namespace) -> int:
    from .evaluation.protocol import Protocol
    from .evaluation.re10k import PublishedEvaluation, run, run_incrementally

    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else "cpu"
    )
    if args.device != "auto":
        device = torch.device(args.device)
    published = args.as_published
    # Published figures come from float32 weights under autocast.
    model = ec.load_model(args.checkpoint, device=str(device), dtype="float32")
    settings = PublishedEvaluation(
        data=args.data, index=args.index, out=args.out, inputs=2 if args.inputs is None else args.inputs,
        targets=args.targets, image_size=args.image_size or model.config.image_size,
        bf16_rays=args.bf16_rays or published,
        batch=args.batch, workers=args.workers, limit=args.limit, report=args.report, films=args.videos,
        checkpoint=args.checkpoint,
        protocol=Protocol(
            lpips=args.lpips is not False, lpips_weights=args.lpips_weights, resize=args.resize,
            bf16_images=args.bf16_images or published, bf16_lpips=args.bf16_lpips or published,
        ),
    )  # fmt: skip
    if args.incremental:
        print(run_incrementally(model, settings))
        return 0
    summary = run(model, settings)
    if summary is not None:
        for key, reason in summary.failed.items():
            print(f"warning: scene {key} was left out: {reason}", file=sys.stderr)
        print(f"{summary}; written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
