"""LPIPS as a training term: in bfloat16 and channels last on a GPU, and without a gradient into the truth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compilation import fused

TAPS = (1, 3, 6, 9, 12)
"""Convolutions of VGG16 after whose ReLU features are compared."""
POOLED = (2, 4, 7, 10)
"""Convolutions that a 2x2 maximum comes before."""


class FastLpips(nn.Module):
    """LPIPS v0.1 on VGG16, frozen; the weights are those of a module of the `lpips` package."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        convolutions = [m for m in network.net.modules() if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]
        heads = [m for head in network.lins for m in head.modules() if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]
        scaling = network.scaling_layer
        for i, layer in enumerate(convolutions):
            assert layer.bias is not None
            self.register_buffer(f"weight_{i}", layer.weight.detach().clone(), persistent=False)
            self.register_buffer(f"bias_{i}", layer.bias.detach().clone(), persistent=False)
        for i, head in enumerate(heads):
            self.register_buffer(f"head_{i}", head.weight.detach().flatten().clone(), persistent=False)
        for name in ("shift", "scale"):
            self.register_buffer(name, getattr(scaling, name).detach().clone(), persistent=False)
        self.count = len(convolutions)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the five feature maps of images [n, 3, H, W] in [0, 1]."""
        x = (images.float() * 2 - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        dtype = torch.bfloat16 if x.is_cuda else torch.float32
        layout = torch.channels_last if x.is_cuda else torch.contiguous_format
        x, taps = x.to(dtype, memory_format=layout), []
        for i in range(self.count):
            if i in POOLED:
                x = F.max_pool2d(x, 2)
            weight, bias = self.get_buffer(f"weight_{i}"), self.get_buffer(f"bias_{i}")
            x = F.relu(
                F.conv2d(x, weight.to(dtype, memory_format=layout), bias.to(dtype), padding=1), inplace=True
            )
            if i in TAPS:
                taps.append(x)
        return taps

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the mean distance of images and targets [n, 3, H, W] in [0, 1], a scalar; H and W at least 16."""
        with torch.no_grad():
            truth = self.features(target)
        made = self.features(image)
        compare = fused(_distance, image.is_cuda)
        heads = [self.get_buffer(f"head_{i}") for i in range(len(made))]
        parts = [compare(a, b, head)[0] for a, b, head in zip(made, truth, heads, strict=True)]
        return torch.stack(parts).sum()


def _distance(a: Tensor, b: Tensor, head: Tensor) -> tuple[Tensor]:
    """Compare features [n, c, h, w] normalised over their channels; head [c]."""
    a, b = a.float(), b.float()
    # A little is added under the root: features that are all zero must not give an infinite gradient.
    a = a * (a.square().sum(1, keepdim=True) + 1e-10).rsqrt()
    b = b * (b.square().sum(1, keepdim=True) + 1e-10).rsqrt()
    return (((a - b).square() * head[:, None, None]).sum(1).mean(),)
