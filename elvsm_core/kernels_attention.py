"""Attention for queries and keys that were normalised: their scores are bounded, so no maximum is kept.

|q·k|/sqrt(D) is at most sqrt(D) times the largest product of the two norms' gains. Where exp of that fits into
float32, softmax needs neither a running maximum nor the corrections that come with it, which is what makes this
faster than kernels that take any input. Sums over parts of the keys simply add up.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import functools

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

try:
    from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-not-found]
except ImportError:  # before Triton 3.4
    TensorDescriptor = None

LOG2E = 1.4426950408889634


@triton.jit
def _attend(
    q, k, v, out, lses, slots, queries, keys, count, parts,
    q_batch, q_row, k_batch, k_row, slot_rows, heads, scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PAGED: tl.constexpr, EVEN: tl.constexpr,
    SPLIT: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    h = tl.program_id(1)
    part, b = tl.program_id(2) % parts, tl.program_id(2) // parts
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    d, n = tl.arange(0, D), tl.arange(0, BN)
    inside = (row < queries)[:, None]
    q_at = q + b.to(tl.int64) * q_batch + row[:, None] * q_row + h * D + d[None, :]
    queries_bd = tl.load(q_at, mask=inside, other=0.0)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    for i in range(count):
        view = part * count + i
        if PAGED:
            view = tl.load(slots + view)
        first = b * k_batch + view * slot_rows
        base = first.to(tl.int64) * k_row + h * D
        for start in range(0, keys, BN):
            if TILES:
                p = tl.exp2(tl.dot(queries_bd, k.load([first + start, h * D]).T) * scale)
                values = v.load([first + start, h * D])
            else:
                k_at = k + base + (start + n)[None, :] * k_row + d[:, None]
                v_at = v + base + (start + n)[:, None] * k_row + d[None, :]
                if EVEN:
                    p = tl.exp2(tl.dot(queries_bd, tl.load(k_at)) * scale)
                    values = tl.load(v_at)
                else:
                    there = start + n < keys
                    scores = tl.dot(queries_bd, tl.load(k_at, mask=there[None, :], other=0.0)) * scale
                    p = tl.where(there[None, :], tl.exp2(scores), 0.0)
                    values = tl.load(v_at, mask=there[:, None], other=0.0)
            total += tl.sum(p, 1)
            acc = tl.dot(p.to(values.dtype), values, acc)
    row_of_all = tl.program_id(2).to(tl.int64) * queries + row if SPLIT else b.to(tl.int64) * queries + row
    at = out + (row_of_all[:, None] * heads + h) * D + d[None, :]
    tl.store(at, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)
    if SPLIT:
        tl.store(lses + (part * heads + h) * queries + row, tl.log(total), mask=row < queries)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@functools.cache
def has_tiles(device: torch.device) -> bool:
    """Tell whether the device fetches whole tiles by itself (TMA), with a Triton that can tell it to."""
    # A CPU: Triton's interpreter, which can do all.
    capable = device.type == "cpu" or torch.cuda.get_device_capability(device)[0] >= 9
    return capable and TensorDescriptor is not None


def attend(q: Tensor, k: Tensor, v: Tensor, slots: Tensor | None, parts: int) -> tuple[Tensor, Tensor]:
    """Return results over each part of the keys [b·parts, n, h, D], and logarithms of their sums [parts, h, n].

    q [b, n, h, D]; k, v of the same strides: [b, m, h, D], `parts` divides m, or with slots [slots, m, h, D],
    `parts` divides the number of slots named. b is 1 where parts are more than one.
    """
    b, n, h, d = q.shape
    out = torch.empty(b * parts, n, h, d, device=q.device, dtype=q.dtype)
    lses = torch.empty(parts, h, n, device=q.device, dtype=torch.float32)
    k_row = k.stride(1)
    if slots is None:
        keys, count, k_batch = k.shape[1] // parts, 1, k.stride(0) // k_row
        slot_rows, rows_of_all = keys, (b - 1) * k_batch + k.shape[1]
    else:
        keys, count, k_batch = k.shape[1], slots.shape[0] // parts, 0
        slot_rows = k.stride(0) // k_row
        rows_of_all = k.shape[0] * slot_rows
    # Two or three large blocks fit into a multiprocessor: fewer than two rounds of them leave many idle.
    rows, columns, tiles = 64, 64, False
    if triton.cdiv(n, 128) * h * b * parts >= 5 * _multiprocessors(q.device):
        rows = 128
    elif triton.cdiv(n, 64) * h * b * parts <= 2 * _multiprocessors(q.device):
        # All blocks run at once, also such as need more memory.
        tiles = d <= 64 and keys % 128 == 0 and has_tiles(q.device)
    if tiles:
        columns = 128
        k, v = (TensorDescriptor(x, [rows_of_all, h * d], [k_row, 1], [columns, d]) for x in (k, v))
    _attend[(triton.cdiv(n, rows), h, b * parts)](
        q, k, v, out, lses, q if slots is None else slots, n, keys, count, parts,
        q.stride(0), q.stride(1), k_batch, k_row, slot_rows, h, d**-0.5 * LOG2E,
        d, rows, columns, slots is not None, keys % columns == 0, parts > 1, tiles, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out, lses
