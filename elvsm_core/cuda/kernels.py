"""Triton kernels for what PyTorch would do in many small steps. `ops.py` defines what each one computes.

Imported on CUDA only. Token rows are contiguous; head_dim, patch_size and block sizes are powers of two.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor


@triton.jit
def _tokens(image, camera, out, width, P: tl.constexpr, HAS_IMAGE: tl.constexpr):
    token, n = tl.program_id(0), tl.program_id(1)
    tokens = tl.num_programs(0)
    columns = width // P
    e = tl.arange(0, P * P)
    v = (token // columns) * P + e // P
    u = (token % columns) * P + e % P
    C: tl.constexpr = 9 if HAS_IMAGE else 6
    at = out + (n * tokens + token) * (C * P * P) + e * C
    if HAS_IMAGE:
        source = image + ((n * (tokens // columns) * P + v) * width + u) * 3
        for channel in tl.static_range(3):
            value = tl.load(source + channel).to(tl.float32) / 255 * 2 - 1
            tl.store(at + channel, value.to(out.dtype.element_ty))
        at += 3
    c = camera + n * 16
    x = (u + 0.5 - tl.load(c + 14)) / tl.load(c + 12)
    y = (v + 0.5 - tl.load(c + 15)) / tl.load(c + 13)
    d0 = tl.load(c + 0) * x + tl.load(c + 1) * y + tl.load(c + 2)
    d1 = tl.load(c + 4) * x + tl.load(c + 5) * y + tl.load(c + 6)
    d2 = tl.load(c + 8) * x + tl.load(c + 9) * y + tl.load(c + 10)
    length = tl.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
    d0, d1, d2 = d0 / length, d1 / length, d2 / length
    o0, o1, o2 = tl.load(c + 3), tl.load(c + 7), tl.load(c + 11)
    tl.store(at + 0, (o1 * d2 - o2 * d1).to(out.dtype.element_ty))
    tl.store(at + 1, (o2 * d0 - o0 * d2).to(out.dtype.element_ty))
    tl.store(at + 2, (o0 * d1 - o1 * d0).to(out.dtype.element_ty))
    tl.store(at + 3, d0.to(out.dtype.element_ty))
    tl.store(at + 4, d1.to(out.dtype.element_ty))
    tl.store(at + 5, d2.to(out.dtype.element_ty))


def tokens(images: Tensor | None, cameras: Tensor, out: Tensor, width: int, patch: int) -> None:
    n = cameras.shape[0]
    grid = (out.shape[0] // n, n)
    has_image = images is not None
    _tokens[grid](images if has_image else cameras, cameras, out, width, patch, has_image, num_warps=2)


@triton.jit
def _heads(
    y, gains, store, slots, rows, tokens, columns, heads, slot_stride, kv_stride, query_scale,
    QUERIES: tl.constexpr, OWN_NORMED: tl.constexpr, OWN: tl.constexpr, HAS_SLOT: tl.constexpr, D: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(1)
    head = tl.where(p < OWN_NORMED, p, p - OWN_NORMED + OWN)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, D)[None, :]
    inside = row < rows
    at = y + row * columns + head * D + d
    raw = tl.load(at, mask=inside, other=0.0)
    x = raw.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 1) / D + 1e-5)[:, None]
    # Rounded before and after the gain, as in model.py.
    gain = tl.load(gains + head * D + d).to(tl.float32) * tl.where(p < QUERIES, query_scale, 1.0)
    normed = ((x * scale).to(raw.dtype).to(tl.float32) * gain).to(raw.dtype)
    if p < OWN_NORMED:
        tl.store(at, normed, mask=inside)
    if HAS_SLOT:  # noqa: SIM102 - known when a kernel is compiled, and the next one is not
        if p >= OWN_NORMED:
            which = (head - OWN) // heads
            value = tl.where(which == 0, normed, raw)
            slot = tl.load(slots + row // tokens, mask=inside, other=0).to(tl.int64)
            base = store + which.to(tl.int64) * kv_stride + slot * slot_stride + (row % tokens) * (heads * D)
            tl.store(base + ((head - OWN) % heads) * D + d, value, mask=inside)


@triton.jit
def _scale(x, width):
    # What layer norm multiplies a row with, once its mean is gone; x is 0 beyond `width`.
    mean = tl.sum(x, 0) / width
    return tl.rsqrt(tl.sum(x * x, 0) / width - mean * mean + 1e-5)


@triton.jit
def _scaled_heads(
    x, y, gains, store, slots, width, tokens, columns, heads, slot_stride, kv_stride, query_scale,
    QUERIES: tl.constexpr, NORMED: tl.constexpr, OWN: tl.constexpr, ALL: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    d = tl.arange(0, D)[None, :]
    inside = head < ALL
    at = y + row * columns + head * D + d
    # All loads first: one wait for memory instead of three.
    raw = tl.load(at, mask=inside, other=0.0)
    gain = tl.load(gains + head * D + d, mask=inside, other=0.0)
    column = tl.arange(0, WIDTH)
    residual = tl.load(x + row * width + column, mask=column < width, other=0.0)
    scaled = raw.to(tl.float32) * _scale(residual.to(tl.float32), width)
    rms = tl.rsqrt(tl.sum(scaled * scaled, 1) / D + 1e-5)[:, None]
    # Rounded before and after the gain, as in model.py.
    gain = gain.to(tl.float32) * tl.where(head < QUERIES, query_scale, 1.0)
    normed = (scaled * rms).to(raw.dtype).to(tl.float32) * gain
    value = tl.where((head < NORMED) | ((head >= OWN) & (head < OWN + heads)), normed, scaled).to(raw.dtype)
    if OWN:
        tl.store(at, value, mask=inside & (head < OWN))
    if ALL > OWN:
        which = (head - OWN) // heads
        slot = tl.load(slots + row // tokens).to(tl.int64)
        place = store + slot * slot_stride + (row % tokens) * (heads * D) + which.to(tl.int64) * kv_stride
        tl.store(place + ((head - OWN) % heads) * D + d, value, mask=inside & (head >= OWN))


def heads(
    y: Tensor,
    gains: Tensor,
    normed: int,
    own: int,
    layer: Tensor | None,
    slots: Tensor | None,
    x: Tensor | None,
    queries: int,
    query_scale: float,
) -> None:
    (rows, columns), (total, head_dim) = y.shape, gains.shape
    if layer is None or slots is None:
        kept, store, places, views = 0, y, gains, (1, columns, 1, 0, 0)
    else:
        kept, store, places = total - own, layer, slots
        views = (layer.shape[2], columns, kept // 2, layer.stride(1), layer.stride(0))
    if x is None:
        block = 32
        _heads[(triton.cdiv(rows, block), normed + kept)](
            y, gains, store, places, rows, *views, query_scale, queries, normed, own, layer is not None, head_dim,
            block, num_warps=4,
        )  # fmt: skip
    else:
        block = triton.next_power_of_2(own + kept)
        _scaled_heads[(rows,)](
            x, y, gains, store, places, x.shape[1], *views, query_scale, queries, normed, own, own + kept, head_dim,
            triton.next_power_of_2(x.shape[1]), block, num_warps=min(max(block * head_dim // 1024, 1), 8),
        )  # fmt: skip


@triton.jit
def _layer_norm(x, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value, 0) / width, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + 1e-5)
    tl.store(out + row * width + column, (centred * scale).to(out.dtype.element_ty), mask=inside)


def layer_norm(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    _layer_norm[(x.shape[0],)](x, out, x.shape[1], triton.next_power_of_2(x.shape[1]), num_warps=2)
    return out


@triton.jit
def _gelu(x):
    # Abramowitz and Stegun 7.1.26: erf to 1.5e-7, with one exponential.
    z = tl.abs(x) * 0.7071067811865476
    t = 1 / (1 + 0.3275911 * z)
    p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    half = 0.5 * p * tl.exp(-z * z)
    return x * tl.where(x > 0, 1 - half, half)


@triton.jit
def _gelu_kernel(x, y, width, columns, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = y + row * columns + column
    value = tl.load(at, mask=column < columns, other=0.0)
    of_x = tl.arange(0, WIDTH)
    residual = tl.load(x + row * width + of_x, mask=of_x < width, other=0.0)
    scaled = value.to(tl.float32) * _scale(residual.to(tl.float32), width)
    tl.store(at, _gelu(scaled).to(y.dtype.element_ty), mask=column < columns)


def gelu_(x: Tensor, y: Tensor) -> Tensor:
    """Turn y into gelu(y times the scale of its row in layer norm of x)."""
    width, columns, block = x.shape[1], y.shape[1], 1024
    _gelu_kernel[(y.shape[0], triton.cdiv(columns, block))](
        x, y, width, columns, triton.next_power_of_2(width), block, num_warps=1
    )
    return y


@triton.jit
def _receive_numbers(
    host, turns, taken, out, stride, words, ENTRIES: tl.constexpr, ALL: tl.constexpr, BLOCK: tl.constexpr
):
    entry = tl.arange(0, ALL)
    sent = tl.load(turns + entry, mask=entry < ENTRIES, other=0, cache_modifier=".cv")
    last = tl.load(taken)
    NONE: tl.constexpr = 2**62
    turn = tl.min(tl.where(sent > last, sent, NONE), 0)
    new = turn < NONE
    at = tl.where(new, (turn - 1) % ENTRIES, 0)
    i = tl.arange(0, BLOCK)
    inside = (i < words) & new
    tl.store(
        out + i, tl.load(host + at * stride + i, mask=inside, other=0, cache_modifier=".cv"), mask=inside
    )
    tl.debug_barrier()  # every thread has read `taken`
    tl.store(taken, turn, mask=new)
    tl.store(taken + 1, at, mask=new)


@triton.jit
def _receive_images(host, taken, count, out, stride, size, BLOCK: tl.constexpr):
    n = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (i < size) & (n < tl.load(count))
    source = host + tl.load(taken + 1) * stride + n * size
    tl.store(out + n * size + i, tl.load(source + i, mask=inside, other=0, cache_modifier=".cv"), mask=inside)


def receive(
    host: Tensor, turns: Tensor, taken: Tensor, out: Tensor, numbers: int, image: int, images: int
) -> None:
    """Copy the oldest entry that was not taken yet from pinned memory, if there is one.

    host uint8 [entries, bytes]: `numbers` bytes, the first four of which count the images that follow, `image`
    bytes each, `images` at most. turns int64 [entries]: when each was written, from 1 on. taken int64 [2]: the
    last turn that was taken, and which entry that was. out uint8 [bytes].
    """
    entries, words = host.shape[0], numbers // 4
    _receive_numbers[(1,)](
        host.view(torch.int32), turns, taken, out[:numbers].view(torch.int32), host.stride(0) // 4, words,
        entries, triton.next_power_of_2(entries), triton.next_power_of_2(words), num_warps=2,
    )  # fmt: skip
    if images:
        block = 8192
        _receive_images[(triton.cdiv(image, block), images)](
            host[:, numbers:], taken, out[:4].view(torch.int32), out[numbers:], host.stride(0), image, block,
            num_warps=4,
        )  # fmt: skip


@triton.jit
def _gather(store, slots, out, slot_stride, kv_stride, views, size, BLOCK: tl.constexpr):
    view, which = tl.program_id(1), tl.program_id(2)
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    source = store + which.to(tl.int64) * kv_stride + tl.load(slots + view).to(tl.int64) * slot_stride
    target = out + (which.to(tl.int64) * views + view) * size
    tl.store(target + offset, tl.load(source + offset, mask=inside), mask=inside)


def gather(layer: Tensor, slots: Tensor, out: Tensor) -> None:
    size, block = layer.stride(1), 8192
    grid = (triton.cdiv(size, block), slots.shape[0], 2)
    _gather[grid](
        layer, slots, out, layer.stride(1), layer.stride(0), slots.shape[0], size, block, num_warps=8
    )


@triton.jit
def _merge(outs, lses, out, rows, heads, S: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr):
    head = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, D)[None, :]
    inside = row < rows
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    for s in tl.static_range(S):
        top = tl.maximum(top, tl.load(lses + (s * heads + head) * rows + row, mask=inside, other=0.0))
    total = tl.zeros((ROWS,), tl.float32)
    sum_ = tl.zeros((ROWS, D), tl.float32)
    for s in tl.static_range(S):
        weight = tl.exp(tl.load(lses + (s * heads + head) * rows + row, mask=inside, other=0.0) - top)
        part = tl.load(
            outs + ((s * rows + row[:, None]) * heads + head) * D + d, mask=inside[:, None], other=0.0
        )
        total += weight
        sum_ += weight[:, None] * part.to(tl.float32)
    at = out + (row[:, None] * heads + head) * D + d
    tl.store(at, (sum_ / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])


def merge(outs: Tensor, lses: Tensor, out: Tensor) -> None:
    parts, rows, heads_, head_dim = outs.shape
    _merge[(triton.cdiv(rows, 16), heads_)](outs, lses, out, rows, heads_, parts, head_dim, 16, num_warps=4)


@triton.jit
def _paint(logits, out, height, width, columns, padded_tokens, P: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < height * width * 3
    channel, u, v = i % 3, (i // 3) % width, i // (3 * width)
    token = (v // P) * columns + u // P
    at = (n * padded_tokens + token) * (3 * P * P) + ((v % P) * P + u % P) * 3 + channel
    x = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
    # Added before the cut: halves are rare enough that round-half-up and round-half-even agree.
    value = 255 / (1 + tl.exp(-x)) + 0.5
    tl.store(out + n * (height * width * 3) + i, value.to(tl.uint8), mask=inside)


def paint(logits: Tensor, out: Tensor, columns: int, patch: int) -> None:
    n, height, width, _ = out.shape
    block = 1024
    grid = (triton.cdiv(height * width * 3, block), n)
    _paint[grid](logits, out, height, width, columns, logits.shape[0] // n, patch, block, num_warps=4)
