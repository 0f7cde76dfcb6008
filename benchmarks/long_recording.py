"""Evaluate a recording of ten minutes, made by walking another one to and fro: time and memory.

python benchmarks/long_recording.py --bag PATH. A lap lies beside the one before it by --shift metres, so that every
lap looks new to the node and brings keyframes of its own; with --shift 0 it recognises where it is.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import elvsm_core as ec
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.recordings.bag_reader import SECOND, Bag, PosedFrames, find_streams
from elvsm_ros.recordings.bag_writer import CameraBagWriter


def write_laps(
    source: Path, target: Path, seconds: float, size: tuple[int, int], shift: float, rate: float = 0.0
) -> int:
    """Write `seconds` of a walk through a recording to and fro, and return the number of images.

    size: (height, width) pixels of the images. shift: metres along the world's x axis from lap to lap. rate: images
    per second; 0: as recorded.
    """
    with Bag(source) as bag:
        frames = []
        for frame in PosedFrames(bag, find_streams(bag)):
            c = frame.intrinsics
            camera = ec.Camera(c.fx, c.fy, c.cx, c.cy, c.width, c.height, frame.T_world_cam)
            image, fitted = ec.resize_and_crop(frame.rgb(), camera, size)
            frames.append((image.numpy(), fitted))
        every = 1 / rate if rate else bag.duration / max(1, len(frames) - 1)
    count = round(seconds / every)
    laps = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    with CameraBagWriter(target) as writer:
        for k in range(count):
            image, camera = frames[laps[k % len(laps)]]
            T = camera.T_world_cam.copy()
            T[0, 3] += shift * (k // (len(frames) - 1))
            stamp = 1_700_000_000 * SECOND + round(k * every * SECOND)
            writer.add_pose(stamp, T)
            writer.add_image(stamp, image, Intrinsics(*camera.fxfycxcy, camera.width, camera.height))
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bag", type=Path, required=True, help="recording to walk to and fro")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"), help="of the images"
    )
    parser.add_argument("--shift", type=float, default=20.0, help="metres from lap to lap (20)")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="images per second (as many as were recorded)"
    )
    parser.add_argument("--out", type=Path, help="where the report is kept")
    parser.add_argument("more", nargs="*", help="behind --: options of elvsm_evaluate_bag")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bag, out = Path(folder) / "long", options.out or Path(folder) / "out"
        seconds, size = 60 * options.minutes, (options.size[1], options.size[0])
        count = write_laps(options.bag, bag, seconds, size, options.shift, options.rate)
        megabytes = sum(file.stat().st_size for file in bag.iterdir()) / 1e6
        print(f"{count} images of {size[1]}x{size[0]}, {seconds:.0f} s, {megabytes:.0f} MB", flush=True)
        begin = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "elvsm_ros.evaluation.evaluate_bag",
            "--bag",
            str(bag),
            "--out",
            str(out),
        ]
        status = subprocess.run([*command, *options.more], check=False).returncode
        took = time.monotonic() - begin
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        counts = json.loads((out / "results.json").read_text())["counts"]
    print(
        f"{took:.0f} s for {seconds:.0f} s of recording, peak memory {peak:.0f} MiB; {counts['keyframes_inserted']} "
        f"keyframes, {counts['keyframes_evicted']} of them evicted, {counts['held_out_rendered']} frames rendered"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
