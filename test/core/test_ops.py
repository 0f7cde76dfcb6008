"""The steps between matrix products: against the model's own modules, and Triton's version against PyTorch's.

Triton's kernels are tried where there is a CUDA device, or anywhere with TRITON_INTERPRET=1 and Triton installed.
"""

import os
import sys

import pytest
import torch

import elvsm_core as ec
from elvsm_core.cuda import ops
from elvsm_core.model import RMSNorm

if os.environ.get("TRITON_INTERPRET"):
    DEVICE, TRITON = "cpu", True
else:
    DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    TRITON = DEVICE == "cuda" and ops._triton() is not None


@pytest.fixture(params=["pytorch", pytest.param("triton", marks=pytest.mark.gpu)])
def provider(request, monkeypatch):
    if request.param == "triton" and not TRITON:
        pytest.skip("needs a CUDA device, or Triton and TRITON_INTERPRET=1")
    module = ops._triton() if request.param == "triton" else None
    monkeypatch.setattr(ops, "kernels_for", lambda x: module)
    return request.param


def random_cameras(n):
    torch.manual_seed(n)
    c2w = torch.eye(4).repeat(n, 1, 1)
    c2w[:, :3, :3] = torch.linalg.qr(torch.eye(3) + 0.2 * torch.randn(n, 3, 3))[0]
    c2w[:, :3, 3] = torch.randn(n, 3) / 2
    k = torch.tensor([40.0, 41.0, 24.5, 16.0]) + torch.rand(n, 4)
    return c2w, k, torch.cat([c2w[:, :3].flatten(1), k], dim=1).to(DEVICE)


def close(a, b, dtype=torch.float32):
    torch.testing.assert_close(
        a.float().cpu(), b.float().cpu(), atol=2e-6 if dtype == torch.float32 else 2e-2, rtol=1e-2
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_what_the_tokenizers_are_given(provider, dtype):
    model = ec.EfficientLVSM(ec.ModelConfig(width=64, head_dim=32, layers=1, image_size=(32, 48)))
    c2w, k, cameras = random_cameras(2)
    images = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    plucker = model._plucker(c2w, k, (32, 48))
    colours = images.permute(0, 3, 1, 2).float() / 255 * 2 - 1
    like = torch.empty(0, dtype=dtype, device=DEVICE)
    for given, planes, tokenizer in (
        (images.to(DEVICE), torch.cat([colours, plucker], 1), model.rgbp_tokenizer),
        (None, plucker, model.target_pose_tokenizer),
    ):
        tokens = ops.image_tokens(given, cameras, (32, 48), 8, like)
        assert tokens.dtype == dtype
        close(tokens, tokenizer[0](planes).flatten(0, 1).to(dtype), dtype)


def tokens_and_weights(rows, width, columns, dtype):
    """Rows of different means and scales, weights, and what the weights give of the normalised rows."""
    torch.manual_seed(0)
    x = (torch.randn(rows, width) + torch.randn(rows, 1) / 3) * (0.1 + torch.rand(rows, 1))
    x = x.to(dtype)
    w = (torch.randn(columns, width) / width**0.5).to(dtype)
    exact = torch.nn.functional.layer_norm(x.double(), (width,), eps=1e-5) @ w.double().T
    return x.to(DEVICE), ops.centred(w.to(DEVICE)), exact.float()


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_are_normalised_and_views_written_into_their_slot(provider, dtype, late):
    """Two views of 37 rows of 3 heads: queries, keys, values of a block, then keys and values of the views."""
    x, w, exact = tokens_and_weights(74, 96, 480, dtype)
    gains, exact = torch.rand(15, 32).to(dtype), exact.unflatten(1, (15, 32))
    expected = torch.empty_like(exact)
    for head in range(15):
        norm = RMSNorm(32)
        norm.weight.data = gains[head].float()
        expected[:, head] = norm(exact[:, head])
    store = torch.full((2, 4, 37, 3, 32), 7.0, dtype=dtype, device=DEVICE)
    slots = torch.tensor([2, 0], dtype=torch.int32, device=DEVICE)
    rows = x if late else ops.layer_norm(x)
    given = rows @ w.T
    ops.norm_heads_(given, gains.to(DEVICE), 6, 9, store, slots, x if late else None)
    after = given.cpu().unflatten(1, (15, 32))
    close(after[:, :6], expected[:, :6], dtype)
    close(after[:, 6:9], exact[:, 6:9], dtype)
    for slot, of_view in ((2, slice(0, 37)), (0, slice(37, 74))):
        close(store[0, slot], expected[of_view, 9:12], dtype)
        close(store[1, slot], exact[of_view, 12:], dtype)
    assert (store[:, [1, 3]] == 7).all(), "other slots are left as they are"
    queries = rows @ w[:96].T
    ops.norm_heads_(queries, gains[:3].to(DEVICE), 3, 3, x=x if late else None)
    close(queries.unflatten(1, (3, 32)), expected[:, :3], dtype)
    kept = rows @ w[288:].T
    ops.norm_heads_(kept, gains[9:].to(DEVICE), 0, 0, store, slots.flip(0), x if late else None)
    close(store[0, 0], expected[:37, 9:12], dtype)
    close(store[1, 2], exact[37:, 12:], dtype)
    for_powers, before = rows @ w[:192].T, gains.clone()
    ops.norm_heads_(for_powers, gains[:6].to(DEVICE), 6, 6, x=x if late else None, scaled=3)
    close(for_powers.unflatten(1, (6, 32))[:, :3], expected[:, :3] * ops.query_scale(32), dtype)
    close(for_powers.unflatten(1, (6, 32))[:, 3:], expected[:, 3:6], dtype)
    assert torch.equal(gains, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_normalised(provider, dtype):
    torch.manual_seed(0)
    x = (3 * torch.randn(37, 96) + 1).to(dtype)
    expected = torch.nn.functional.layer_norm(x.double(), (96,), eps=1e-5)
    close(ops.layer_norm(x.to(DEVICE)), expected, dtype)


def test_slots_are_gathered_in_the_order_asked_for(provider):
    layer = torch.randn(2, 6, 40, 3, 64, device=DEVICE)
    slots = torch.tensor([5, 0, 3], dtype=torch.int32, device=DEVICE)
    assert torch.equal(ops.gather_slots(layer, slots), layer[:, [5, 0, 3]])


def for_attention(q, provider, bounded):
    """Return queries as attention is given them, and whether the kernel for bounded scores is to be used."""
    there = provider == "triton" and q.dtype == torch.bfloat16
    assert ops.has_bounded_attention(q) == there
    if not (bounded and there):
        return q, False
    if DEVICE == "cpu":
        pytest.skip("Triton's interpreter has no loops over numbers known at run time: needs a CUDA device")
    return (q.float() * ops.query_scale(q.shape[-1])).to(q.dtype), True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [40, 128])
@pytest.mark.parametrize(("parts", "bounded"), [(1, True), (2, True), (4, True), (2, False)])
def test_views_are_attended_to_wherever_they_lie(provider, dtype, tokens, parts, bounded):
    """41 queries; 4 views of 40 tokens, which are no whole blocks, or of 128, which are, in 6 slots."""
    torch.manual_seed(0)
    q = RMSNorm(64)(torch.randn(1, 41, 3, 64)).to(dtype).to(DEVICE)
    given, bounded = for_attention(q, provider, bounded)
    keys, values = RMSNorm(64)(torch.randn(6, tokens, 3, 64)), torch.randn(6, tokens, 3, 64)
    layer = torch.stack([keys, values]).to(dtype).to(DEVICE)
    for slots in ([0, 1, 2, 3], [5, 0, 3, 2]):
        k, v = (x[slots].flatten(0, 1).double().unsqueeze(0) for x in layer)
        scores = torch.einsum("bnhd,bmhd->bhnm", q.double(), k) / 64**0.5
        expected = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)
        index = torch.tensor(slots, dtype=torch.int32, device=DEVICE)
        out = ops.attend_views(given, layer, index, slots == [0, 1, 2, 3], parts, bounded)
        assert out.is_contiguous() and out.dtype == dtype
        close(out, expected, dtype)
        close(ops.attend(given, k.to(dtype), v.to(dtype), parts, bounded), expected, dtype)


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("tokens", [40, 256])
def test_tokens_attend_to_those_of_their_own_image(provider, tokens, head_dim):
    """Two images; queries, keys and values side by side in rows that hold more."""
    torch.manual_seed(0)
    rows = RMSNorm(head_dim)(torch.randn(2, tokens, 5, 3, head_dim)).to(torch.bfloat16).to(DEVICE)
    q, k, v, *_ = rows.unbind(2)
    scores = torch.einsum("bnhd,bmhd->bhnm", q.double(), k.double()) / head_dim**0.5
    expected = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v.double())
    close(ops.attend(q, k, v, 1, False), expected, torch.bfloat16)
    given, bounded = for_attention(q, provider, True)
    close(ops.attend(given, k, v, 1, bounded), expected, torch.bfloat16)


def test_scores_are_bounded_by_the_gains():
    ones = torch.ones(64)
    assert ops.scores_are_bounded(ones, 8 * ones) and not ops.scores_are_bounded(3 * ones, -3 * ones)


def test_paint_rounds_and_crops(provider):
    torch.manual_seed(0)
    logits = 3 * torch.randn(3 * 24, 192, device=DEVICE)
    exact = 255 * ops.pixels(logits, 3, (32, 48), 8)[:, :, :30, :41].permute(0, 2, 3, 1)
    painted = ops.paint(logits, 3, (32, 48), (30, 41), 8)
    assert painted.dtype == torch.uint8 and painted.is_contiguous()
    assert (painted.float() - exact).abs().max() <= 0.5001


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_exact(provider, dtype):
    x, w, exact = tokens_and_weights(70, 160, 200, dtype)
    close(ops.linear_gelu(x, w), torch.nn.functional.gelu(exact), dtype)


def test_without_triton_everything_works_and_a_warning_says_why(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "elvsm_core.cuda.kernels", None)
    monkeypatch.delattr(ec, "kernels", raising=False)
    ops._triton.cache_clear()
    try:
        assert ops._triton() is None
        assert "renders take longer" in caplog.text
    finally:
        ops._triton.cache_clear()
