"""VGG19 as the published perceptual loss uses it: Oxford's original weights, and average pools.

The weights are those of MatConvNet's `imagenet-vgg-verydeep-19.mat` (RGB, 0 to 255 with the mean
subtracted). The weights that torchvision ships under the same names were trained for other inputs and give
another loss.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

CHANNELS = (64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512)
LAYERS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
"""Numbers of the convolutions in `features`, as torchvision and the published checkpoints count."""
TAPS = (2, 7, 12, 21, 30)
"""Convolutions after whose ReLU features are taken: relu1_2, relu2_2, relu3_2, relu4_2, relu5_2."""
POOLED = (5, 10, 19, 28)
"""Convolutions that a 2x2 pool comes before."""
MEAN = (123.68, 116.779, 103.939)
URL = "https://www.vlfeat.org/matconvnet/models/imagenet-vgg-verydeep-19.mat"


class WeightFileError(ValueError):
    """A file of weights for a loss that is missing or cannot be used, with what to do about it."""


class VGG19(nn.Module):
    """The convolutions up to relu5_2, frozen. Images in, five feature maps out.

    state: features.{i}.weight (OIHW) and features.{i}.bias for the fourteen numbers i up to 30.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layers = [i for i in LAYERS if i <= TAPS[-1]]
        channels = 3
        for i, width in zip(self.layers, CHANNELS, strict=False):
            for kind, shape in (("weight", (width, channels, 3, 3)), ("bias", (width,))):
                name = f"features.{i}.{kind}"
                if name not in state:
                    raise WeightFileError(f"{name!r} is missing: these are not the weights of VGG19")
                if tuple(state[name].shape) != shape:
                    raise WeightFileError(
                        f"{name!r} has shape {list(state[name].shape)}, VGG19 has {list(shape)}"
                    )
                self.register_buffer(f"{kind}_{i}", state[name].detach().float().contiguous())
            channels = width
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))

    def pixels(self, images: Tensor) -> Tensor:
        """Map images [n, 3, H, W] in [0, 1] to what the network sees: 0 to 255, mean subtracted, float32."""
        return images.float() * 255 - self.get_buffer("mean")

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the five features of `pixels(images)`; H and W at least 16."""
        x, features = pixels, []
        for i in self.layers:
            if i in POOLED:
                x = F.avg_pool2d(x, 2)
            weight, bias = self.get_buffer(f"weight_{i}"), self.get_buffer(f"bias_{i}")
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
            if i in TAPS:
                features.append(x)
        return features


def read_vgg19(path: str | os.PathLike[str] | None) -> dict[str, Tensor]:
    """Read VGG19's convolutions as {"features.{i}.weight": OIHW, "features.{i}.bias"}.

    path: MatConvNet's .mat file; or .npz, .safetensors, .pt or .pth with those names, any prefix before
    them, so that a published Efficient-LVSM checkpoint, which carries the network, will do as well. Nothing
    in a file is run. Raises WeightFileError for a file that is missing, damaged, or not these weights.
    """
    if path is None or not Path(path).expanduser().is_file():
        given = "no file was given" if path is None else f"there is no file {path}"
        raise WeightFileError(
            f"the perceptual loss needs the weights of VGG19, but {given}. Download {URL} (about 550 MB) and "
            f"give its path, or train without this loss (perceptual weight 0)"
        )
    path = Path(path).expanduser()
    try:
        if path.suffix == ".mat":
            return _from_matconvnet(path)
        named = _read_named(path)
    except WeightFileError:
        raise
    except Exception as error:  # each of the four readers fails in its own ways
        raise WeightFileError(
            f"{path} cannot be read as VGG19 weights ({error}): download it again"
        ) from error
    if "features.0.weight" in named and "classifier.0.weight" in named:
        raise WeightFileError(
            f"{path} looks like torchvision's VGG19, whose weights expect other inputs than the published "
            f"loss gives: use {URL}"
        )
    found: dict[str, Tensor] = {}
    for name, array in named.items():
        if match := re.search(r"(?:^|[./])(features\.\d+\.(?:weight|bias))$", name):
            found[match[1]] = array
    if not found:
        raise WeightFileError(
            f"{path} holds no tensors features.<i>.weight: these are not the weights of VGG19"
        )
    return found


def _read_named(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    payload = torch.load(path, map_location="cpu", weights_only=True)
    payload = payload.get("model", payload)
    return {name: tensor for name, tensor in payload.items() if isinstance(tensor, Tensor)}


def _from_matconvnet(path: Path) -> dict[str, Tensor]:
    from scipy.io import loadmat

    layers = loadmat(path, simplify_cells=True).get("layers")
    convolutions = [
        layer for layer in (() if layers is None else layers) if str(layer.get("name", "")).startswith("conv")
    ]
    if len(convolutions) != len(LAYERS):
        raise WeightFileError(
            f"{path} has {len(convolutions)} convolutions, VGG19 has {len(LAYERS)}: it is another network"
        )
    state: dict[str, Tensor] = {}
    for i, layer in zip(LAYERS, convolutions, strict=True):
        kernel, bias = layer["weights"][0], layer["weights"][1]
        state[f"features.{i}.weight"] = _tensor(np.asarray(kernel).transpose(3, 2, 0, 1))
        state[f"features.{i}.bias"] = _tensor(np.asarray(bias).reshape(-1))
    return state


def _tensor(array: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
