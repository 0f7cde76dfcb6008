"""Representation alignment (REPA): pull tokens of the model towards features of a frozen DINO network.

Published as the best: DINOv3's layer 8 to layer 2 of both streams, smooth L1 (mapping "8-2", loss "sl1").
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elvsm_core import EfficientLVSM
from elvsm_core.files.lpips_weights import import_torchvision

Stream = Literal["input", "target"]
STREAMS: tuple[Stream, Stream] = ("input", "target")
HIDDEN = 2048
LOSSES = ("sl1", "l2", "cos")


class RepaError(ValueError):
    """Settings or files that no alignment can be computed with, with what to do about it."""


class AlignedLayer(NamedTuple):
    """Tokens after layer `layer` of a stream are aligned with the output of DINO's block `dino`; both count
    from 1."""

    stream: Stream
    dino: int
    layer: int


def parse_mapping(name: str, dino_layers: int = 12, layers: int = 12) -> list[AlignedLayer]:
    """Parse which layers are aligned.

    The published names: "8-2" aligns DINO's layer 8 with the model's layer 2 in both streams, "8-2t" in the
    target stream, "8-2i" in the input stream; "48-23" is 4 with 2 and 8 with 3; "8-34" is 8 with 3 and with
    4; "12-3" is 12 with 3; "8-3t-8-2i" are two at once. Without guessing, and for layers above 9 of the
    model: "12:10,8:3t". dino_layers, layers: how many there are. Raises RepaError for anything else.
    """
    links: list[AlignedLayer] = []
    if ":" in name:
        parts = [re.fullmatch(r"\s*(\d+):(\d+)([it]?)\s*", part) for part in name.split(",")]
        if not all(parts):
            raise RepaError(
                f"mapping {name!r}: expected dino:model with i or t behind it, for example '8:2,8:3t'"
            )
        for match in parts:
            assert match is not None
            links += _links(match[3], [(int(match[1]), int(match[2]))])
    else:
        if not re.fullmatch(r"\d+-\d+[it]?(-\d+-\d+[it]?)*", name):
            raise RepaError(
                f"mapping {name!r}: expected a name such as '8-2', '8-2t', '48-23', or '8:2,8:3t'"
            )
        for dino, model, stream in re.findall(r"(\d+)-(\d+)([it]?)", name):
            links += _links(stream, _pairs(name, dino, model, dino_layers))
    for link in links:
        if not (1 <= link.dino <= dino_layers and 1 <= link.layer <= layers):
            raise RepaError(
                f"mapping {name!r} aligns layer {link.dino} of {dino_layers} with layer {link.layer} of {layers}"
            )
    return sorted(set(links))


def _links(stream: str, pairs: Sequence[tuple[int, int]]) -> list[AlignedLayer]:
    streams = {"i": STREAMS[:1], "t": STREAMS[1:], "": STREAMS}[stream]
    return [AlignedLayer(s, dino, layer) for s in streams for dino, layer in pairs]


def _pairs(name: str, dino: str, model: str, dino_layers: int) -> list[tuple[int, int]]:
    if len(dino) > 1 and len(model) == 1 and int(dino) <= dino_layers:
        return [(int(dino), int(model))]
    if len(dino) == 1:
        return [(int(dino), int(digit)) for digit in model]
    if len(dino) == len(model) and not (int(dino) <= dino_layers and "0" not in dino):
        return [(int(a), int(b)) for a, b in zip(dino, model, strict=True)]
    raise RepaError(
        f"mapping {name!r} can be read in two ways or in none: write it as 'dino:model,dino:model'"
    )


def alignment(x: Tensor, label: Tensor, kind: str = "sl1") -> Tensor:
    """Return the difference of projected tokens x and features, both [n, tokens, channels], per sample [n].

    kind: "sl1" (smooth L1, beta 1), "l2" (squared error) or "cos" (negative mean cosine of the tokens).
    """
    x, label = x.float(), label.float()
    if kind == "sl1":
        return F.smooth_l1_loss(x, label, reduction="none").mean((1, 2))
    if kind == "l2":
        return (x - label).square().mean((1, 2))
    if kind == "cos":
        return -F.cosine_similarity(x, label, dim=-1).mean(1)
    raise RepaError(f"unknown alignment loss {kind!r}: use one of {', '.join(LOSSES)}")


def make_projector(width: int, channels: int, hidden: int = HIDDEN) -> nn.Sequential:
    """Return the published projector of model tokens to DINO features: three layers, SiLU, PyTorch's own
    start."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, channels)
    )


class Repa(nn.Module):
    """The trainable part: one projector per link, named {stream}.{dino layer}.{model layer} as published."""

    def __init__(
        self,
        links: Sequence[AlignedLayer],
        width: int,
        channels: int,
        kind: str = "sl1",
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__()
        if not links or kind not in LOSSES:
            raise RepaError(f"REPA needs at least one link and a loss of {', '.join(LOSSES)}, got {kind!r}")
        self.links, self.kind = list(links), kind
        for stream in STREAMS:
            tree: dict[str, dict[str, nn.Module]] = {}
            for link in links:
                if link.stream == stream:
                    projector = make_projector(width, channels, hidden)
                    tree.setdefault(str(link.dino), {})[str(link.layer)] = projector
            if tree:
                self.add_module(stream, nn.ModuleDict({k: nn.ModuleDict(v) for k, v in tree.items()}))

    def forward(
        self, tokens: Mapping[tuple[Stream, int], Tensor], features: Mapping[tuple[Stream, int], Tensor]
    ) -> Tensor:
        """Return the loss, a scalar: the mean over all samples of all links.

        tokens: (stream, model layer) -> [n, T, width], see TokenTap; features: (stream, dino layer) -> [n,
        T, channels].
        """
        losses = []
        for link in self.links:
            projector = self.get_submodule(f"{link.stream}.{link.dino}.{link.layer}")
            x, label = projector(tokens[link.stream, link.layer]), features[link.stream, link.dino]
            if x.shape != label.shape:
                raise RepaError(f"tokens {list(x.shape)} and features {list(label.shape)} differ in shape")
            losses.append(alignment(x, label, self.kind))
        return torch.cat(losses).mean()


class TokenTap:
    """Collects tokens of a model's layers while it runs; `take` hands them over. `close` ends it.

    Input tokens are those after encoder block j [b * V, P, d], target tokens those after decoder block j [b
    * M, P, d].
    """

    def __init__(self, model: EfficientLVSM, links: Sequence[AlignedLayer]) -> None:
        self._tokens: dict[tuple[Stream, int], Tensor] = {}
        blocks = {"input": model.input_self_attn_blocks, "target": model.self_cross_blocks}
        self._hooks = []
        for key in sorted({(link.stream, link.layer) for link in links}):
            block = blocks[key[0]][key[1] - 1]
            self._hooks.append(block.register_forward_hook(self._keep(key)))

    def _keep(self, key: tuple[Stream, int]) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._tokens[key] = output.flatten(0, -3)

        return hook

    def take(self) -> dict[tuple[Stream, int], Tensor]:
        """Return the tokens of the last run and forget them."""
        tokens, self._tokens = self._tokens, {}
        return tokens

    def close(self) -> None:
        """Stop listening."""
        for hook in self._hooks:
            hook.remove()


@dataclasses.dataclass(frozen=True)
class DinoSpec:
    """A DINO network of `timm`: its name there, the shorter side of its input in pixels, and where its
    weights are.

    options: further arguments of timm.create_model.
    """

    architecture: str
    side: int
    source: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


DINO = {
    "dinov2": DinoSpec(
        "vit_base_patch14_dinov2",
        336,
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        {"img_size": 336, "dynamic_img_size": True},
    ),
    "dinov3": DinoSpec(
        "vit_base_patch16_dinov3",
        512,
        "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads (dinov3_vitb16_pretrain_lvd1689m), "
        "or timm/vit_base_patch16_dinov3.lvd1689m on the Hugging Face hub",
    ),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoEncoder(nn.Module):
    """A frozen vision transformer of `timm` that gives features of chosen blocks on the model's token
    grid."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network.requires_grad_(False).eval(), side
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @property
    def channels(self) -> int:
        """Width of the network's features."""
        return int(cast(Any, self.network).embed_dim)

    @property
    def layers(self) -> int:
        """Number of its blocks."""
        return len(cast(Any, self.network).blocks)

    def train(self, mode: bool = True) -> DinoEncoder:
        """Stay in evaluation mode, whatever the training loop switches."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, layers: Sequence[int], grid: tuple[int, int]) -> dict[int, Tensor]:
        """Return what blocks `layers` (from 1) give, before any final norm, as tokens on a grid (rows,
        columns).

        images [n, 3, H, W] in [0, 1]: normalised as ImageNet's, resized (bicubic) so that the shorter side
        is as published and both are whole patches. Each result is [n, rows * columns, channels], resized
        (bicubic) from the network's own grid where that is another. The published code fixes both grids for
        squares of 256 pixels.
        """
        network = cast(Any, self.network)
        patch = network.patch_embed.patch_size[0]
        height, width = images.shape[-2:]
        scale = self.side / min(height, width) / patch
        rows, columns = (max(1, math.floor(length * scale + 0.5)) for length in (height, width))
        pixels = (images.float() - self.get_buffer("mean")) / self.get_buffer("std")
        pixels = F.interpolate(pixels, (rows * patch, columns * patch), mode="bicubic", align_corners=False)
        order = sorted(set(layers))
        outputs = network.forward_intermediates(
            pixels,
            indices=[layer - 1 for layer in order],
            norm=False,
            output_fmt="NLC",
            intermediates_only=True,
        )
        features = {}
        for layer, tokens in zip(order, outputs, strict=True):
            if (rows, columns) != grid:
                maps = tokens.transpose(1, 2).unflatten(2, (rows, columns)).float()
                maps = F.interpolate(maps, grid, mode="bicubic", align_corners=False)
                tokens = maps.flatten(2).transpose(1, 2)
            features[layer] = tokens
        return features


def load_dino(name: str | DinoSpec, path: str | os.PathLike[str] | None) -> DinoEncoder:
    """Build a DINO network and load its weights from a file, never from the network.

    name: "dinov2" (ViT-B/14) or "dinov3" (ViT-B/16). path: the authors' .pth, or timm's .safetensors.
    Raises RepaError where timm or the file is missing, saying where to get it, and for a file of another
    network.
    """
    if isinstance(name, str) and name not in DINO:
        raise RepaError(f"unknown network {name!r}: use {' or '.join(map(repr, DINO))}")
    spec = name if isinstance(name, DinoSpec) else DINO[name]
    if path is None or not Path(path).expanduser().is_file():
        given = "no file was given" if path is None else f"there is no file {path}"
        raise RepaError(
            f"REPA needs the weights of {spec.architecture}, but {given}. Get them from {spec.source}"
        )
    try:
        import_torchvision()
        import timm
    except ImportError as error:
        raise RepaError(f"REPA needs the package timm ({error}): pip install 'elvsm[train]'") from error
    file = {"file": str(Path(path).expanduser()), "source": "timm", "url": None, "hf_hub_id": None}
    try:
        network = timm.create_model(
            spec.architecture, pretrained=True, pretrained_cfg_overlay=file, num_classes=0, **spec.options
        )
    except Exception as error:  # timm, torch and safetensors each fail in their own ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RepaError(
            f"{path} cannot be loaded as {spec.architecture} ({reason}); get it from {spec.source}"
        ) from error
    return DinoEncoder(network, spec.side)
