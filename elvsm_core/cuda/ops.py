"""The steps between matrix products and attention, each defined in PyTorch; on CUDA, Triton does the same at once.

A camera is 16 float32 numbers: the upper three rows of camera-to-model, then fx, fy, cx, cy in pixels.
"""

from __future__ import annotations

import functools
import logging
import math
from types import ModuleType

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..attention import attention, attention_with_lse
from ..images import to_uint8
from ..rays import compute_rays

log = logging.getLogger(__name__)


@functools.cache
def _triton() -> ModuleType | None:
    try:
        from . import kernels
    except Exception as error:  # Triton is there or not, and without it everything works, only slower
        log.warning("Triton kernels are not used, renders take longer: %s", error)
        return None
    return kernels


def kernels_for(x: Tensor) -> ModuleType | None:
    """Return the module `kernels` where it can work on x."""
    return _triton() if x.is_cuda else None


def power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def image_tokens(
    images: Tensor | None, cameras: Tensor, size: tuple[int, int], patch: int, like: Tensor
) -> Tensor:
    """Return one row per patch: colours in [-1, 1] if given, moments and directions of its rays.

    images uint8 [n, H, W, 3] or None; cameras [n, 16] float32; size (H, W). Returns [n·P, channels·patch²] in
    the dtype of `like`, channels last within a patch, as the tokenizers' weights expect them.
    """
    n, channels = cameras.shape[0], 6 if images is None else 9
    module = kernels_for(cameras)
    if module is not None and power_of_two(patch):
        rows = n * (size[0] // patch) * (size[1] // patch)
        out = torch.empty(rows, channels * patch**2, device=cameras.device, dtype=like.dtype)
        module.tokens(images, cameras, out, size[1], patch)
        return out
    c2w = F.pad(cameras[:, :12].unflatten(1, (3, 4)), (0, 0, 0, 1))
    origins, directions = compute_rays(c2w, cameras[:, 12:], size)
    parts = [torch.linalg.cross(origins, directions, dim=1), directions]
    if images is not None:
        parts.insert(0, images.permute(0, 3, 1, 2).float() / 255 * 2 - 1)
    planes = torch.cat(parts, dim=1).to(like.dtype)
    return rearrange(planes, "n c (h ph) (w pw) -> (n h w) (ph pw c)", ph=patch, pw=patch)


def centred(weight: Tensor) -> Tensor:
    """Return the weights [m, d] that give of x what `weight` gives of x less its mean.

    A layer norm before a linear layer is then a division by each row's standard deviation, which can wait until
    after the product: see `norm_heads_` and `linear_gelu`. Rounding lets a little of the mean through, which is
    far below rounding itself: nothing in the model tells tokens' means, and they stay small (0.06 of the
    standard deviation at most, in the bundled one).
    """
    wide = weight.detach().double()
    return (wide - wide.mean(1, keepdim=True)).to(weight.dtype)


def _scales(x: Tensor) -> Tensor:
    """Return what layer norm multiplies rows [rows, d] less their mean with: [rows, 1] float32."""
    return torch.rsqrt(x.float().var(1, correction=0, keepdim=True) + 1e-5)


def query_scale(head_dim: int) -> float:
    """Return what queries are multiplied by for softmax to be powers of two of their products with keys."""
    return head_dim**-0.5 / math.log(2)


def norm_heads_(
    y: Tensor,
    gains: Tensor,
    normed: int,
    own: int,
    layer: Tensor | None = None,
    slots: Tensor | None = None,
    x: Tensor | None = None,
    scaled: int = 0,
) -> None:
    """Normalise heads by their root mean square, in place, and write views' keys and values into their slots.

    y [rows, heads·D], gains [heads, D] in y's dtype. The first `normed` of the first `own` heads are
    normalised in place. The others, if any, are keys and values of n views, tokens rows each: layer [2, slots,
    tokens, h, D] gets the normalised keys and the values at `slots`, int32 [n]. With x [rows, d], y is x times
    `centred` weights, and layer norm of x is made up for: all rows are scaled first. The first `scaled` of the
    normalised heads are multiplied by `query_scale` along with their gains, before they are rounded.
    """
    scale = query_scale(gains.shape[1])
    module = kernels_for(y)
    if module is not None and power_of_two(gains.shape[1]):
        module.heads(y, gains, normed, own, layer, slots, x, scaled, scale)
        return
    y = y.unflatten(1, gains.shape)
    head_values = y.float()
    if x is not None:
        head_values = head_values * _scales(x).unsqueeze(-1)
        y[:, normed:own] = head_values[:, normed:own]
    factors = torch.cat([gains[:scaled].float() * scale, gains[scaled:].float()])
    y[:, :normed] = _rms(head_values[:, :normed], factors[:normed], y.dtype)
    if layer is not None and slots is not None:
        k, v = head_values[:, own:].chunk(2, dim=1)
        k = _rms(k, factors[own : own + k.shape[1]], y.dtype)
        both = torch.stack([k, v.to(k.dtype)])
        layer.index_copy_(1, slots.long(), both.unflatten(1, (len(slots), -1)))


def _rms(x: Tensor, gain: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalise x, float32 as its gain, over the last axis; rounded before and after the gain, as in `model`."""
    return ((x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)).to(dtype) * gain).to(dtype)


def layer_norm(x: Tensor) -> Tensor:
    """Normalise rows [rows, d]; neither scale nor offset is learned."""
    module = kernels_for(x)
    return F.layer_norm(x, x.shape[-1:], eps=1e-5) if module is None else module.layer_norm(x)


def gather_slots(layer: Tensor, slots: Tensor) -> Tensor:
    """Copy slots (int32 [V]) of a layer [2, slots, tokens, h, D] side by side: [2, V, tokens, h, D]."""
    module = kernels_for(layer)
    if module is None:
        return torch.index_select(layer, 1, slots)
    copy = torch.empty(2, len(slots), *layer.shape[2:], device=layer.device, dtype=layer.dtype)
    module.gather(layer, slots, copy)
    return copy


def linear_gelu(x: Tensor, weight: Tensor) -> Tensor:
    """Return gelu(layer_norm(x) @ W.T), exact (erf), of x [rows, d] and `centred` weights of W [m, d]."""
    y = F.linear(x, weight)
    module = kernels_for(x) if x.dtype in (torch.bfloat16, torch.float16) else None
    if module is not None:
        return module.gelu_(x, y)
    return F.gelu(y.float() * _scales(x)).to(y.dtype)


def scores_are_bounded(q_gain: Tensor, k_gain: Tensor) -> bool:
    """Tell whether exp of all scores of normalised queries and keys, and their sums, fit into float32."""
    bound = float((q_gain.float() * k_gain.float()).abs().max()) * q_gain.shape[-1] ** 0.5
    return bound / math.log(2) <= 100


def has_bounded_attention(q: Tensor) -> bool:
    """Tell whether there is a kernel of bounded scores for queries [..., D] of this kind, to be used on request."""
    # Not float16, whose range the weights of a softmax without a maximum leave.
    return q.dtype == torch.bfloat16 and q.shape[-1] in (32, 64, 128) and kernels_for(q) is not None


def attend(q: Tensor, k: Tensor, v: Tensor, parts: int, bounded: bool) -> Tensor:
    """Attend as `attention` does, with the keys in equal parts whose results are merged.

    q [b, n, h, D]; k, v [b, m, h, D]; with several parts b is 1, and they divide m: they keep a large device
    busy where there are few queries. bounded: `scores_are_bounded`, `has_bounded_attention`, and the queries were
    multiplied by `query_scale`. Returns [b, n, h, D], contiguous.
    """
    if bounded:
        return _merged(*_attention_kernels().attend(q, k, v, None, parts))
    if parts == 1 or (q.is_cuda and q.dtype == torch.float32):
        return attention(q, k, v).contiguous()
    k, v = (x.unflatten(1, (parts, -1)).squeeze(0) for x in (k, v))
    outs, lses = attention_with_lse(q.expand(parts, -1, -1, -1), k, v)
    return _merged(outs.contiguous(), lses.contiguous())


def attend_views(q: Tensor, layer: Tensor, slots: Tensor, direct: bool, parts: int, bounded: bool) -> Tensor:
    """Attend to the views in slots (int32 [V]) of a layer [2, slots, tokens, h, D]; `parts` divides V.

    q [1, n, h, D]. direct: these are the first V slots, in order. bounded: see `attend`. Returns [1, n, h, D].
    """
    if not direct and bounded:
        return _merged(*_attention_kernels().attend(q, layer[0], layer[1], slots, parts))
    views = layer[:, : len(slots)] if direct else gather_slots(layer, slots)
    k, v = (x.flatten(0, 1).unsqueeze(0) for x in views)
    return attend(q, k, v, parts, bounded)


def _attention_kernels() -> ModuleType:
    from . import kernels_attention

    return kernels_attention


def _merged(outs: Tensor, lses: Tensor) -> Tensor:
    """Merge attention over parts of the keys, outs [parts, n, h, D] and lses [parts, h, n]: [1, n, h, D]."""
    if lses.shape[0] == 1:
        return outs
    module = kernels_for(outs)
    if module is not None and power_of_two(outs.shape[-1]):
        merged = torch.empty_like(outs[0])
        module.merge(outs, lses, merged)
    else:
        weights = torch.softmax(lses.float(), dim=0).transpose(1, 2).unsqueeze(-1)
        merged = (outs.float() * weights).sum(0).to(outs.dtype)
    return merged.unsqueeze(0)


def paint(logits: Tensor, count: int, padded: tuple[int, int], size: tuple[int, int], patch: int) -> Tensor:
    """Turn the head's output [count·P, 3·patch²] for padded (H, W) into uint8 images [count, h, w, 3]."""
    module = kernels_for(logits)
    if module is not None:
        out = torch.empty(count, *size, 3, device=logits.device, dtype=torch.uint8)
        module.paint(logits, out, padded[1] // patch, patch)
        return out
    image = to_uint8(pixels(logits, count, padded, patch))[:, :, : size[0], : size[1]]
    return image.permute(0, 2, 3, 1).contiguous()


def pixels(logits: Tensor, count: int, padded: tuple[int, int], patch: int) -> Tensor:
    """Return the head's output as float32 images [count, 3, H, W] in [0, 1]."""
    return rearrange(
        torch.sigmoid(logits.float()), "(n h w) (ph pw c) -> n c (h ph) (w pw)",
        n=count, h=padded[0] // patch, ph=patch, pw=patch,
    )  # fmt: skip
