"""Measure renders against the number of keyframes and the way they are chosen (docs/notebook/selection.md).

ELVSM_TEST_DATA=FOLDER python benchmarks/selection.py --walk office --frames 0:200
python benchmarks/selection.py --walk 1 --walk 2    # drawn walks, by their seeds
ELVSM_TEST_DATA=FOLDER python benchmarks/selection.py --lpips   # FOLDER holds lpips/, too
python benchmarks/selection.py --time               # how long choosing takes among many

FOLDER holds office_walk/. Frames become keyframes as in the node; of the others, every few are rendered with each
way to choose and each number of keyframes: from what was seen before, in the frame that a scene takes for them; with
--afterwards from the keyframes of the whole walk, in a frame fitted to those used and the target, as in training.
"""

from __future__ import annotations

import argparse
import collections
import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import elvsm_core as ec
from elvsm_core import keyframes
from elvsm_core.rendering import Plan

DISTANCE, ANGLE = 0.15, float(np.deg2rad(10))
FIRST = 4
"""Keyframes before the first render."""

Choose = Callable[[ec.Camera, keyframes.Views, int], list[int]]
"""Which rows of the keyframes, oldest first, are used for a target, so many at most."""
Row = tuple[str, int, list[float], int]
"""Variant, keyframes used, means of the metrics, frames."""


def by_scene(target: ec.Camera, stored: keyframes.Views, count: int) -> list[int]:
    """What the scene does."""
    return keyframes.most_useful(keyframes.Targets.of([target]), stored, count).tolist()


def overlap(target: ec.Camera, stored: keyframes.Views) -> NDArray[np.float32]:
    """Return how well each keyframe sees what the target looks at, [keyframes, points]."""
    return keyframes.visibilities(keyframes.Targets.of([target]), stored)[:, 0]


def by_overlap_alone(target: ec.Camera, stored: keyframes.Views, count: int) -> list[int]:
    """The views that see most of the target's field of view, whether or not others see the same."""
    return np.argsort(-overlap(target, stored).sum(1), kind="stable")[:count].tolist()


def by_distance(target: ec.Camera, stored: keyframes.Views, count: int) -> list[int]:
    """The nearest camera centres."""
    metres, _ = keyframes.differences(target.T_world_cam, stored.T_world_cam)
    return np.argsort(metres, kind="stable")[:count].tolist()


def by_angle(target: ec.Camera, stored: keyframes.Views, count: int) -> list[int]:
    """The most similar orientations."""
    _, radians = keyframes.differences(target.T_world_cam, stored.T_world_cam)
    return np.argsort(radians, kind="stable")[:count].tolist()


def by_pose(target: ec.Camera, stored: keyframes.Views, count: int) -> list[int]:
    """The nearest poses: 15 cm count as much as 10 degrees."""
    metres, radians = keyframes.differences(target.T_world_cam, stored.T_world_cam)
    return np.argsort(metres / DISTANCE + radians / ANGLE, kind="stable")[:count].tolist()


def by_recency(target: ec.Camera, stored: keyframes.Views, count: int) -> list[int]:
    """The newest."""
    return list(range(len(stored)))[::-1][:count]


def diverse(own: float) -> Choose:
    """Greedy overlap alone, with a share for what a view sees by itself."""

    def choose(target: ec.Camera, stored: keyframes.Views, count: int) -> list[int]:
        seen = overlap(target, stored)
        best, chosen = np.zeros(seen.shape[1]), []
        for _ in range(min(count, len(seen))):
            gain = np.maximum(seen - best, 0).sum(1) + own * seen.sum(1)
            gain[chosen] = -1
            chosen.append(int(gain.argmax()))
            best = np.maximum(best, seen[chosen[-1]])
        return chosen

    return choose


VARIANTS: dict[str, Choose] = {
    "scene": by_scene,
    "overlap": diverse(0.1),
    "overlap, no diversity": by_overlap_alone,
    "overlap, own 1": diverse(1.0),
    "pose": by_pose,
    "distance": by_distance,
    "angle": by_angle,
    "recency": by_recency,
}


def office(frames: slice, size: tuple[int, int]) -> Iterator[tuple[NDArray[np.uint8], ec.Camera]]:
    """Give the frames of the recorded walk."""
    from elvsm_training.evaluate import load_frames

    walk = load_frames(str(Path(os.environ["ELVSM_TEST_DATA"]) / "office_walk"), size)
    for image, T, k in zip(walk.images[frames], walk.c2w[frames], walk.fxfycxcy[frames], strict=True):
        yield image.permute(1, 2, 0).contiguous().numpy(), ec.Camera(*k.tolist(), size[1], size[0], T.numpy())


def drawn(seed: int, count: int, size: tuple[int, int]) -> Iterator[tuple[NDArray[np.uint8], ec.Camera]]:
    """Give the frames of a walk through a drawn room, 5 cm and 3 degrees apart at most."""
    from elvsm_training.procedural import scenes

    bank = scenes.make_texture_bank(48)
    walk = scenes.walk(seed, count, bank, size=size, step=0.05, turn=3.0)
    for index in range(count):
        pick = slice(index, index + 1)
        with torch.inference_mode():
            images, _ = scenes.render_views(walk.room, bank, walk.c2w[:, pick], walk.fxfycxcy[:, pick], size)
        k = walk.fxfycxcy[0, index].tolist()
        camera = ec.Camera(*k, size[1], size[0], walk.c2w[0, index].double().numpy())
        yield images[0, 0].permute(1, 2, 0).contiguous().numpy(), camera


Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
METRICS: dict[str, Metric] = {"psnr_db": ec.metrics.psnr, "ssim": ec.metrics.ssim, "lpips": ec.metrics.lpips}


class Measurement:
    """Scores of renders by (variant, number of keyframes): METRICS against the held-out frame.

    metrics: which ones. every: so many of the frames that are no keyframes are passed over for one that counts.
    """

    def __init__(
        self,
        model: ec.EfficientLVSM,
        variants: list[str],
        counts: list[int],
        every: int,
        metrics: Sequence[str] = ("psnr_db", "ssim"),
    ) -> None:
        self._model, self._variants, self._counts, self._every = model, variants, counts, every
        self.metrics = list(metrics)
        self.scores: dict[tuple[str, int], list[list[float]]] = collections.defaultdict(list)

    def walk(self, frames: Iterator[tuple[NDArray[np.uint8], ec.Camera]], afterwards: bool) -> str:
        """Go along a walk once; returns a line about it."""
        scene, held_out, rendered, later = ec.Scene(self._model), 0, 0, []
        for image, camera in frames:
            if keyframes.admit(camera.T_world_cam, scene.poses, DISTANCE, ANGLE):
                scene.insert(image, camera)
            elif len(scene) >= FIRST:
                held_out += 1
                if held_out % self._every == 0:
                    rendered += 1
                    if afterwards:
                        later.append((image, camera))
                    else:
                        self._score(scene, image, camera, False)
        for image, camera in later:
            self._score(scene, image, camera, True)
        return f"{len(scene)} keyframes, {rendered} frames rendered"

    def _score(self, scene: ec.Scene, image: NDArray[np.uint8], camera: ec.Camera, fitted: bool) -> None:
        ids = scene.views
        stored = keyframes.Views.of([scene.keyframe(view).camera for view in ids])
        place, policy = camera.T_world_cam[None], ec.FramePolicy()
        truth = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        known: dict[tuple[int, ...], list[float]] = {}
        for variant in self._variants:
            for count in self._counts:
                views = tuple(sorted(ids[row] for row in VARIANTS[variant](camera, stored, count)))
                if views not in known:
                    poses = np.stack([scene.keyframe(view).camera.T_world_cam for view in views])
                    if fitted:
                        frame = ec.SceneFrame.fit(np.concatenate([poses, place]), max_scale=policy.max_scale)
                    else:
                        suits = scene.frame and policy.suits(scene.frame, poses, place)
                        frame = None if suits else policy.frame_for(poses, place)
                    out = scene.render_tensor([camera], plan=Plan(views, frame)).clamp(0, 1).cpu()
                    known[views] = [float(METRICS[name](out, truth)) for name in self.metrics]
                self.scores[variant, count].append(known[views])

    def table(self) -> list[Row]:
        """Return the means."""
        return [
            (variant, count, np.mean(values, axis=0).tolist(), len(values))
            for (variant, count), values in self.scores.items()
        ]


def draw(path: Path, rows: list[Row], counts: list[int]) -> None:
    """Write a chart of the first metric, PSNR, against the number of keyframes, on a logarithmic axis, as SVG."""
    width, height, left, bottom = 640, 300, 50, 40
    values = [row[2][0] for row in rows]
    low, high = np.floor(min(values)), np.ceil(max(values))
    colours = [
        "#0072b2",
        "#d55e00",
        "#009e73",
        "#cc79a7",
        "#e69f00",
        "#56b4e9",
        "#999999",
        "#000000",
        "#aaaa00",
    ]

    def at(count: float, psnr: float) -> str:
        u = np.log2(count / min(counts)) / max(1.0, np.log2(max(counts) / min(counts)))
        x = left + u * (width - left - 190)
        return f"{x:.1f},{height - bottom - (psnr - low) / (high - low) * (height - bottom - 15):.1f}"

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for psnr in np.arange(low, high + 1):
        x, y = at(min(counts), psnr).split(",")
        out.append(f'<line x1="{x}" y1="{y}" x2="{width - 190}" y2="{y}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 8}" y="{float(y) + 4}" text-anchor="end">{psnr:g}</text>')
    for count in counts:
        x = at(count, low).split(",")[0]
        out.append(f'<text x="{x}" y="{height - bottom + 18}" text-anchor="middle">{count}</text>')
    out.append(f'<text x="{(width - 140) / 2}" y="{height - 6}" text-anchor="middle">keyframes used</text>')
    out.append(f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})">PSNR, dB</text>')
    for index, name in enumerate(dict.fromkeys(row[0] for row in rows)):
        colour = colours[index % len(colours)]
        points = " ".join(at(row[1], row[2][0]) for row in rows if row[0] == name)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{width - 178}" y="{30 + 18 * index}" fill="{colour}">{name}</text>')
    path.write_text("\n".join([*out, "</svg>"]) + "\n")


def write(path: Path, metrics: Sequence[str], rows: list[Row]) -> None:
    """Write rows as CSV, for `read`."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "keyframes", *metrics, "frames"])
        writer.writerows([name, count, *means, frames] for name, count, means, frames in rows)


def read(path: Path) -> list[Row]:
    """Return the rows of a file of `write`; a single variant takes the file's name."""
    with path.open(newline="") as file:
        _, *lines = csv.reader(file)
    alone = len({line[0] for line in lines}) == 1
    return [
        (path.stem if alone else name, int(count), [float(mean) for mean in means], int(frames))
        for name, count, *means, frames in lines
    ]


def choosing_time(count: int, targets: int, step: float | None, repeats: int = 200) -> float:
    """Return the median milliseconds of choosing 8 of `count` random keyframes for some targets, as a scene does.

    step: metres between the targets, which look the same way; None: they are anywhere, as the keyframes.
    """
    rng = np.random.default_rng(0)

    def cameras(number: int) -> list[ec.Camera]:
        T = np.tile(np.eye(4), (number, 1, 1))
        yaw = rng.uniform(0, 2 * np.pi, number)
        T[:, 0, 0], T[:, 0, 2], T[:, 2, 0], T[:, 2, 2] = np.cos(yaw), np.sin(yaw), -np.sin(yaw), np.cos(yaw)
        T[:, :3, 3] = rng.uniform(0, 50, (number, 3)) * [1, 0.1, 1]
        return [ec.Camera(200, 200, 128, 128, 256, 256, pose) for pose in T]

    stored, wanted = keyframes.Views.of(cameras(count)), cameras(targets)
    if step is not None:
        first = wanted[0].T_world_cam
        shifts = np.zeros((targets, 4, 4))
        shifts[:, 0, 3] = step * np.arange(targets)
        wanted = [wanted[0].at(first + shift) for shift in shifts]
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        keyframes.most_useful(keyframes.Targets.of(wanted), stored, 8)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


def _range(text: str) -> slice:
    first, last = (int(part) for part in text.split(":"))
    return slice(first, last)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--walk", action="append", help="'office', or the seed of a drawn walk; may be repeated"
    )
    parser.add_argument("--frames", type=_range, default=slice(0, 200), help="of the walk (0:200)")
    parser.add_argument("--every", type=int, default=4, help="render every so many of the other frames (4)")
    parser.add_argument("--afterwards", action="store_true", help="render when the whole walk is known")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="keyframes to use")
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME"
    )
    parser.add_argument("--lpips", action="store_true", help="LPIPS (VGG) as well, which takes a while")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path, help="an SVG")
    parser.add_argument(
        "--draw",
        type=Path,
        nargs="+",
        metavar="CSV",
        help="draw these files into --plot, and measure nothing",
    )
    parser.add_argument(
        "--time", action="store_true", help="measure how long choosing takes, and nothing else"
    )
    args = parser.parse_args()
    if args.time:
        for count in (100, 1000, 10_000):
            one, row, apart = (choosing_time(count, *kind) for kind in ((1, None), (8, 0.1), (8, None)))
            print(
                f"8 of {count:6} keyframes: {one:.3f} ms for one target, {row:.3f} ms for eight in a row, "
                f"{apart:.3f} ms for eight anywhere"
            )
        return
    if args.draw:
        rows = [row for path in args.draw for row in read(path)]
        draw(args.plot or parser.error("--draw needs --plot"), rows, sorted({row[1] for row in rows}))
        return
    model = ec.load_model(args.model, device=args.device)
    size = model.config.image_size
    metrics = list(METRICS)[: 3 if args.lpips else 2]
    measurement = Measurement(model, args.variants, args.views, args.every, metrics)
    for name in args.walk or ["office"]:
        frames = office(args.frames, size) if name == "office" else drawn(int(name), args.frames.stop, size)
        print(f"walk {name}: {measurement.walk(frames, args.afterwards)}", flush=True)
    rows = measurement.table()
    for name in args.variants:
        cells = [
            f"{psnr:6.2f} " + " ".join(f"{v:.3f}" for v in rest)
            for own, _, (psnr, *rest), _ in rows
            if own == name
        ]
        print(f"{name:24}" + "   ".join(cells))
    if args.csv:
        write(args.csv, metrics, rows)
    if args.plot:
        draw(args.plot, rows, args.views)


if __name__ == "__main__":
    main()
