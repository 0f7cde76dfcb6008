"""Measure what detail from the keyframes adds to the network's picture: the figures in docs/benchmarks.md.

ELVSM_TEST_DATA=FOLDER python benchmarks/detail.py --model FILE --size 256            # office walk, frames 200 to 249
ELVSM_TEST_DATA=FOLDER python benchmarks/detail.py --frames 0:200 --every 12         # for tuning
ELVSM_TEST_DATA=FOLDER python benchmarks/detail.py --context 2 2,4 2,4,6,8           # two, four and eight keyframes
python benchmarks/detail.py --drawn 8 --no-lpips                                     # rooms whose depth is known
ELVSM_TEST_DATA=FOLDER python benchmarks/detail.py --targets 8 --no-shifted          # minutes on two cores
python benchmarks/detail.py --time                                                   # milliseconds, 4 and 8 keyframes

FOLDER holds office_walk/ and, for LPIPS, lpips/. A target t is rendered from the frames t-d and t+d, in the published
normalisation of these poses. Rows: the network, the nearest keyframe copied, the plane sweep without a network (its
guidance is the mean of the keyframes, its fallback the nearest one), and detail. "shifted" is PSNR after every place
was moved to where it fits best, by a pixel at most: what remains is not the pose's fault. A pixel is right when it
differs from the truth by 5 % of the range at most, on average over the channels.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import elvsm_core as ec
from elvsm_core.detail import Detail, DetailSettings, View, add_detail
from elvsm_core.detail.volume import blur
from elvsm_core.detail.warp import homographies, project, sample
from elvsm_training.evaluate import TEST_SEED, load_frames, neighbours, procedural_scenes

RIGHT = 0.05
ALONE = DetailSettings(
    guidance=0.0,
    doubt=10.0,
    agreement=10.0,
    tolerance=10.0,
    evidence=(-1.0, 0.0),
    alone=1.0,
    noise=0.0,
    noise_limits=(1e8, 1e9),
    align_rounds=0,
)
"""The plane sweep believes what it finds, and has nothing to fit poses to."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Pictures [V, 3, H, W] and views of keyframes; the target's picture, view and, where it is known, depth [H, W]."""

    pictures: Tensor
    views: list[View]
    truth: Tensor
    target: View
    depth: Tensor | None = None
    depths: Tensor | None = None


def samples(
    images: Tensor, c2w: Tensor, fxfycxcy: Tensor, inputs: int, depth: Tensor | None = None
) -> Iterator[Sample]:
    """Give a sample for every target behind the first `inputs` views of each row."""
    size = (int(images.shape[-2]), int(images.shape[-1]))
    for row in range(len(images)):
        pixels = images[row].float() / 255
        views = [
            View(tuple(k.tolist()), T.double().numpy(), size)
            for k, T in zip(fxfycxcy[row], c2w[row], strict=True)
        ]
        for t in range(inputs, len(pixels)):
            known = (None, None) if depth is None else (depth[row, t], depth[row, :inputs])
            yield Sample(pixels[:inputs], views[:inputs], pixels[t], views[t], *known)


@torch.inference_mode()
def network(model: ec.EfficientLVSM, one: Sample) -> Tensor:
    """Return the network's picture of the target."""
    poses = torch.from_numpy(np.stack([view.c2w for view in [*one.views, one.target]]))
    local = ec.normalize_poses(poses[None]).float()
    k = torch.tensor([view.fxfycxcy for view in [*one.views, one.target]])[None]
    n = len(one.views)
    out = model(one.pictures[None], local[:, :n], k[:, :n], local[:, n:], k[:, n:], one.target.size)
    return out[0, 0].float().clamp(0, 1)


def nearest(one: Sample) -> Tensor:
    """Return the keyframe whose pose is nearest, metres plus radians."""

    def away(view: View) -> float:
        cosine = (np.trace(view.c2w[:3, :3].T @ one.target.c2w[:3, :3]) - 1) / 2
        return float(
            np.linalg.norm(view.c2w[:3, 3] - one.target.c2w[:3, 3]) + np.arccos(np.clip(cosine, -1, 1))
        )

    return one.pictures[min(range(len(one.views)), key=lambda v: away(one.views[v]))]


def shifted(image: Tensor, truth: Tensor) -> Tensor:
    """Return the image with every place moved by up to a pixel, to where its neighbourhood fits the truth best."""
    best, least = image, torch.full(truth.shape[-2:], torch.inf)
    for dy in (-1.0, -0.5, 0.0, 0.5, 1.0):
        for dx in (-1.0, -0.5, 0.0, 0.5, 1.0):
            moved = _moved(image, dx, dy)
            error = blur((moved - truth).square().mean(0), 4.0)
            best, least = torch.where(error < least, moved, best), torch.minimum(error, least)
    return best


def _moved(image: Tensor, dx: float, dy: float) -> Tensor:
    height, width = image.shape[-2:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5 + dy, torch.arange(width) + 0.5 + dx, indexing="ij")
    grid = torch.stack([2 * u / width - 1, 2 * v / height - 1], -1)[None]
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


def seen_twice(one: Sample) -> Tensor:
    """Return where at least two keyframes see the target's surface, and nothing in front of it, [H, W]."""
    assert one.depth is not None
    assert one.depths is not None
    H = torch.from_numpy(homographies(one.target, one.views)).float()
    x, y, z = project(H, 1 / one.depth[None])
    there, inside = sample(one.depths[:, None], x, y, z)
    far = z[:, 0] * one.depth
    return ((there[:, 0, 0] - far).abs() < 0.03 * far).logical_and(inside[:, 0]).sum(0) >= 2


def roc_area(score: Tensor, right: Tensor) -> float:
    """Return how often a right pixel has a higher score than a wrong one (ties count half)."""
    score, right = score.flatten().double(), right.flatten()
    values, index = score.unique(return_inverse=True)
    positive = torch.bincount(index[right], minlength=len(values)).double()
    negative = torch.bincount(index[~right], minlength=len(values)).double()
    below = negative.cumsum(0) - negative
    pairs = positive.sum() * negative.sum()
    return float((positive * (below + 0.5 * negative)).sum() / pairs) if pairs else float("nan")


class Table:
    """Means over targets, by row."""

    def __init__(self, perceptual: bool, shift: bool) -> None:
        self._perceptual, self._shift = perceptual, shift
        self._rows: dict[str, list[list[float]]] = collections.defaultdict(list)
        self._depth: list[list[float]] = []
        self._score: list[Tensor] = []
        self._right: list[Tensor] = []

    def add(self, name: str, image: Tensor, truth: Tensor) -> None:
        a, b = image[None].clamp(0, 1), truth[None]
        values = [ec.metrics.psnr(a, b), ec.metrics.ssim(a, b)]
        values.append(ec.metrics.lpips(a, b) if self._perceptual else torch.tensor([torch.nan]))
        moved = shifted(image, truth)[None].clamp(0, 1) if self._shift else None
        values.append(torch.tensor([torch.nan]) if moved is None else ec.metrics.psnr(moved, b))
        self._rows[name].append([float(value) for value in values])

    def judge(self, out: Detail, one: Sample) -> None:
        self._score.append(out.confidence)
        self._right.append((out.image - one.truth).abs().mean(0) <= RIGHT)
        if one.depth is not None:
            seen = seen_twice(one)
            error = ((out.depth - one.depth).abs() / one.depth)[seen]
            self._depth.append(
                [float(error.mean()), float((error < 0.05).float().mean()), float(seen.float().mean())]
            )

    def show(self) -> None:
        print("| | PSNR | SSIM | LPIPS | PSNR shifted |\n| --- | --- | --- | --- | --- |")
        for name, rows in self._rows.items():
            psnr, ssim, lpips, moved = np.mean(rows, axis=0)
            print(f"| {name} | {psnr:.2f} | {ssim:.3f} | {lpips:.3f} | {moved:.2f} |")
        worse = np.array(self._rows["detail"])[:, 0] - np.array(self._rows["network"])[:, 0]
        print(f"detail against the network, dB: worst {worse.min():+.2f}, median {np.median(worse):+.2f}")
        score, right = torch.stack(self._score), torch.stack(self._right)
        print(f"confidence: area under the ROC {roc_area(score, right):.3f}; right of those with", end="")
        for low in (0.0, 0.25, 0.5, 0.75, 0.9):
            chosen = right[(score >= low) & (score < (low + 0.25 if low < 0.75 else 0.9 if low < 0.9 else 2))]
            print(f" {low:g}: {chosen.float().mean():.2f}", end="")
        print()
        if self._depth:
            absolute, near, seen = np.mean(self._depth, axis=0)
            print(f"depth where two keyframes see, {seen:.0%}: AbsRel {absolute:.3f}, within 5 % {near:.1%}")


def measure(model: ec.EfficientLVSM, chosen: Sequence[Sample], perceptual: bool, shift: bool) -> None:
    """Render all samples and print the table."""
    table, spent, busy = Table(perceptual, shift), 0.0, 0.0
    for one in chosen:
        render = network(model, one)
        start, used = time.perf_counter(), time.process_time()
        out = add_detail(one.pictures, one.views, one.target, render)
        spent += time.perf_counter() - start
        busy += time.process_time() - used
        copied = nearest(one)
        alone = add_detail(one.pictures, one.views, one.target, one.pictures.mean(0), ALONE)
        rows = {"network": render, "nearest": copied, "plane sweep": alone.image, "detail": out.image}
        for name, image in rows.items():
            table.add(name, image, one.truth)
        table.judge(out, one)
    table.show()
    each, cpu = 1e3 * spent / len(chosen), 1e3 * busy / len(chosen)
    print(f"{len(chosen)} targets; each of detail {each:.0f} ms, {cpu:.0f} ms of the processor's cores")


def some(chosen: list[Sample], count: int | None) -> list[Sample]:
    """Return `count` of the samples, evenly spaced; all where there are no more or None is given."""
    if count is None or count >= len(chosen):
        return chosen
    return [chosen[int(i * len(chosen) / count)] for i in range(count)]


def timing(sizes: Sequence[int], counts: Sequence[int], repeats: int = 7) -> None:
    """Print the median milliseconds of detail for one target, keyframes 10 cm apart."""
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        for count in counts:
            views = []
            for i in range(count + 1):
                T = np.eye(4)
                T[0, 3] = 0.1 * (i - count / 2)
                views.append(View((size, size, size / 2, size / 2), T, (size, size)))
            pictures = blur(torch.rand(count, 3, size, size, generator=generator), 2.0)
            target = views.pop(count // 2)
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                add_detail(pictures, views, target, pictures[0])
                times.append(1e3 * (time.perf_counter() - start))
            print(
                f"{size}x{size}, {count} keyframes: {np.median(times):.0f} ms, least {min(times):.0f} ms, "
                f"{torch.get_num_threads()} threads"
            )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--size", type=int, help="of pictures and network; the model's own by default")
    parser.add_argument("--frames", default="200:250", help="targets of the walk (200:250)")
    parser.add_argument("--every", type=int, default=1, help="of these, one in so many (1)")
    parser.add_argument(
        "--context", nargs="+", default=["2,4"], help="distances of the keyframes, before and after"
    )
    parser.add_argument(
        "--drawn", type=int, default=0, metavar="ROOMS", help="drawn rooms instead of the walk"
    )
    parser.add_argument("--lpips", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--targets", type=int, help="so many of all, evenly spaced (all)")
    parser.add_argument(
        "--shifted",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="PSNR shifted, which takes long",
    )
    parser.add_argument(
        "--time", action="store_true", help="measure the time of random pictures, nothing else"
    )
    args = parser.parse_args()
    if args.time:
        timing((128, 256), (4, 8))
        return
    model = ec.load_model(args.model, device="cpu")
    size = (args.size, args.size) if args.size else model.config.image_size
    if args.drawn:
        rooms = procedural_scenes(args.drawn, size, tiles=96)
        print(f"{args.drawn} drawn rooms from seed {TEST_SEED}, {size[0]}x{size[1]}")
        drawn = list(samples(rooms.images, rooms.c2w, rooms.fxfycxcy, 4, rooms.depth))
        measure(model, some(drawn, args.targets), args.lpips, args.shifted)
        return
    first, last = (int(part) for part in args.frames.split(":"))
    walk = load_frames(Path(os.environ["ELVSM_TEST_DATA"]) / "office_walk", size)
    for context in args.context:
        distances = [int(part) for part in context.split(",")]
        rows = neighbours(walk, range(first, last, args.every), distances)
        print(f"walk {args.frames}, t±{context}, {size[0]}x{size[1]}")
        chosen = some(list(samples(*rows, inputs=2 * len(distances))), args.targets)
        measure(model, chosen, args.lpips, args.shifted)


if __name__ == "__main__":
    main()
