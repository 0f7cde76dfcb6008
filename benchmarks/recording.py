"""Print the figures of a recording in docs/notebook/quality.md: quality, twice; max_views; noisy poses; the node.

python benchmarks/recording.py --bag PATH. Everything comes from elvsm_evaluate_bag; ended in between, it goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METHODS = {"render": "render", "nearest": "nearest keyframe", "rotation": "nearest keyframe, rotated"}
MORE = ("--sweep", "1,2,4,8", "--pose-noise", "--through-node", "--rate", "0.5")


def evaluate(bag: Path, out: Path, more: Sequence[str]) -> dict[str, Any]:
    """Run elvsm_evaluate_bag unless it has ended there before, and return its results. Ends with its status."""
    file = out / "results.json"
    if not file.exists() or not json.loads(file.read_text())["complete"]:
        command = [
            sys.executable,
            "-m",
            "elvsm_ros.evaluation.evaluate_bag",
            "--bag",
            str(bag),
            "--out",
            str(out),
        ]
        status = subprocess.run([*command, "--no-video", *more], stdout=sys.stderr, check=False).returncode
        if status:
            sys.exit(status)
    return json.loads(file.read_text())


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown, figures with two digits after the point."""
    lines = [head, ["---"] * len(head)]
    lines += [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def means(results: dict[str, Any]) -> str:
    """Return the table of means over the held-out frames."""
    rows = []
    for method, words in METHODS.items():
        row: list[object] = [words]
        for column in ("online", "offline"):
            m = results["summary"][column][method]
            row += [m["psnr"], *("–" if m[k] is None else f"{m[k]:.3f}" for k in ("ssim", "lpips"))]
        rows.append(row)
    head = ["", *(f"{m} {c}" for c in ("online", "offline") for m in ("PSNR", "SSIM", "LPIPS"))]
    return table(head, rows)


def through_node(run: dict[str, Any]) -> str:
    """Return what came of playing the recording into the node."""
    rows = [
        [column, *(run["psnr"][column][name] for name in ("node", "here", "here_same_keyframes"))]
        for column in ("online", "offline")
    ]
    latency = {name: f"{value:.0f} ms" for name, value in run["latency_ms"].items()}
    told = {"rate": run["rate"], **run["counts"], **latency}
    head = ["PSNR, dB", "node", "replay", "replay with the node's keyframes"]
    return table(head, rows) + "\n" + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in told.items()) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bag", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("recording_out"), help="where the two reports go")
    parser.add_argument("more", nargs="*", help="behind --: further options of elvsm_evaluate_bag")
    options = parser.parse_args()
    results = evaluate(options.bag, options.out / "first", [*MORE, *options.more])
    again = evaluate(options.bag, options.out / "second", options.more)
    counts, timing = results["counts"], results["timing"]
    print(
        f"{counts['images']} images, {counts['keyframes']} keyframes, {counts['held_out_rendered']} held out; a "
        f"keyframe {timing['insert_ms_p50']:.0f} ms, a render {timing['render_ms_p50']:.0f} ms (medians), peak memory "
        f"{timing['peak_memory_bytes'] / 2**20:.0f} MiB\n"
    )
    print(means(results))
    print(table(["max_views", "PSNR online"], [[r["max_views"], r["psnr"]] for r in results["sweep"]]))
    noise = [[f"{r['centimetres']:g} cm, {r['degrees']:g}°", r["psnr"]] for r in results["pose_noise"]]
    print(table(["keyframes displaced, turned", "PSNR offline"], noise))
    print(through_node(results["through_node"]))
    same = [
        all(a[k] == b[k] for k in a if k in b)
        for a, b in zip(results["frames"], again["frames"], strict=True)
    ]
    print(f"the same figures in a second run: {sum(same)} of {len(same)} frames")
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
