"""Attention for queries and keys that were normalised: their scores are bounded, so no maximum is kept.

|q·k|/sqrt(D) is at most sqrt(D) times the largest product of the two norms' gains. Where exp of that fits into
float32, softmax needs neither a running maximum nor the corrections that come with it, which is what makes this
faster than kernels that take any input. Sums over parts of the keys simply add up.

What is left is bound by how many instructions there are for each score. Queries therefore come multiplied by
`ops.query_scale`, which leaves one power of two, and one loop goes over the keys of all views.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import functools

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor


@triton.jit
def _attend(
    q, k, v, out, lses, slots, queries, keys, count, parts,
    q_batch, q_row, k_batch, k_row, slot_rows, heads,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PAGED: tl.constexpr, EVEN: tl.constexpr,
    SPLIT: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    h = tl.program_id(1)
    part, b = tl.program_id(2) % parts, tl.program_id(2) // parts
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    d, n = tl.arange(0, D), tl.arange(0, BN)
    inside = (row < queries)[:, None]
    q_at = q + b.to(tl.int64) * q_batch + row[:, None] * q_row + h * D + d[None, :]
    queries_bd = tl.load(q_at, mask=inside, other=0.0)
    # Each weight of a row goes into one of SUMS sums, which come together at the end: with 8 of them no thread needs
    # another one's weights before that.
    total = tl.zeros((BM, SUMS), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    i, last = part * count, part * count + count - 1
    view = tl.load(slots + i) if PAGED else i
    start = 0
    for _ in range(count * tl.cdiv(keys, BN)):
        first = (b * k_batch + view * slot_rows + start).to(tl.int64) * k_row + h * D
        k_at = k + first + n[None, :] * k_row + d[:, None]
        v_at = v + first + n[:, None] * k_row + d[None, :]
        if EVEN:
            p = tl.exp2(tl.dot(queries_bd, tl.load(k_at)))
            values = tl.load(v_at)
        else:
            there = start + n < keys
            scores = tl.dot(queries_bd, tl.load(k_at, mask=there[None, :], other=0.0))
            p = tl.where(there[None, :], tl.exp2(scores), 0.0)
            values = tl.load(v_at, mask=there[:, None], other=0.0)
        total += tl.sum(tl.reshape(p, (BM, BN // SUMS, SUMS)), 1)
        acc = tl.dot(p.to(values.dtype), values, acc)
        start += BN
        if PAGED:  # the next view's slot is known a block before its keys are fetched
            more = start < keys
            i = tl.minimum(i + tl.where(more, 0, 1), last)
            start = tl.where(more, start, 0)
            view = tl.load(slots + i)
    sums = tl.sum(total, 1)
    row_of_all = tl.program_id(2).to(tl.int64) * queries + row if SPLIT else b.to(tl.int64) * queries + row
    at = out + (row_of_all[:, None] * heads + h) * D + d[None, :]
    tl.store(at, (acc / sums[:, None]).to(out.dtype.element_ty), mask=inside)
    if SPLIT:
        tl.store(lses + (part * heads + h) * queries + row, tl.log(sums), mask=row < queries)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def attend(q: Tensor, k: Tensor, v: Tensor, slots: Tensor | None, parts: int) -> tuple[Tensor, Tensor]:
    """Return results over each part of the keys [b·parts, n, h, D], and logarithms of their sums [parts, h, n].

    q [b, n, h, D], times `ops.query_scale`; k, v of the same strides: [b, m, h, D], `parts` divides m, or with
    slots [slots, m, h, D], `parts` divides the number of slots named. b is 1 where parts are more than one.
    """
    b, n, h, d = q.shape
    out = torch.empty(b * parts, n, h, d, device=q.device, dtype=q.dtype)
    lses = torch.empty(parts, h, n, device=q.device, dtype=torch.float32)
    k_row = k.stride(1)
    if slots is None:
        keys, count, k_batch = k.shape[1] // parts, 1, k.stride(0) // k_row
        slot_rows = keys
    else:
        keys, count, k_batch = k.shape[1], slots.shape[0] // parts, 0
        slot_rows = k.stride(0) // k_row
    # All as measured on an H200: two or three large blocks fit into a multiprocessor, so fewer than two rounds of
    # them leave many idle; sums of their own cost large blocks more than they save.
    rows, columns, sums = 64, 64, 8
    wide = d > 64  # there are no registers for more
    if not wide and triton.cdiv(n, 128) * h * b * parts >= 5 * _multiprocessors(q.device):
        rows, sums = 128, 1
    elif not wide and triton.cdiv(n, 64) * h * b * parts <= 2 * _multiprocessors(q.device):
        columns = 128  # all blocks run at once, also such as need more memory
    _attend[(triton.cdiv(n, rows), h, b * parts)](
        q, k, v, out, lses, q if slots is None else slots, n, keys, count, parts,
        q.stride(0), q.stride(1), k_batch, k_row, slot_rows, h,
        d, rows, columns, slots is not None, keys % columns == 0, parts > 1, sums, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out, lses
