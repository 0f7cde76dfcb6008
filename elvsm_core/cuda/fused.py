"""The network of `model.py` again, arranged for latency: the same operations on the same weights, fewer launches.

The encoder's layer norm is shared by the next block and the decoder's keys and values, whose projections are
one matrix product; residuals are added by the product that makes them; keys and values go straight into their
slot. Nothing here allocates more than workspace or looks at data, so both halves can be CUDA graphs.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..model import CrossAttention, DecoderBlock, EfficientLVSM, EncoderBlock, SelfAttention
from . import ops
from .ops import layer_norm

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What differs between devices, not between results.

    Keys are split in parts where there are few queries, so that a large device is busy.

    parts: how many, for the attention of `kernels_attention.py`, by the most query tokens, fewest first.
    library_parts: the same for PyTorch's (cuDNN's), which is used where the other one does not apply.
    bounded: use the attention of `kernels_attention.py` at all.
    late_norm: up to so many tokens (of all targets, of one view), layer norm before queries, keys and values is
    a scale after their product.
    """

    parts: tuple[tuple[int, int], ...] = ()
    library_parts: tuple[tuple[int, int], ...] = ()
    bounded: bool = True
    late_norm: int = 2048

    @classmethod
    def for_device(cls, device: torch.device) -> Tuning:
        """Return what was measured to be fast (docs/notebook/gpu.md); the default for unknown devices."""
        if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9:
            return cls(((1024, 4), (3072, 2)), ((1024, 4), (2048, 2)))
        return cls(bounded=False)

    def cross_attention(self, queries: int, views: int, bounded: bool) -> int:
        """Return in how many parts to attend to views. bounded: by the kernel for bounded scores."""
        table = self.parts if bounded else self.library_parts
        parts = next((n for most, n in table if queries <= most), 1)
        while views % parts:
            parts -= 1
        return parts


class FusedModel:
    """Encode into a cache's storage and decode from it. Weights are those of `model` at construction.

    model: in eval mode. tuning: None: the device's.
    """

    def __init__(self, model: EfficientLVSM, tuning: Tuning | None = None) -> None:
        self.config: ModelConfig = model.config
        self.device, self.dtype = model.device, model.dtype
        self.tuning = tuning or Tuning.for_device(model.device)
        self._model = model
        self._encoder = [cast(EncoderBlock, b) for b in model.input_self_attn_blocks]
        self._decoder = [cast(DecoderBlock, b) for b in model.self_cross_blocks]
        cross = [b.cross_attn for b in self._decoder]
        # After encoder block l: its keys and values, and what block l + 1 attends with.
        self._joint = [
            ops.centred(torch.cat([following.attn.to_qkv.weight, own.to_kv.weight]))
            for following, own in zip(self._encoder[1:], cross, strict=False)
        ] + [ops.centred(cross[-1].to_kv.weight)]
        self._joint_gains = [
            torch.cat([self._self_gains(following.attn), self._kv_gains(own)])
            for following, own in zip(self._encoder[1:], cross, strict=False)
        ] + [self._kv_gains(cross[-1])]
        attentions = [b.attn for b in self._encoder] + [b.self_attn for b in self._decoder] + cross
        self._bounded = {
            a: self.tuning.bounded
            and ops.has_bounded_attention(self._rows(a.q_norm.weight))
            and ops.scores_are_bounded(a.q_norm.weight, a.k_norm.weight)
            for a in attentions
        }
        log.info(
            "%d of %d attention layers use the faster kernel, for bounded scores; keys in parts: %s; PyTorch's: %s",
            sum(self._bounded.values()), len(self._bounded), self.tuning.parts, self.tuning.library_parts,
        )  # fmt: skip
        self._first = ops.centred(self._encoder[0].attn.to_qkv.weight)
        self._first_gains = self._self_gains(self._encoder[0].attn)
        self._own = [ops.centred(b.self_attn.to_qkv.weight) for b in self._decoder]
        self._queries = [ops.centred(b.cross_attn.to_q.weight) for b in self._decoder]
        self._up = {
            mlp: ops.centred(cast(Tensor, mlp.mlp[0].weight))
            for mlp in (*(b.mlp for b in self._encoder), *(b.mlp for b in self._decoder))
        }
        self._decoder_gains = [self._self_gains(b.self_attn) for b in self._decoder]
        self._cross_gains = [self._rows(b.cross_attn.q_norm.weight) for b in self._decoder]

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.dtype).expand(self.config.heads, -1).contiguous()

    def _self_gains(self, attn: SelfAttention) -> Tensor:
        q, k = self._rows(attn.q_norm.weight), self._rows(attn.k_norm.weight)
        return torch.cat([q, k, torch.ones_like(k)])

    def _kv_gains(self, attn: CrossAttention) -> Tensor:
        k = self._rows(attn.k_norm.weight)
        return torch.cat([k, torch.ones_like(k)])

    def encode(self, images: Tensor, cameras: Tensor, store: Tensor, slots: Tensor) -> None:
        """Encode n views, each by itself, into their slots.

        images uint8 [n, H, W, 3]; cameras [n, 16] float32 (see `ops`); store [layers, 2, slots, tokens, heads,
        D]; slots [n] int32. All on the model's device.
        """
        count, size = images.shape[0], (images.shape[1], images.shape[2])
        embed = cast(Tensor, self._model.rgbp_tokenizer[1].weight)
        s = F.linear(ops.image_tokens(images, cameras, size, self.config.patch_size, embed), embed)
        # Of one view, so that it gives the same numbers whatever is encoded with it.
        late = s.shape[0] // count <= self.tuning.late_norm
        y = self._heads(s, late, self._first, self._first_gains, self._encoder[0].attn)
        for layer, block in enumerate(self._encoder):
            self._attend_self(s, y, count, block.attn)
            self._mlp(s, block)
            following = None if layer == self.config.layers - 1 else self._encoder[layer + 1].attn
            weights, gains = self._joint[layer], self._joint_gains[layer]
            y = self._heads(s, late, weights, gains, following, store[layer], slots)

    def decode(
        self, cameras: Tensor, size: tuple[int, int], store: Tensor, slots: Tensor, direct: bool
    ) -> Tensor:
        """Return what the head gives for M targets, [M·P, 3·patch²] in the model's dtype.

        cameras [M, 16]; size (H, W), whole patches; slots [V] int32: where the views lie. direct: in slots 0
        to V - 1, in order.
        """
        count, heads, config = cameras.shape[0], self.config.heads, self.config
        embed = cast(Tensor, self._model.target_pose_tokenizer[1].weight)
        t = F.linear(ops.image_tokens(None, cameras, size, config.patch_size, embed), embed)
        late = t.shape[0] <= self.tuning.late_norm
        for layer, block in enumerate(self._decoder):
            y = self._heads(t, late, self._own[layer], self._decoder_gains[layer], block.self_attn)
            self._attend_self(t, y, count, block.self_attn)
            q = self._heads(t, True, self._queries[layer], self._cross_gains[layer], block.cross_attn)
            q = q.unflatten(1, (heads, -1)).unsqueeze(0)
            bounded = self._bounded[block.cross_attn]
            parts = self.tuning.cross_attention(q.shape[1], len(slots), bounded)
            seen = ops.attend_views(q, store[layer], slots, direct, parts, bounded)
            t.addmm_(seen.view(t.shape), block.cross_attn.fc.weight.t())
            self._mlp(t, block)
        return F.linear(layer_norm(t), self._model._head.weight)

    def _heads(
        self,
        x: Tensor,
        late: bool,
        weight: Tensor,
        gains: Tensor,
        attn: SelfAttention | CrossAttention | None,
        layer: Tensor | None = None,
        slots: Tensor | None = None,
    ) -> Tensor:
        """Return the heads that centred weights make of layer-normalised x, ready for `ops.attend`.

        late: scale them instead of normalising x. attn: what attends with the first ones: queries, keys and
        values, or queries alone where keys are views'. layer, slots: where the others go, see `ops.norm_heads_`.
        """
        y = F.linear(x if late else layer_norm(x), weight)
        heads = self.config.heads
        queries = heads if attn is not None else 0
        normed, own = (2 * queries, 3 * queries) if isinstance(attn, SelfAttention) else (queries, queries)
        scaled = queries if attn is not None and self._bounded[attn] else 0
        ops.norm_heads_(y, gains, normed, own, layer, slots, x if late else None, scaled)
        return y

    def _attend_self(self, s: Tensor, y: Tensor, count: int, attn: SelfAttention) -> None:
        """Add to s [count·P, d] what its tokens see in each other; y [count·P, ≥3d]: queries, keys, values."""
        width = self.config.width
        q, k, v = (
            y[:, : 3 * width].unflatten(1, (3, self.config.heads, -1)).unflatten(0, (count, -1)).unbind(2)
        )
        s.addmm_(ops.attend(q, k, v, 1, self._bounded[attn]).view(s.shape), attn.fc.weight.t())

    def _mlp(self, s: Tensor, block: EncoderBlock | DecoderBlock) -> None:
        hidden = ops.linear_gelu(s, self._up[block.mlp])
        s.addmm_(hidden, cast(Tensor, block.mlp.mlp[2].weight).t())
