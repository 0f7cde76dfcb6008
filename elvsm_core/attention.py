"""The one place that calls an attention kernel."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)

_forced: tuple[SDPBackend, ...] = ()


@functools.cache
def _choose(device_type: str, device_index: int | None, half: bool) -> tuple[SDPBackend, ...]:
    if device_type != "cuda":
        order: tuple[SDPBackend, ...] = ()
    else:
        order = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
        if half and torch.cuda.get_device_capability(device_index) >= (9, 0):
            order = (SDPBackend.CUDNN_ATTENTION, *order)
    log.info("attention on %s: %s", device_type, ", ".join(b.name for b in order) or "PyTorch's default")
    return order


@torch.compiler.assume_constant_result
def backends(device_type: str, device_index: int | None, half: bool) -> tuple[SDPBackend, ...]:
    """Return the attention backends for a device, the preferred one first; log the choice once.

    On Hopper and later cuDNN's kernels are ahead of FlashAttention-2 at head size 64; everywhere else
    PyTorch's own order is kept. The list ends in a backend that takes any input; empty is PyTorch's default.
    """
    return _choose(device_type, device_index, half)


@contextlib.contextmanager
def forced_backend(name: str) -> Iterator[None]:
    """Use one backend, by its name in torch.nn.attention.SDPBackend, within the block, in all threads.

    For comparisons of backends; not for serving.
    """
    global _forced
    _forced = (SDPBackend.__members__[name],)
    try:
        yield
    finally:
        _forced = ()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend without mask or bias, scaled by 1/sqrt(head_dim).

    q [b, n, heads, head_dim]; k, v [b, m, heads, head_dim], any strides with a contiguous last axis, same
    dtype and device. Returns [b, n, heads, head_dim].
    """
    order = _forced or backends(q.device.type, q.device.index, q.dtype in (torch.bfloat16, torch.float16))
    kernels = sdpa_kernel(list(order), set_priority=True) if order else contextlib.nullcontext()
    with kernels:
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attend as `attention` does, and return the logarithms of the softmax's sums, too.

    Shapes as there; the second result is [b, heads, n] float32. Lets results over parts of the keys be merged.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    half = q.dtype in (torch.bfloat16, torch.float16)
    if q.is_cuda and half:
        order = _forced or backends(q.device.type, q.device.index, half)
        if order[0] == SDPBackend.CUDNN_ATTENTION:
            out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
        else:
            out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
        return out.transpose(1, 2), lse.reshape(q.shape[:3])
    scores = q.float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5
    out = scores.softmax(-1).to(v.dtype) @ v
    return out.transpose(1, 2), scores.logsumexp(-1)
