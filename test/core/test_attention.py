import pytest
import torch

from elvsm_core.attention import attention, forced_backend


@pytest.mark.parametrize("keys", [1, 7, 33])
def test_every_backend_computes_softmax_attention(keys):
    """Keys and values come as slices of a cache: strided, with tokens before heads."""
    torch.manual_seed(0)
    q = torch.randn(2, 5, 3, 8)
    store = torch.randn(2, 2, keys + 4, 3, 8)
    k, v = store[0][:, 2:-2], store[1][:, 2:-2]
    weights = torch.einsum("bnhd,bmhd->bhnm", q.double(), k.double()).mul(8**-0.5).softmax(-1)
    expected = torch.einsum("bhnm,bmhd->bnhd", weights, v.double()).float()
    torch.testing.assert_close(attention(q, k, v), expected, atol=1e-6, rtol=1e-5)
    with forced_backend("MATH"):
        torch.testing.assert_close(attention(q, k, v), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [None, "MATH"])
def test_compilers_see_attention_in_one_piece(tiny_model, backend):
    """A graph break in every block would cost a compiled model what it gains."""
    import contextlib

    tokens, keys = torch.randn(2, 16, 64), torch.randn(2, 20, 2, 32)
    with forced_backend(backend) if backend else contextlib.nullcontext():
        torch._dynamo.reset()
        for block, inputs in (
            (tiny_model.input_self_attn_blocks[0], (tokens,)),
            (tiny_model.self_cross_blocks[0], (tokens[:, None], keys, keys)),
        ):
            assert torch._dynamo.explain(block)(*inputs).graph_break_count == 0
