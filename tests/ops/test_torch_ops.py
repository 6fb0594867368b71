"""The PyTorch operators against the NumPy definition, through export, and in refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.weights import FORMS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gq_tvm.ops.torch_ops  # noqa: F401  (registers torch.ops.gq)
from gq_tvm.errors import Error
from gq_tvm.ops import reference, reference_recurrent, rounding, torch_rounding, torch_weight
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.ops.checks_recurrent import LAYERS
from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.ops.weight import Outliers, Weight

BITS = range(1, 9)
INTEGERS = tuple(rounding.ROW_QUANTIZERS)


def weight(rng, shape, bits, per_row=False) -> Weight:
    return Weight(
        rng.integers(0, 2**bits, shape, dtype=np.uint8),
        np.sort(rng.standard_normal((1, 2**bits))).astype(np.float32),
        rng.uniform(0.5, 2, shape[0] if per_row else 1).astype(np.float32),
    )


def of(held):
    """The arrays of a weight, as the operators take them."""
    return held.indices, held.codebook, held.scale, held.zero


def tensors(*arrays):
    return [None if a is None else torch.from_numpy(a) for a in arrays]


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def close(got, wanted):
    error = np.linalg.norm(np.asarray(got, np.float64) - wanted)
    assert error <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=10, deadline=None)
@given(
    lead=st.lists(st.integers(1, 3), max_size=2),
    rows=st.integers(1, 20),
    depth=st.integers(1, 40),
    per_row=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_linear(bits, activation, lead, rows, depth, per_row, bias, seed):
    rng = np.random.default_rng(seed)
    x = floats(rng, *lead, depth)
    held = weight(rng, (rows, depth), bits, per_row)
    b = floats(rng, rows) if bias else None
    wanted = reference.codebook_linear(x, held, b, activation)
    got = torch.ops.gq.codebook_linear(*tensors(x, *of(held), b), activation)
    if activation == "fp32":
        close(got, wanted)
    else:
        np.testing.assert_array_equal(got.numpy(), wanted)


@pytest.mark.parametrize("depth", [1040, 1041, 5000])
def test_linear_sums_are_exact_beyond_float32(depth):
    x = np.full((1, depth), 3.0, np.float32)
    x[0, 0] = -3.0
    indices = np.ones((2, depth), np.uint8)
    codebook = np.array([[-0.5, 0.7]], np.float32)
    scale = np.float32(3) / np.float32(127) * (np.float32(0.7) / np.float32(127))
    wanted = [[np.float32(127 * 127 * (depth - 2)) * scale] * 2]
    got = torch.ops.gq.codebook_linear(*tensors(x, indices, codebook, *[None] * 3), "int8")
    np.testing.assert_array_equal(got.numpy(), wanted)
    held = Weight(indices, codebook, np.ones(1, np.float32))
    np.testing.assert_array_equal(reference.codebook_linear(x, held, None, "int8"), wanted)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(width=32) | st.sampled_from([2.0**-100, 2.0**-101, -0.0, 3e38]), min_size=1)
)
def test_rows_are_quantised_alike(values):
    x = np.array([values], np.float32)
    q, scale = rounding.quantize_rows(x)
    tq, tscale = torch_rounding.quantize_rows(torch.from_numpy(x))
    np.testing.assert_array_equal(q, tq.numpy())
    np.testing.assert_array_equal(scale, tscale[..., 0].numpy())
    assert np.abs(q.astype(int)).max() <= 127
    if np.isfinite(x).all():
        error = np.abs(x - q * scale[:, None].astype(np.float64))  # may exceed float32
        assert error.max() <= 0.5001 * scale[0] + 2.0**-100
    else:
        assert np.isnan(scale).all()
        assert not q.any()


@pytest.mark.parametrize("activation", ["int1", "int2"])
@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(width=32) | st.sampled_from([2.0**-100, 2.0**-101, -0.0, 3e38]), min_size=1)
)
def test_rows_of_few_bits_are_quantised_alike(activation, values):
    x = np.array([values], np.float32)
    q, scale = rounding.ROW_QUANTIZERS[activation](x)
    tq, tscale = torch_rounding.quantize_activations(torch.from_numpy(x.copy()), activation)
    np.testing.assert_array_equal(q, tq.numpy())
    np.testing.assert_array_equal(scale, tscale[..., 0].numpy())
    levels = {"int1": [-1, 1], "int2": [-3, -1, 1, 3]}[activation]
    assert set(q.reshape(-1).tolist()) <= set(levels)
    if not np.isfinite(x).all():
        assert np.isnan(scale).all()
    elif scale[0] > 0:
        wide = x.astype(np.float64)
        mean = np.float64(scale[0]) / (0.625 if activation == "int2" else 1)
        assert abs(mean - np.abs(wide).mean()) <= np.abs(wide).max() * (0.51 / 127**2 + 1e-6)
        nearest = np.array(levels)[np.abs(wide[..., None] - np.array(levels) * scale[0]).argmin(-1)]
        ratio = np.abs(wide) / scale[0]
        clear = (ratio > 1e-6) & (np.abs(ratio - 2) > 1e-6)  # no tie, to rounding
        np.testing.assert_array_equal(q[clear], nearest[clear])
    else:
        assert np.abs(x).max() < 2.0**-100


def test_rows_of_few_bits_by_hand():
    x = np.array([[0, -0.0, 8, -8, 1, -1, 3, -3], [5, -5, 0, 0, 0, 0, 0, 6]], np.float32)
    q, scale = rounding.quantize_rows_int1(x)
    assert q.tolist() == [[1, 1, 1, -1, 1, -1, 1, -1], [1, -1, 1, 1, 1, 1, 1, 1]]
    np.testing.assert_allclose(scale, [3, 2], rtol=1e-4)
    q, scale = rounding.quantize_rows_int2(x)
    assert q.tolist() == [[1, 1, 3, -3, 1, -1, 1, -1], [3, -3, 1, 1, 1, 1, 1, 3]]
    np.testing.assert_allclose(scale, [1.875, 1.25], rtol=1e-4)
    # A mean of 8 / 5, a step of 1: 2 lies halfway.
    assert rounding.quantize_rows_int2(np.array([[2, -2, 2, -2, 0]], np.float32))[0].tolist() == [
        [1, -1, 1, -1, 1]
    ]


def test_few_bits_lose_least_on_normal_rows():
    x = floats(np.random.default_rng(0), 64, 1024)

    def loss(q, scale):
        return np.linalg.norm(x - q * scale[:, None])

    for activation, known in (("int1", 0.603), ("int2", 0.345)):  # sqrt(1 - 2/pi), Max's table
        q, scale = rounding.ROW_QUANTIZERS[activation](x)
        assert loss(q, scale) <= 1.01 * known * np.linalg.norm(x)
        assert loss(q, scale) < min(loss(q, scale * 0.9), loss(q, scale * 1.1))


def test_ties_round_to_even():
    q, scale = rounding.quantize_rows(np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32))
    assert q.tolist() == [[127, 0, 2, 2, 0, -2]]
    assert scale.tolist() == [1]


@pytest.mark.parametrize("activation", INTEGERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_row_spoils_only_itself(bad, activation):
    rng = np.random.default_rng(0)
    x = floats(rng, 3, 8)
    x[1, 4] = bad
    arguments = tensors(x, *of(weight(rng, (5, 8), 3)), None)
    y = torch.ops.gq.codebook_linear(*arguments, activation).numpy()
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()
    exact = torch.ops.gq.codebook_linear(*arguments, "fp32").numpy()
    assert not np.isfinite(exact[1]).any()
    assert np.isfinite(exact[[0, 2]]).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lstm(bits, activation):
    rng = np.random.default_rng(bits)
    x, h, c = floats(rng, 2, 5, 7), floats(rng, 2, 6), floats(rng, 2, 6)
    ih = weight(rng, (24, 7), bits)
    hh = weight(rng, (24, 6), 9 - bits, per_row=True)
    b = floats(rng, 24)
    wanted = reference_recurrent.codebook_recurrent("lstm", x, [h, c], [ih, hh], [b], activation)
    got = torch.ops.gq.codebook_lstm(*tensors(x, h, c, *of(ih), *of(hh), b), activation)
    for g, w in zip(got, wanted, strict=True):
        # An ulp of the sigmoid may move one h to the next of its 255 steps.
        np.testing.assert_allclose(g, w, atol=1e-5 if activation == "fp32" else 2e-2)
    np.testing.assert_array_equal(got[0][:, -1], got[1])


def test_lstm_is_pytorchs():
    rng = np.random.default_rng(0)
    lstm: Any = nn.LSTM(7, 6, batch_first=True)
    x, h, c = floats(rng, 2, 5, 7), floats(rng, 2, 6), floats(rng, 2, 6)
    ih, hh = weight(rng, (24, 7), 8), weight(rng, (24, 6), 8)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.from_numpy(ih.expand()))
        lstm.weight_hh_l0.copy_(torch.from_numpy(hh.expand()))
        bias = lstm.bias_ih_l0 + lstm.bias_hh_l0
        wanted, (wanted_h, wanted_c) = lstm(
            torch.from_numpy(x), (torch.from_numpy(h)[None], torch.from_numpy(c)[None])
        )
        got = reference_recurrent.codebook_recurrent(
            "lstm", x, [h, c], [ih, hh], [bias.numpy()], "fp32"
        )
    for g, w in zip(got, (wanted, wanted_h[0], wanted_c[0]), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(1, 8),
    taps=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 6]),
    activation=st.sampled_from(ACTIVATIONS),
    seed=st.integers(0, 2**31),
)
def test_conv1d(bits, taps, stride, padding, dilation, groups, activation, seed):
    rng = np.random.default_rng(seed)
    activation = "fp32" if groups == 6 else activation  # of one channel a group
    x, b = floats(rng, 2, 6, 11), floats(rng, 12)
    held = weight(rng, (12, 6 // groups, taps), bits)
    options = (stride, padding, dilation, groups, activation)
    wanted = reference.codebook_conv1d(x, held, b, *options)
    got = torch.ops.gq.codebook_conv1d(*tensors(x, *of(held), b), *options)
    assert got.shape == wanted.shape
    if activation == "fp32":
        close(got, wanted)
    else:
        np.testing.assert_array_equal(got.numpy(), wanted)


@settings(max_examples=40, deadline=None)
@given(
    taps=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    activation=st.sampled_from(ACTIVATIONS),
    seed=st.integers(0, 2**31),
)
def test_conv2d(taps, stride, padding, dilation, activation, seed):
    rng = np.random.default_rng(seed)
    x, b = floats(rng, 2, 3, 7, 11), floats(rng, 5)
    held = weight(rng, (5, 3, *taps), 4)
    options = (stride, padding, dilation, activation)
    wanted = reference.codebook_conv2d(x, held, b, *options)
    got = torch.ops.gq.codebook_conv2d(*tensors(x, *of(held), b), *options)
    assert got.shape == wanted.shape
    if activation == "fp32":
        close(got, wanted)
        floats_of = torch.from_numpy(held.expand())
        plain = F.conv2d(
            torch.from_numpy(x), floats_of, torch.from_numpy(b), stride, padding, dilation
        )
        close(got, plain.numpy())
    else:
        np.testing.assert_array_equal(got.numpy(), wanted)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("per_row", [False, True])
def test_embedding(bits, per_row):
    rng = np.random.default_rng(bits)
    held = weight(rng, (9, 4), bits, per_row)
    ids = rng.integers(0, 9, (3, 2))
    got = torch.ops.gq.codebook_embedding(*tensors(ids, *of(held)))
    np.testing.assert_array_equal(got.numpy(), reference.codebook_embedding(ids, held))


@settings(max_examples=60, deadline=None)
@given(FORMS, st.sampled_from(ACTIVATIONS), st.integers(0, 2**31))
def test_any_form_of_a_weight(held, activation, seed):
    """Groups of inputs, zero points, several tables, scales of any dtype, outliers."""
    rng = np.random.default_rng(seed)
    tensor = WeightTensors.of(held)
    np.testing.assert_array_equal(expand(tensor).numpy(), held.expand())
    x, bias = floats(rng, 2, held.width), floats(rng, held.rows)
    wanted = reference.codebook_linear(x, held, bias, activation)
    got = torch.ops.gq.codebook_linear(
        *tensors(x), *tensor.coded, *tensors(bias), activation, *tensor.outliers
    )
    if activation == "fp32" or held.outliers:
        close(got, wanted)
    else:
        np.testing.assert_array_equal(got.numpy(), wanted)
    parts = torch_weight.split_rows(torch_weight.operand(tensor, activation), held.rows // 3)
    rows = [torch_weight.product(torch.from_numpy(x), part) for part in parts]
    np.testing.assert_allclose(torch.cat(rows, -1).numpy() + bias, wanted, rtol=1e-4, atol=1e-3)
    ids = rng.integers(0, held.rows, (2, 3))
    np.testing.assert_array_equal(
        torch.ops.gq.codebook_embedding(*tensors(ids), *tensor).numpy(), held.expand()[ids]
    )


class Everything(nn.Module):
    with_outliers = "emb", "conv", "hh", "out"

    def __init__(self, stride):
        super().__init__()
        self.stride = stride
        rng = np.random.default_rng(0)
        shapes = {"emb": (9, 6), "conv": (6, 6, 3), "ih": (16, 6), "hh": (16, 4), "out": (5, 4)}
        for name, shape in shapes.items():
            held = weight(rng, shape, 4, per_row=name == "out")
            if name in self.with_outliers:
                held = replace(held, outliers=Outliers(np.array([1, 5]), floats(rng, 2)))
            for kind, tensor in WeightTensors.of(held)._asdict().items():
                setattr(self, f"{name}_{kind}", None if tensor is None else nn.Buffer(tensor))

    def held(self, name):
        return WeightTensors(*(getattr(self, f"{name}_{kind}") for kind in WeightTensors._fields))

    def forward(self, ids, h, c):
        gq = torch.ops.gq
        emb, conv, ih, hh, out = map(self.held, ("emb", "conv", "ih", "hh", "out"))
        x = gq.codebook_embedding(ids, *emb)
        options = None, self.stride, 1, 1, 1, "int8"
        x = gq.codebook_conv1d(x.transpose(1, 2), *conv.coded, *options, *conv.outliers)
        both = *ih.coded, *hh.coded
        outliers = *ih.outliers, *hh.outliers
        y, h, c = gq.codebook_lstm(x.transpose(1, 2), h, c, *both, None, "int8", *outliers)
        return gq.codebook_linear(y, *out.coded, None, "fp32", *out.outliers), h, c


@pytest.mark.parametrize(("stride", "shortest"), [(1, 1), (2, 3)])
def test_export_with_symbolic_batch_and_time(stride, shortest):
    # PyTorch wants more than one frame after a stride: a single one makes it specialise.
    model = Everything(stride).eval()

    def inputs(batch, frames):
        return torch.randint(0, 9, (batch, frames)), torch.zeros(batch, 4), torch.ones(batch, 4)

    batch, time = torch.export.Dim("B", min=1, max=16), torch.export.Dim("T", min=shortest, max=512)
    program = torch.export.export(
        model, inputs(2, 10), dynamic_shapes=({0: batch, 1: time}, {0: batch}, {0: batch})
    )
    names = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    for op in ("linear", "lstm", "conv1d", "embedding"):
        assert f"gq.codebook_{op}.default" in names
    for size in ((1, shortest), (3, 7), (2, 30)):
        args = inputs(*size)
        for got, wanted in zip(program.module()(*args), model(*args), strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layers_of_some_frames_and_both_directions(name, bits):
    rng = np.random.default_rng(bits)
    kind, hidden = LAYERS[name], 6
    rows, width = kind.gates * hidden, 4 if "_hr" in kind.parts else hidden
    shapes = [(rows, 7), (rows, width), (width, hidden)][: len(kind.parts)]
    weights = [weight(rng, shape, bits, per_row=True) for shape in shapes]
    sizes = (width, hidden)[: len(kind.states)]
    state = [floats(rng, 3, size) for size in sizes]
    x, biases = floats(rng, 3, 5, 7), [floats(rng, rows) for _ in kind.biases]
    lengths = np.array([5, 0, 2])
    coded = [array for one in weights for array in of(one)]
    outliers = [None] * (2 * len(weights))
    for reverse in (False, True):
        wanted = reference_recurrent.codebook_recurrent(
            name, x, state, weights, biases, "fp32", lengths, reverse
        )
        got = getattr(torch.ops.gq, f"codebook_{name}")(
            *tensors(x, *state, *coded, *biases), "fp32", *outliers,
            torch.from_numpy(lengths), reverse,
        )  # fmt: skip
        for g, w in zip(got, wanted, strict=True):
            np.testing.assert_allclose(g, w, atol=1e-5, rtol=2e-6)  # a relu may grow


def test_a_projection_of_another_shape_is_refused():
    rng = np.random.default_rng(0)
    x, h, c = torch.zeros(1, 2, 7), torch.zeros(1, 4), torch.zeros(1, 6)
    coded = [tensors(*of(weight(rng, shape, 3))) for shape in ((24, 7), (24, 4), (6, 4))]
    with pytest.raises(Error, match=r"projected_lstm: indices_hr must have shape \[4, 6\]"):
        torch.ops.gq.codebook_projected_lstm(x, h, c, *coded[0], *coded[1], *coded[2], None, "fp32")


def test_operators_pass_pytorchs_own_checks():
    rng = np.random.default_rng(0)
    x, b = floats(rng, 2, 8), floats(rng, 5)
    arguments = (*tensors(x, *of(weight(rng, (5, 8), 4)), b), "int8")
    torch.library.opcheck(torch.ops.gq.codebook_linear.default, arguments)
    state = tensors(floats(rng, 2, 0, 6), floats(rng, 2, 3), floats(rng, 2, 3))
    ih, hh = tensors(*of(weight(rng, (12, 6), 4))), tensors(*of(weight(rng, (12, 3), 4)))
    arguments = (*state, *ih, *hh, None, "int8")
    torch.library.opcheck(torch.ops.gq.codebook_lstm.default, arguments)
    outliers = None, None, torch.tensor([3]), torch.ones(1, dtype=torch.float16)
    torch.library.opcheck(torch.ops.gq.codebook_lstm.default, (*arguments, *outliers))
    rnn = [tensors(*of(weight(rng, (3, k), 4))) for k in (6, 3)]
    arguments = (*state[:2], *rnn[0], *rnn[1], None, "int8")
    torch.library.opcheck(torch.ops.gq.codebook_rnn_relu.default, arguments)


LINEAR = {
    "x": torch.zeros(2, 8),
    "indices": torch.zeros(5, 8, dtype=torch.uint8),
    "codebook": torch.zeros(1, 8),
    "scale": torch.ones(5),
    "zero": None,
    "bias": torch.zeros(5),
    "activation": "int8",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook": torch.zeros(1, 512)}, "2, 4, ... or 256 centroids, got 512"),
        ({"codebook": torch.zeros(8)}, r"codebook must have shape \[any, any\], got \[8\]"),
        ({"scale": torch.ones(4)}, r"\[1\], \[5\] or \[5, groups\], got \[4\]"),
        ({"scale": torch.ones(5, 2)}, "2 groups do not fit 8 inputs"),
        ({"zero": torch.ones(1)}, r"zero must have shape \[5\], got \[1\]"),
        ({"activation": "int4"}, 'must be "fp32", "int8", "int2" or "int1", got "int4"'),
        ({"x": torch.zeros(2, 7)}, r"x must have shape \[any, 8\], got \[2, 7\]"),
        ({"x": torch.zeros(2, 8).double()}, "x must be float32, got float64"),
        ({"indices": torch.zeros(5, 8, dtype=torch.int32)}, "indices must be uint8"),
        ({"indices": torch.full((5, 8), 8, dtype=torch.uint8)}, "index 8 is beyond the 8"),
        ({"codebook": torch.zeros(2, 8)}, "tables that share out the 5 rows of indices, got 2"),
        ({"bias": torch.zeros(4)}, r"bias must have shape \[5\], got \[4\]"),
    ],
)
def test_linear_refuses(change, message):
    arguments = {**LINEAR, **change}
    with pytest.raises(Error, match=message):
        torch.ops.gq.codebook_linear(*arguments.values())
    values: Any = arguments.values()
    x, *arrays, bias, activation = (a.numpy() if hasattr(a, "numpy") else a for a in values)
    with pytest.raises(Error, match=message):
        reference.codebook_linear(x, Weight(*arrays), bias, activation)


def test_other_refusals():
    rng = np.random.default_rng(0)
    held = of(weight(rng, (4, 2, 3), 2))
    x = floats(rng, 1, 4, 9)
    one = of(weight(rng, (4, 1, 3), 2))
    with pytest.raises(Error, match='of one channel a group has activation "fp32" only'):
        torch.ops.gq.codebook_conv1d(*tensors(x, *one, None), 1, 0, 1, 4, "int8")
    with pytest.raises(Error, match="fewer frames than the kernel"):
        torch.ops.gq.codebook_conv1d(*tensors(x[:, :, :2].copy(), *held, None), 1, 0, 1, 2, "fp32")
    table = tensors(*of(weight(rng, (4, 2), 2)))
    for wrong in (-1, 4):
        with pytest.raises(Error, match=f"id {wrong} is outside the 4 rows"):
            torch.ops.gq.codebook_embedding(torch.tensor([0, wrong]), *table)
    lstm = tensors(*of(weight(rng, (8, 2), 2)))
    state = torch.zeros(1, 3, 2), torch.zeros(2, 2), torch.zeros(1, 2)
    with pytest.raises(Error, match="h0 must have shape"):
        torch.ops.gq.codebook_lstm(*state, *lstm, *lstm, None, "fp32")
    with pytest.raises(Error, match="NaN or infinite"):
        rounding.quantize_codebook(np.array([[0, np.nan]], np.float32))
