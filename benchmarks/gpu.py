"""Measure all that docs/notebook/gpu.md says of a GPU, one thing after another: python benchmarks/gpu.py

The engine comes first, so that the node finds its kernels compiled. What fails, or takes longer than it may, is
named at the end, with status 1, and does not keep the rest from being measured. Without a GPU, and with --model
small, everything runs as well, to see that it does.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OF_THE_NODE = (
    "elvsm_ros.node",
    "elvsm_ros.conversions",
    "elvsm_ros.input.rectification",
    "elvsm_ros.input.quality",
)
"""Modules that a node imports at the latest when it is configured: whatever they lack shows before anything runs."""


def steps(model: str, device: str, out: Path | None) -> dict[str, tuple[list[str], float]]:
    """Return what to run: {name: (arguments of Python, seconds that it may take)}."""
    full = model == "full"
    core = ["--model", "efficient-lvsm" if full else "demo", "--device", device]
    engine = ["-m", "elvsm_core.benchmark", *core]
    if full:
        engine += ["--repeats", "40", "--keyframes", "100", "1000", "10000", "--insertions", "10000"]
    else:
        engine += ["--repeats", "3", "--views", "1", "4", "--targets", "1", "--keyframes", "20"]
    node = ["--model", model, "--device", device]
    count = [] if full else ["--count", "10"]
    mixed = ["benchmarks/mixed_requests.py", *node, *([] if full else ["--requests", "40"])]
    found = {
        "engine": (engine, 400.0),
        "launch": (["benchmarks/launch.py", *core, *([] if full else ["--repeats", "5"])], 120.0),
        "service": (["benchmarks/service_roundtrip.py", *node, *count], 120.0),
        "insert": (["benchmarks/insert_latency.py", *node, "--period", "0.08", *(count or ["--count", "60"])], 120.0),
        "mixed": (mixed, 150.0),
        "mixed-64": ([*mixed, "--capacity", "64"], 150.0),
    }  # fmt: skip
    if out is not None:
        for name, (command, _) in found.items():
            command += [] if name == "launch" else ["--json", str(out / f"{name}.json")]
    return found


def run(command: list[str], limit: float) -> str:
    """Run Python with these arguments, with all that it starts; return what went wrong, or nothing."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, start_new_session=True
    )
    try:
        status = process.wait(limit)
        return f"status {status}" if status else ""
    except subprocess.TimeoutExpired:
        return f"not done after {limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):  # of what it started, too: nodes, clients
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("full", "small"), default="full", help="random weights (full)")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, cpu (auto)")
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", help="some of: " + ", ".join(steps("", "", None))
    )
    parser.add_argument("--out", type=Path, help="folder for the figures as JSON")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for module in OF_THE_NODE:
        importlib.import_module(module)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        options.out = options.out.resolve()
    found = steps(options.model, options.device, options.out)
    failed = []
    for name in options.only or found:
        if name not in found:
            parser.error(f"there is no step {name!r}; there are {', '.join(found)}")
        command, limit = found[name]
        print(f"== {name}: python {' '.join(command)}", flush=True)
        start = time.monotonic()
        problem = run(command, limit)
        print(f"== {name}: {problem or 'done'}, {time.monotonic() - start:.0f} s\n", flush=True)
        failed += [f"{name} ({problem})"] if problem else []
    if failed:
        print("failed: " + ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
