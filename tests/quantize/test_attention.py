"""``nn.MultiheadAttention`` on its way to codebooks, alone and inside PyTorch's transformer."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gq_tvm.quantize
from gq_tvm.errors import Error
from gq_tvm.ops.checks import ACTIVATIONS

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


def same(got, wanted):
    for g, w in zip(got, wanted, strict=True):
        assert (g is None) == (w is None)
        assert g is None or torch.equal(g, w)


def masks(kind, batch, heads, queries, keys):
    """attn_mask, key_padding_mask and is_causal of a kind; no query is left without a key."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch * heads, queries, keys) if "heads" in kind else (queries, keys)
    hidden = torch.rand(shape, generator=generator) < 0.4
    hidden[..., 0] = False
    padding = torch.zeros(batch, keys, dtype=torch.bool)
    padding[0, 1:] = True
    if "added" in kind:
        hidden = torch.where(hidden, -2.0, 0.5)
        padding = torch.where(padding, -torch.inf, 0.0)
    if kind == "causal":
        hidden = torch.ones(queries, keys, dtype=torch.bool).triu(1)
    return {
        "attn_mask": None if kind in ("none", "padding") else hidden,
        "key_padding_mask": padding if "padding" in kind else None,
        "is_causal": kind == "causal",
    }


KINDS = ("none", "bool", "added", "bool heads padding", "added padding", "padding", "causal")


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    heads=st.sampled_from([1, 2, 4]),
    inputs=st.sampled_from(["self", "other keys", "other widths"]),
    kind=st.sampled_from(KINDS),
    bias=st.booleans(),
    batch_first=st.booleans(),
    batched=st.booleans(),
    need_weights=st.booleans(),
    average=st.booleans(),
    per_row=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_attention_is_a_drop_in(
    batch, sizes, heads, inputs, kind, bias, batch_first, batched, need_weights, average, per_row,
    activation,
):  # fmt: skip
    torch.manual_seed(0)
    queries, keys = sizes if inputs != "self" else (sizes[0], sizes[0])
    batch = batch if batched else 1
    widths = {"kdim": 6, "vdim": 5} if inputs == "other widths" else {}
    model = nn.MultiheadAttention(8, heads, bias=bias, batch_first=batch_first, **widths)

    def tensor(length, width=8):
        x = torch.randn(batch, length, width)
        return x[0] if not batched else x if batch_first else x.transpose(0, 1)

    q = tensor(queries)
    k = q if inputs == "self" else tensor(keys, widths.get("kdim", 8))
    v = {"self": q, "other keys": k}.get(inputs, tensor(keys, widths.get("vdim", 8)))
    options = {"need_weights": need_weights, "average_attn_weights": average}
    options |= masks(kind, batch, heads, queries, keys)
    if not batched and options["key_padding_mask"] is not None:
        options["key_padding_mask"] = options["key_padding_mask"][0]
    floats = copy.deepcopy(model)
    wanted = floats(q, k, v, **options)
    prepared = quantize.prepare(model, 8, activation=activation, per_row=per_row)
    quantize.Annealing(prepared, 10)
    trained = prepared(q, k, v, **options)
    trained[0].sum().backward()
    converted = quantize.convert(prepared)
    got = converted(q, k, v, **options)
    for one in (trained, got):
        shapes = [None if part is None else part.shape for part in one]
        assert shapes == [None if part is None else part.shape for part in wanted]
    same(got, prepared.eval()(q, k, v, **options))
    if activation in ("fp32", "int8"):
        for one in (trained, got):
            torch.testing.assert_close(one, wanted, atol=0.1, rtol=0)


def test_weights_are_quantised_alone_and_together():
    model = quantize.prepare(nn.MultiheadAttention(8, 2), 4, {"in_proj_weight": 2})
    assert {w.name: w.bits for w in quantize.describe(model)} == {
        "in_proj_weight": 2,
        "out_proj.weight": 4,
    }
    report = quantize.describe(quantize.convert(model))
    assert {w.name: w.bits for w in report} == {
        "q_proj.weight": 2, "k_proj.weight": 2, "v_proj.weight": 2, "out_proj.weight": 4,
    }  # fmt: skip
    with pytest.raises(Error, match="is_causal is a hint and needs attn_mask too"):
        model(*[torch.randn(3, 1, 8)] * 3, is_causal=True)


def test_dropout_is_in_training_alone():
    torch.manual_seed(0)
    model = quantize.prepare(nn.MultiheadAttention(8, 2, dropout=0.5), 8)
    x = torch.randn(6, 2, 8)
    outputs = [model(x, x, x, need_weights=n)[0] for n in (True, True, False, False)]
    assert all(not torch.equal(a, b) for a, b in pairwise(outputs))
    _, weights = model(x, x, x)
    assert (weights == 0).any()
    assert not (model.eval()(x, x, x)[1] == 0).any()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_transformer_goes_through_its_layers(norm_first, whole):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    x, padding = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    wanted = model(x, src_key_padding_mask=padding)
    overrides = {} if whole else {"*.self_attn": None}
    prepared = quantize.prepare(model, 2, overrides, activation="fp32")
    assert {w.bits for w in quantize.describe(prepared)} == ({2} if whole else {2, 32})
    trained = prepared(x, src_key_padding_mask=padding)
    converted = quantize.convert(prepared)
    prepared.eval()
    for context in (torch.enable_grad(), torch.no_grad()):  # the fast path is one without gradients
        with context:
            torch.testing.assert_close(prepared(x, src_key_padding_mask=padding), trained)
            torch.testing.assert_close(converted(x, src_key_padding_mask=padding), trained)
    assert not torch.allclose(trained, wanted, atol=0.05)  # at 2 bits one sees that it was taken


@pytest.mark.export
def test_compiled_attention_is_what_was_evaluated(tmp_path):
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.floats = nn.MultiheadAttention(16, 2, batch_first=True)
            self.integers = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x):
            mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            return self.floats(x, x, x)[0], self.integers(x, x, x, attn_mask=mask)[0]

    model: Any = quantize.prepare(Block(), 4, activation={"floats": "fp32"}).eval()
    x = torch.randn(2, 6, 16)
    program = torch.export.export(quantize.convert(model), (x,))
    gq_tvm.build(program, target="native").save(str(tmp_path / "block.gq"))
    net = gq_tvm.load(str(tmp_path / "block.gq"))
    assert [layer.activation for layer in net.layers] == ["fp32"] * 4 + ["int8"] * 4
    for got, wanted in zip(net(x.numpy()), model(x), strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5, rtol=1e-5)
