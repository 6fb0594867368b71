"""``nn.GRU`` on its way to codebooks; its operator against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gq_tvm.quantize
from gq_tvm.errors import Error
from gq_tvm.ops import reference_recurrent
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.ops.weight import Weight

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


def same(got, wanted):
    for g, w in zip(got, wanted, strict=True):
        assert torch.equal(g, w)


@settings(max_examples=12, deadline=None)
@given(
    bits=st.integers(1, 8),
    batch=st.integers(1, 3),
    frames=st.integers(1, 5),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 6)),
    layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    state=st.booleans(),
    batched=st.booleans(),
    per_row=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_gru_is_a_drop_in(
    bits, batch, frames, sizes, layers, bias, batch_first, state, batched, per_row, activation
):
    torch.manual_seed(0)
    model = nn.GRU(*sizes, num_layers=layers, bias=bias, batch_first=batch_first)
    shape = (batch, frames) if batch_first else (frames, batch)
    x = torch.randn(*(shape if batched else (frames,)), sizes[0])
    lead = (layers, batch) if batched else (layers,)
    hx = torch.randn(*lead, sizes[1]) if state else None
    wanted, wanted_h = model(x, hx)
    prepared = quantize.prepare(model, bits, activation=activation, per_row=per_row)
    quantize.Annealing(prepared, 10)
    trained, _ = prepared(x, hx)
    trained.sum().backward()
    assert all(p.grad is not None for p in prepared.parameters())
    converted = quantize.convert(prepared)
    y, h = converted(x, hx)
    assert (trained.shape, y.shape, h.shape) == (wanted.shape, wanted.shape, wanted_h.shape)
    evaluated = prepared.eval()(x, hx)
    if activation == "fp32":  # floats may be added up in another order
        torch.testing.assert_close((y, h), evaluated, atol=1e-6, rtol=1e-5)
    else:
        same((y, h), evaluated)
    if bits == 8 and activation == "fp32":
        torch.testing.assert_close(y, wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hard_training_computes_what_eval_does(activation):
    torch.manual_seed(0)
    model = quantize.prepare(nn.GRU(6, 10, 2), 3, activation=activation, exact_state=True)
    x = torch.randn(8, 4, 6)
    trained = model.train()(x)
    tolerance = 1e-5 if activation == "fp32" else 1e-2
    torch.testing.assert_close(trained, model.eval()(x), atol=tolerance, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_operator_is_the_reference(activation, bias):
    torch.manual_seed(0)
    arguments = (
        torch.randn(2, 4, 7),
        torch.randn(2, 5),
        torch.randint(0, 8, (15, 7), dtype=torch.uint8),
        torch.randn(1, 8),
        torch.randn(15),
        None,
        torch.randint(0, 4, (15, 5), dtype=torch.uint8),
        torch.randn(1, 4),
        torch.randn(1),
        torch.randn(1),
        torch.randn(15) if bias else None,
        torch.randn(15) if bias else None,
    )
    got = torch.ops.gq.codebook_gru(*arguments, activation)
    arrays: list[Any] = [None if a is None else a.numpy() for a in arguments]
    x, h, *weights, bias_ih, bias_hh = arrays
    pair = Weight(*weights[:4]), Weight(*weights[4:])
    wanted = reference_recurrent.codebook_recurrent(
        "gru", x, [h], pair, [bias_ih, bias_hh], activation
    )
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g.numpy(), w, atol=1e-5)
    if activation == "int8":
        torch.library.opcheck(torch.ops.gq.codebook_gru, (*arguments, activation))


def test_operator_refuses():
    def call(x=(2, 4, 7), h0=(2, 5), ih=(15, 7), hh=(15, 5)):
        made = (torch.zeros(x), torch.zeros(h0))
        indices = [torch.zeros(s, dtype=torch.uint8) for s in (ih, hh)]
        book = torch.zeros(1, 4)
        torch.ops.gq.codebook_gru(
            *made, indices[0], book, None, None, indices[1], book, *[None] * 4, "int8"
        )

    call()
    with pytest.raises(Error, match=r"codebook_gru: indices_ih must have shape \[15, 7\]"):
        call(ih=(20, 7))
    with pytest.raises(Error, match=r"codebook_gru: indices_hh must have shape \[15, 5\]"):
        call(hh=(15, 6))
    with pytest.raises(Error, match=r"codebook_gru: h0 must have shape \[2, any\]"):
        call(h0=(3, 5))
    gru = quantize.prepare(nn.GRU(6, 10), 3)
    with pytest.raises(Error, match=r"state h must have shape \[1, batch, 10\]"):
        gru(torch.zeros(3, 2, 6), torch.zeros(2, 2, 10))
    with pytest.raises(Error, match=r"weight_hh_l0 would stay in float .* layer of the GRU"):
        quantize.prepare(nn.GRU(6, 10), 3, {"weight_hh_l0": 32})


def test_export_with_symbolic_frames():
    model = quantize.compress(nn.GRU(6, 10, 2, batch_first=True), 3)
    frames = torch.export.Dim("T", min=1, max=512)
    x, h = torch.randn(1, 5, 6), torch.randn(2, 1, 10)
    program = torch.export.export(model, (x, h), dynamic_shapes=({1: frames}, None))
    ops = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert ops.count("gq.codebook_gru.default") == 2
    x = torch.randn(1, 40, 6)
    same(program.module()(x, h), model(x, h))
