"""Efficient-LVSM: an encoder that looks at one view at a time, a decoder that attends to its keys and values.

The encoder's activations of a view depend on that view alone. What the decoder reads from a view is one pair
of keys and values per layer, so views can be encoded once, kept, and combined freely (see `ViewCache`).
Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from .attention import attention
from .config import ModelConfig
from .rays import compute_rays
from .state_dicts import load_into

KeysValues = list[tuple[Tensor, Tensor]]
"""Per decoder layer: keys and values, each [n, tokens, heads, head_dim]; the keys are normalised already."""


class Decoded(NamedTuple):
    """Rendered targets with their geometry.

    images [b, M, 3, H, W] in [0, 1]; log_depth [b, M, H, W]: logarithm of the depth along the target's z axis in model
    units; seen_logit [b, M, H, W]: log odds that an input saw what the pixel shows. All float32.
    """

    images: Tensor
    log_depth: Tensor
    seen_logit: Tensor

    @property
    def depth(self) -> Tensor:
        """Depth along the target's z axis, model units, [b, M, H, W]."""
        return self.log_depth.exp()

    @property
    def confidence(self) -> Tensor:
        """Probability that an input saw what the pixel shows, [b, M, H, W]."""
        return self.seen_logit.sigmoid()


def layer_norm(x: Tensor) -> Tensor:
    """Normalise over the last axis, without learned parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-5)


class RMSNorm(nn.Module):
    """Normalise over the last axis in float32 and scale by a learned vector in the input's dtype."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        y = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-5)
        return y.to(x.dtype) * self.weight.to(x.dtype)


class SelfAttention(nn.Module):
    """Attention of the tokens [n, tokens, d] of each of n views among themselves."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.head_dim = cfg.head_dim
        self.to_qkv = nn.Linear(cfg.width, 3 * cfg.width, bias=False)
        self.fc = nn.Linear(cfg.width, cfg.width, bias=False)
        self.q_norm = RMSNorm(cfg.head_dim)
        self.k_norm = RMSNorm(cfg.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, -1, self.head_dim)).unbind(-3)
        return self.fc(attention(self.q_norm(q), self.k_norm(k), v).flatten(-2))


class CrossAttention(nn.Module):
    """Attention of target tokens [b, tokens, d] to the keys and values of input views."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.head_dim = cfg.head_dim
        self.to_q = nn.Linear(cfg.width, cfg.width, bias=False)
        self.to_kv = nn.Linear(cfg.width, 2 * cfg.width, bias=False)
        self.fc = nn.Linear(cfg.width, cfg.width, bias=False)
        self.q_norm = RMSNorm(cfg.head_dim)
        self.k_norm = RMSNorm(cfg.head_dim)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Map encoder tokens [n, tokens, d] to keys and values [n, tokens, heads, head_dim]."""
        k, v = self.to_kv(layer_norm(source)).unflatten(-1, (2, -1, self.head_dim)).unbind(-3)
        return self.k_norm(k), v

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = self.to_q(x).unflatten(-1, (-1, self.head_dim))
        return self.fc(attention(self.q_norm(q), k.to(q.dtype), v.to(q.dtype)).flatten(-2))


class MLP(nn.Module):
    """Two linear maps with a GELU between them, for each token by itself: [..., d] to [..., d]."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        hidden = cfg.mlp_ratio * cfg.width
        self.mlp = nn.Sequential(
            nn.Linear(cfg.width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, cfg.width, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class EncoderBlock(nn.Module):
    """One step of the input encoder: tokens [n, P, d] of n views, none of which sees another."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.attn = SelfAttention(cfg)
        self.mlp = MLP(cfg)

    def forward(self, s: Tensor) -> Tensor:
        s = s + self.attn(layer_norm(s))
        return s + self.mlp(layer_norm(s))


class DecoderBlock(nn.Module):
    """One step of the target decoder: self-attention within each target, then attention to the input views."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(cfg)
        self.cross_attn = CrossAttention(cfg)
        self.mlp = MLP(cfg)

    def forward(self, t: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Refine target tokens t [b, M, P, d] with keys and values [b, n, heads, head_dim] of b scenes."""
        b, m = t.shape[:2]
        t = t.flatten(0, 1)
        t = t + self.self_attn(layer_norm(t))
        t = t.unflatten(0, (b, m)).flatten(1, 2)
        t = t + self.cross_attn(layer_norm(t), k, v)
        t = t + self.mlp(layer_norm(t))
        return t.unflatten(1, (m, -1))


class EfficientLVSM(nn.Module):
    """Render views of a static scene from posed images of it (Efficient-LVSM, arXiv 2602.06478).

    `forward` is `decode(encode_views(...))`, and nothing else: what a robot does view by view gives the same
    image as what the evaluation does at once.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        p, d = config.patch_size, config.width
        to_tokens = "n c (h ph) (w pw) -> n (h w) (ph pw c)"
        self.rgbp_tokenizer = nn.Sequential(
            Rearrange(to_tokens, ph=p, pw=p), nn.Linear(9 * p * p, d, bias=False)
        )
        self.target_pose_tokenizer = nn.Sequential(
            Rearrange(to_tokens, ph=p, pw=p), nn.Linear(6 * p * p, d, bias=False)
        )
        self.input_self_attn_blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.self_cross_blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.image_token_decoder = nn.Sequential(
            nn.LayerNorm(d, elementwise_affine=False), nn.Linear(d, 3 * p * p, bias=False)
        )
        if config.geometry_heads:
            self.depth_head = nn.Sequential(nn.LayerNorm(d, elementwise_affine=False), nn.Linear(d, p * p))
            self.confidence_head = nn.Sequential(
                nn.LayerNorm(d, elementwise_affine=False), nn.Linear(d, p * p)
            )
        self._initialise()

    def _initialise(self) -> None:
        """Initialise as the published training does; the encoder blocks stay at PyTorch's own."""
        for sequence in (self.rgbp_tokenizer, self.target_pose_tokenizer, self.image_token_decoder):
            nn.init.normal_(cast(nn.Linear, sequence[1]).weight, std=0.02)
        if self.config.geometry_heads:
            for sequence in (self.depth_head, self.confidence_head):
                for (
                    parameter
                ) in sequence.parameters():  # depth 1 and even odds, wherever training starts from
                    nn.init.zeros_(parameter)
        for depth, block in enumerate(self.self_cross_blocks, start=1):
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * depth))

    @property
    def _head(self) -> nn.Linear:
        return cast(nn.Linear, self.image_token_decoder[1])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights, and of the keys and values that they give."""
        return self._head.weight.dtype

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError unless size (height, width) is made of whole patches."""
        p = self.config.patch_size
        if min(size) < p or size[0] % p or size[1] % p:
            raise ValueError(
                f"image size {size[0]}x{size[1]} (height x width) is not a multiple of the model's patch "
                f"size {p}: resize or crop to whole patches first"
            )

    def _plucker(self, c2w: Tensor, fxfycxcy: Tensor, size: tuple[int, int]) -> Tensor:
        """Return moments and directions [n, 6, H, W], float32."""
        origins, directions = compute_rays(c2w, fxfycxcy, size, bf16=self.config.bf16_rays)
        return torch.cat([torch.linalg.cross(origins, directions, dim=1), directions], dim=1)

    def encode_views(self, images: Tensor, c2w: Tensor, fxfycxcy: Tensor) -> KeysValues:
        """Encode n views, each by itself, into what the decoder reads of them.

        images [n, 3, H, W] in [0, 1]; c2w [n, 4, 4] OpenCV camera-to-model; fxfycxcy [n, 4] pixels.
        Returns one (keys, values) pair per layer, each [n, P, heads, head_dim] in the model's dtype. Raises
        ValueError for images that are not made of whole patches.
        """
        size = (images.shape[-2], images.shape[-1])
        self.check_size(size)
        plucker = self._plucker(c2w, fxfycxcy, size)
        s = self.rgbp_tokenizer(torch.cat([images.float() * 2 - 1, plucker], dim=1).to(self.dtype))
        keys_values = []
        for encoder, decoder in zip(self.input_self_attn_blocks, self.self_cross_blocks, strict=True):
            s = encoder(s)
            keys_values.append(cast(DecoderBlock, decoder).cross_attn.keys_values(s))
        return keys_values

    def decode(
        self,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        target_c2w: Tensor,
        target_fxfycxcy: Tensor,
        target_size: tuple[int, int],
    ) -> Tensor:
        """Render M targets of b scenes; no target influences another.

        keys_values: per layer keys and values [b, n, heads, head_dim], n tokens of any number of views in any
        order; target_c2w [b, M, 4, 4]; target_fxfycxcy [b, M, 4] pixels of target_size = (H, W).
        Returns [b, M, 3, H, W] in [0, 1], float32. Raises ValueError for another number of layers than the
        model's, and a size that is not made of whole patches.
        """
        return self._image(
            self._decode_tokens(keys_values, target_c2w, target_fxfycxcy, target_size), target_size
        )

    def decode_geometry(
        self,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        target_c2w: Tensor,
        target_fxfycxcy: Tensor,
        target_size: tuple[int, int],
    ) -> Decoded:
        """Render as `decode` does, and return the depth and the confidence of every pixel as well.

        Raises ValueError as `decode` does, and for a model without geometry heads.
        """
        if not self.config.geometry_heads:
            raise ValueError(
                "this model has no geometry heads: train one with model.geometry_heads=true, or use another checkpoint"
            )
        t = self._decode_tokens(keys_values, target_c2w, target_fxfycxcy, target_size)
        p, rows = self.config.patch_size, target_size[0] // self.config.patch_size
        log_depth, seen_logit = (
            rearrange(head(t).float(), "b m (h w) (ph pw) -> b m (h ph) (w pw)", h=rows, ph=p, pw=p)
            for head in (self.depth_head, self.confidence_head)
        )
        return Decoded(self._image(t, target_size), log_depth, seen_logit)

    def _decode_tokens(
        self,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        target_c2w: Tensor,
        target_fxfycxcy: Tensor,
        target_size: tuple[int, int],
    ) -> Tensor:
        """Return the last tokens of M targets of b scenes, [b, M, P, d]."""
        if len(keys_values) != self.config.layers:
            raise ValueError(
                f"expected keys and values of {self.config.layers} layers, got {len(keys_values)}"
            )
        self.check_size(target_size)
        b, m = target_c2w.shape[:2]
        plucker = self._plucker(target_c2w.flatten(0, 1), target_fxfycxcy.flatten(0, 1), target_size)
        t = self.target_pose_tokenizer(plucker.to(self.dtype)).unflatten(0, (b, m))
        for block, (k, v) in zip(self.self_cross_blocks, keys_values, strict=True):
            t = block(t, k, v)
        return cast(Tensor, t)

    def _image(self, t: Tensor, size: tuple[int, int]) -> Tensor:
        """Map the last tokens [b, M, P, d] of targets of size (H, W) to images [b, M, 3, H, W] in [0, 1]."""
        pixels = torch.sigmoid(self.image_token_decoder(t).float())
        p = self.config.patch_size
        return rearrange(pixels, "b m (h w) (ph pw c) -> b m c (h ph) (w pw)", h=size[0] // p, ph=p, pw=p)

    def forward(
        self,
        images: Tensor,
        c2w: Tensor,
        fxfycxcy: Tensor,
        target_c2w: Tensor,
        target_fxfycxcy: Tensor,
        target_size: tuple[int, int],
    ) -> Tensor:
        """Render M targets of b scenes from V input views each.

        images [b, V, 3, H, W] in [0, 1]; c2w [b, V, 4, 4] OpenCV in model coordinates; fxfycxcy [b, V, 4]
        pixels; target_c2w [b, M, 4, 4]; target_fxfycxcy [b, M, 4]; target_size (H, W), both multiples of the
        patch size and free to differ from the inputs' size. Returns [b, M, 3, H, W] in [0, 1], float32. Raises
        ValueError for sizes that are not made of whole patches.
        """
        return self.decode(
            self.encode_scenes(images, c2w, fxfycxcy), target_c2w, target_fxfycxcy, target_size
        )

    def encode_scenes(self, images: Tensor, c2w: Tensor, fxfycxcy: Tensor) -> KeysValues:
        """Encode V views of each of b scenes: images [b, V, 3, H, W] and so on, see `encode_views`.

        Returns one (keys, values) pair per layer for `decode`, each [b, V * P, heads, head_dim].
        """
        b = images.shape[0]
        encoded = self.encode_views(images.flatten(0, 1), c2w.flatten(0, 1), fxfycxcy.flatten(0, 1))
        return [
            (k.unflatten(0, (b, -1)).flatten(1, 2), v.unflatten(0, (b, -1)).flatten(1, 2)) for k, v in encoded
        ]

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load weights under their published names, strictly.

        Prefixes `module.` and `_orig_mod.` are stripped; tensors of the training losses are dropped.
        Raises CheckpointError naming the first missing, unexpected or misshaped tensor.
        """
        load_into(self, state_dict)
