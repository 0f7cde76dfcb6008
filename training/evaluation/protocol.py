"""The published evaluation on RealEstate10K: listed views, joint normalisation, metrics per view, means
over scenes.

Every scene's result is appended to a file as soon as it is there, so that a run that was killed goes on,
with any number of processes, and no scene is left out or counted twice.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import elvsm_core as ec
from elvsm_core.files.atomic import write_bytes
from elvsm_core.files.lpips_weights import find_weights, load_lpips

from ..sampling.samples import EvaluationSamples

METRICS = ("psnr", "ssim", "lpips")
RESULTS = "results-*.jsonl"
RUN_NAME = "run.json"


class ProtocolError(ValueError):
    """An evaluation that cannot be run or merged, with the reason and what to do about it."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How renders are made and measured. The defaults compute as well as they can.

    lpips: also compute LPIPS (vgg), from weights in a file (elvsm_core.metrics.lpips). amp: on a GPU, a
    float32 model computes under bfloat16 autocast, as published. bf16_images: round renders to bfloat16
    before measuring, and bf16_lpips: compute LPIPS under bfloat16 autocast, both as published; together with
    ModelConfig.bf16_rays they reproduce the published figures most closely. resize: side of the square that
    images are resized to (bilinear) before measuring, None for as they are.
    """

    lpips: bool = True
    lpips_weights: str | None = None
    amp: bool = True
    bf16_images: bool = False
    bf16_lpips: bool = False
    resize: int | None = None


@dataclasses.dataclass(frozen=True)
class SceneResult:
    """One scene: per target its frame number and each metric. `error` says why there are none."""

    scene: str
    views: tuple[int, ...] = ()
    metrics: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    error: str | None = None

    def mean(self, metric: str) -> float:
        """Return the mean over the scene's targets."""
        return sum(self.metrics[metric]) / len(self.views)

    def to_json(self) -> str:
        """Return everything as one line of JSON; see `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SceneResult:
        """Parse what to_json wrote. Raises ValueError for anything else, a cut line for example."""
        values = json.loads(text)
        try:
            metrics = {str(name): tuple(map(float, numbers)) for name, numbers in values["metrics"].items()}
            return cls(values["scene"], tuple(values["views"]), metrics, values["error"])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a result: {text[:80]!r}") from error


def stack(samples: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Tensor]:
    """Stack samples of one shape into batches on the device; images become float32 in [0, 1]."""
    names = [name for name, value in samples[0].items() if isinstance(value, Tensor)]
    batch = {name: torch.stack([sample[name] for sample in samples]).to(device) for name in names}
    return {
        name: value.float() / 255 if value.dtype == torch.uint8 else value for name, value in batch.items()
    }


@torch.no_grad()
def render(model: ec.EfficientLVSM, batch: Mapping[str, Tensor], amp: bool = True) -> Tensor:
    """Render the targets of a batch from `stack`: [b, M, 3, H, W] float32 in [0, 1]."""
    device = model.device.type
    size = (batch["target_image"].shape[-2], batch["target_image"].shape[-1])
    views = [batch[f"input_{name}"] for name in ("image", "c2w", "fxfycxcy")]
    half = amp and device == "cuda" and model.dtype == torch.float32
    with torch.autocast(device, torch.bfloat16, enabled=half):
        return model(*views, batch["target_c2w"], batch["target_fxfycxcy"], size)


@torch.no_grad()
def measure(renders: Tensor, truth: Tensor, protocol: Protocol) -> dict[str, Tensor]:
    """Compute the metrics of renders against truth, both [n, 3, H, W] in [0, 1]: name -> [n]."""
    if protocol.bf16_images:
        renders = renders.bfloat16().float()
    if protocol.resize is not None:
        side = (protocol.resize, protocol.resize)
        renders, truth = (
            F.interpolate(x, side, mode="bilinear", align_corners=False) for x in (renders, truth)
        )
    scores = {"psnr": ec.metrics.psnr(renders, truth), "ssim": ec.metrics.ssim(renders, truth)}
    if protocol.lpips:
        scores["lpips"] = _lpips(renders, truth, protocol)
    return scores


def _lpips(renders: Tensor, truth: Tensor, protocol: Protocol) -> Tensor:
    if not protocol.bf16_lpips:
        return ec.metrics.lpips(renders, truth, net="vgg", weights=protocol.lpips_weights)
    network = load_lpips("vgg", find_weights("vgg", protocol.lpips_weights), renders.device)
    with torch.autocast(renders.device.type, torch.bfloat16):
        pairs = zip(renders.split(8), truth.split(8), strict=True)
        return torch.cat([network(a, b, normalize=True).flatten().float() for a, b in pairs])


def evaluate_scenes(
    model: ec.EfficientLVSM, samples: Sequence[Mapping[str, Any]], protocol: Protocol
) -> Iterator[SceneResult]:
    """Evaluate samples of EvaluationSamples, in their order; those that carry an error yield it."""
    good = [sample for sample in samples if "error" not in sample]
    results = {}
    if good:
        batch = stack(good, model.device)
        renders = render(model, batch, protocol.amp)
        scores = measure(renders.flatten(0, 1), batch["target_image"].flatten(0, 1), protocol)
        per_scene = {name: score.view(len(good), -1).tolist() for name, score in scores.items()}
        for i, sample in enumerate(good):
            metrics = {name: tuple(score[i]) for name, score in per_scene.items()}
            views = tuple(sample["target_frame"].tolist())
            results[sample["scene"]] = SceneResult(sample["scene"], views, metrics)
    for sample in samples:
        key = sample["scene"]
        yield results[key] if key in results else SceneResult(key, error=sample["error"])


def shard(keys: Sequence[str], rank: int, world: int) -> list[str]:
    """Return the part of rank `rank` of `world` processes: every key is in exactly one part."""
    if not 0 <= rank < world:
        raise ProtocolError(f"there is no rank {rank} of {world} processes")
    return list(keys[rank::world])


def fingerprint(model: ec.EfficientLVSM) -> str:
    """Return a checksum of a model's configuration and weights."""
    checksum = zlib.crc32(model.config.to_json().encode())
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().float().cpu().contiguous().numpy()
        checksum = zlib.crc32(data.tobytes(), zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def describe(model: ec.EfficientLVSM, samples: EvaluationSamples, protocol: Protocol) -> dict[str, Any]:
    """Return what results depend on, as JSON: two runs may be merged only where this is the same."""
    views = {key: samples.index[key] for key in samples.keys}
    settings = dataclasses.asdict(protocol)
    del settings["lpips_weights"]
    return {
        "model": fingerprint(model),
        "dtype": str(model.dtype),
        "protocol": settings,
        "samples": json.loads(json.dumps(dataclasses.asdict(samples.config))),
        "views": f"{zlib.crc32(json.dumps(views, sort_keys=True).encode()):08x}",
    }


def evaluate(
    model: ec.EfficientLVSM,
    samples: EvaluationSamples,
    folder: Path,
    protocol: Protocol,
    rank: int = 0,
    world: int = 1,
    batch: int = 1,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Evaluate this rank's part of the scenes that `folder` holds no result of yet; return how many those
    were.

    Each result is appended to results-<rank>.jsonl at once. Scenes that failed before are tried again.
    progress is called with (done, of all) of this rank. batch: scenes rendered together.

    Raises ProtocolError when the folder holds results of another model, of other views or other settings, and
    elvsm_core.metrics.MetricError before the first render where LPIPS cannot be computed.
    """
    from torch.utils.data import DataLoader, Subset

    if protocol.lpips:
        load_lpips("vgg", find_weights("vgg", protocol.lpips_weights), model.device)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, describe(model, samples, protocol))
    done = {result.scene for result in read_results(folder) if result.error is None}
    positions = {key: position for position, key in enumerate(samples.keys)}
    todo = [positions[key] for key in shard(samples.keys, rank, world) if key not in done]
    loader: Iterable[list[dict[str, Any]]] = DataLoader(
        Subset(samples, todo), batch_size=batch, num_workers=workers, collate_fn=list
    )
    finished = 0
    with _results_file(folder / RESULTS.replace("*", str(rank))) as file:
        for group in loader:
            for result in evaluate_scenes(model, group, protocol):
                file.write(result.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
            finished += len(group)
            if progress is not None:
                progress(finished, len(todo))
    return finished


def _claim(folder: Path, description: Mapping[str, Any]) -> None:
    path = folder / RUN_NAME
    if not path.exists():
        write_bytes(path, json.dumps(description, indent=1).encode())
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ProtocolError(f"{path} is damaged: delete it, or evaluate into another folder") from error
    different = sorted(name for name in description if found.get(name) != description[name])
    if different:
        raise ProtocolError(
            f"{folder} holds results of another evaluation ({', '.join(different)} differ): choose another "
            f"folder, or delete it"
        )


def _results_file(path: Path) -> Any:
    """Open a file of results for appending; a last line that was cut is completed, so that it spoils no
    other."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
    return path.open("a")


def read_results(folder: Path) -> list[SceneResult]:
    """Read the results of all ranks, one per scene: the first good one, or the last error. Cut lines are
    left out."""
    found: dict[str, SceneResult] = {}
    for path in sorted(folder.glob(RESULTS)):
        for line in path.read_text().splitlines():
            try:
                result = SceneResult.from_json(line)
            except ValueError:
                continue  # killed while writing; the scene has no result then and is evaluated again
            if result.scene not in found or found[result.scene].error is not None:
                found[result.scene] = result
    return [found[key] for key in sorted(found)]


@dataclasses.dataclass(frozen=True)
class Summary:
    """An evaluation as a whole: unweighted means over scenes of the means over their targets.

    failed: scene -> reason. dropped: scenes of the index that were not evaluated, by reason.
    """

    means: Mapping[str, float]
    scenes: Sequence[SceneResult]
    failed: Mapping[str, str]
    dropped: Mapping[str, Sequence[str]]

    def __str__(self) -> str:
        means = ", ".join(f"{name.upper()} {value:.4f}" for name, value in self.means.items())
        left_out = [*((name, len(keys)) for name, keys in self.dropped.items()), ("failed", len(self.failed))]
        counts = ", ".join(f"{n} {name}" for name, n in left_out if n) or "none"
        return f"{means} over {len(self.scenes)} scenes; left out: {counts}"


def summarize(folder: Path, samples: EvaluationSamples) -> Summary:
    """Merge the results of all ranks. Raises ProtocolError when a scene has no result, or none could be
    evaluated."""
    results = {result.scene: result for result in read_results(folder) if result.scene in set(samples.keys)}
    missing = [key for key in samples.keys if key not in results]
    if missing:
        raise ProtocolError(
            f"{folder} has no result of {len(missing)} of {len(samples.keys)} scenes ({missing[0]}, for "
            f"example): run the evaluation again, it goes on where it stopped"
        )
    good = [result for result in results.values() if result.error is None]
    failed = {result.scene: str(result.error) for result in results.values() if result.error is not None}
    if not good:
        raise ProtocolError(f"no scene could be evaluated: {next(iter(failed.values()))}")
    names = [name for name in METRICS if name in good[0].metrics]
    means = {name: math.fsum(result.mean(name) for result in good) / len(good) for name in names}
    return Summary(means, good, failed, samples.dropped)


def write_summary(summary: Summary, folder: Path) -> None:
    """Write metrics.json, summary.csv and average_metrics.txt.

    metrics.json: {summary, failed, dropped, scenes}; each of scenes is, as in the published files,
    {summary: {scene_name, psnr, lpips, ssim}, per_view: [{view, psnr, lpips, ssim}]}.
    """
    scenes: list[dict[str, Any]] = []
    for result in summary.scenes:
        means: dict[str, Any] = {name: result.mean(name) for name in summary.means}
        per_view = [
            {"view": view} | {name: result.metrics[name][i] for name in summary.means}
            for i, view in enumerate(result.views)
        ]
        scenes.append({"summary": {"scene_name": result.scene} | means, "per_view": per_view})
    content = {
        "summary": {**summary.means, "scenes": len(scenes)},
        "failed": dict(summary.failed),
        "dropped": {name: list(keys) for name, keys in summary.dropped.items()},
        "scenes": scenes,
    }
    write_bytes(folder / "metrics.json", json.dumps(content, indent=1).encode())
    with (folder / "summary.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["scene_name", *summary.means])
        table.writerows(
            [result.scene, *(result.mean(name) for name in summary.means)] for result in summary.scenes
        )
        table.writerow(["average", *summary.means.values()])
    lines = [f"{name}: {value:.6f}\n" for name, value in summary.means.items()]
    write_bytes(folder / "average_metrics.txt", "".join([*lines, f"scenes: {len(scenes)}\n"]).encode())
