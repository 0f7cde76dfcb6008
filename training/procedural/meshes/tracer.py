"""Compile and call the ray caster for meshes (the sources in tracer/): on a GPU through CuPy, on a CPU through a
C++ compiler."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WORDS = {
    "node": 16,
    "triangle": 12,
    "corner": 3,
    "instance": 16,
    "material": 24,
    "texture": 4,
    "light": 16,
    "place": 20,
}
"""32-bit words of a row of each table; the layouts stand in tracer/2_world.cuh."""
VIEW_WORDS, SAMPLE_WORDS = 20, 14
FAR = 1e30  # t of a ray that meets nothing
TABLES = (
    "nodes",
    "triangles",
    "corners",
    "textures",
    "texels",
    "top",
    "instances",
    "materials",
    "lights",
    "places",
)
THREADS = 128
COMPILERS = ("g++", "c++", "clang++")


class TracerError(RuntimeError):
    """The ray caster cannot be compiled here."""


@functools.cache
def source() -> str:
    """Return the ray caster's source, one translation unit for CUDA and C++."""
    return "\n".join(file.read_text() for file in sorted((Path(__file__).parent / "tracer").glob("*.cuh")))


@functools.cache
def host_library() -> ctypes.CDLL:
    """Return the ray caster for the CPU; compiled at the first call on a machine. Raises TracerError."""
    compiler = os.environ.get("CXX") or next((c for c in COMPILERS if shutil.which(c)), None)
    if compiler is None:
        raise TracerError(f"mesh rooms need a C++ compiler ({', '.join(COMPILERS)} or $CXX): install one")
    flags = ["-O3", "-std=c++17", "-fPIC", "-shared", "-fno-math-errno", "-x", "c++"]
    name = hashlib.sha256((source() + compiler + " ".join(flags)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elvsm"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="elvsm-"))
    library = folder / f"mesh_tracer-{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            code, built = Path(scratch) / "tracer.cpp", Path(scratch) / "tracer.so"
            code.write_text(source())
            for threads in (["-fopenmp"], []):  # not every compiler has OpenMP
                done = subprocess.run(
                    [compiler, *flags, *threads, str(code), "-o", str(built)], capture_output=True, text=True
                )
                if done.returncode == 0:
                    break
            else:
                raise TracerError(f"{compiler} cannot compile the ray caster:\n{done.stderr[-2000:]}")
            os.replace(built, library)
    return ctypes.CDLL(str(library))


@functools.cache
def device_module() -> Any:
    """Return the ray caster as a CuPy module, compiled by NVRTC for the current GPU. Raises TracerError."""
    try:
        import cupy
    except ImportError as error:
        raise TracerError(
            "mesh rooms on a GPU need CuPy: pip install cupy-cuda13x (or cupy-cuda12x)"
        ) from error
    module = cupy.RawModule(code=source(), options=("-std=c++17", "--use_fast_math"), name_expressions=None)
    try:
        module.compile()
    except Exception as error:
        raise TracerError(f"NVRTC cannot compile the ray caster: {error}") from error
    return module


def words(array: NDArray[Any]) -> Tensor:
    """Return an array of 32-bit numbers as an int32 tensor with the same bits."""
    return torch.from_numpy(np.ascontiguousarray(array).view(np.int32))


class Caller:
    """Calls the passes with the tables of a world; all tensors are on one device."""

    def __init__(self, tables: dict[str, Tensor]) -> None:
        self.tables = [tables[name].contiguous() for name in TABLES]
        self.device = self.tables[0].device

    def host(self, function: str, *arguments: Tensor | int | float) -> None:
        """Run a function of the CPU's library (tracer/7_host.cuh); the tables must be there."""
        if self.device.type != "cpu":
            raise ValueError(
                f"scenes are furnished on the CPU, the bank is on {self.device}: use bank.catalogue()"
            )
        getattr(host_library(), function)(*(_argument(v) for v in [*self.tables, *arguments]))

    def __call__(
        self, function: str, *arguments: Tensor | int, world: bool = True, grid: tuple[int, int, int]
    ) -> None:
        """Run a pass. grid: the lattice's width and height and the number of views."""
        values = [*(self.tables if world else []), *arguments]
        if self.device.type != "cuda":
            getattr(host_library(), function)(*(_argument(v) for v in values))
            return
        import cupy

        width, height, views = grid
        blocks = (((width + 7) // 8) * ((height + 3) // 4) * 32 + THREADS - 1) // THREADS
        packed = tuple(np.int32(v) if isinstance(v, int) else np.uint64(v.data_ptr()) for v in values)
        with cupy.cuda.Device(self.device.index or 0):
            stream = cupy.cuda.ExternalStream(torch.cuda.current_stream(self.device).cuda_stream)
            with stream:
                device_module().get_function(function)((blocks, views), (THREADS,), packed)


def _argument(value: Tensor | int | float) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int(value)


def build_hierarchy(
    low: NDArray[np.float32], high: NDArray[np.float32], leaf: int, first_node: int = 0, first_leaf: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Build a hierarchy over boxes [n, 3]; return its nodes [k, 16] and the order of the boxes in its leaves [n].

    Numbers of nodes and leaves count from first_node and first_leaf.
    """
    n = len(low)
    if n < 1:
        raise ValueError("a hierarchy needs at least one box")
    low, high = np.ascontiguousarray(low, np.float32), np.ascontiguousarray(high, np.float32)
    nodes, order = np.zeros((max(1, n - 1), WORDS["node"]), np.float32), np.zeros(n, np.int32)
    used = host_library().build_hierarchy(
        *(ctypes.c_void_p(a.ctypes.data) for a in (low, high)), n, leaf, first_node, first_leaf,
        *(ctypes.c_void_p(a.ctypes.data) for a in (nodes, order)),
    )  # fmt: skip
    return nodes[:used], order
