from __future__ import annotations

import numpy as np
import pytest
from helpers.relax_modules import assert_same, calls, module, var
from tvm import relax, tirx

from gq_tvm.ops.checks_recurrent import CELLS, LAYERS
from gq_tvm.ops.weight import Weight
from gq_tvm.passes import operators
from gq_tvm.passes.match_codebook import MatchCodebook
from gq_tvm.passes.parameters import digest

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 8, (6, 10)).astype(np.uint8)
TABLE = RNG.standard_normal(8).astype(np.float32)
BIAS = RNG.standard_normal(6).astype(np.float32)
ONE = np.ones(1, np.float32)


def looked_up(emit, dtype="int64"):
    codes = emit(relax.op.astype(relax.const(CODES), dtype))
    return emit(relax.op.take(relax.const(TABLE), codes, axis=0, mode="fast"))


def looked_up_flat(emit):
    codes = emit(relax.op.astype(relax.const(CODES), "int32"))
    flat = emit(relax.op.reshape(codes, [60]))
    taken = emit(relax.op.take(relax.const(TABLE), flat, axis=0, mode="fast"))
    return emit(relax.op.reshape(taken, [6, 10]))


def looked_up_directly(emit):
    codes = relax.const(CODES.astype(np.int64))
    return emit(relax.op.take(relax.const(TABLE), codes, axis=0, mode="fast"))


def product(x, weight, bias="first"):
    def body(emit):
        y = emit(relax.op.matmul(x, emit(relax.op.permute_dims(weight(emit), [1, 0]))))
        constant = relax.const(BIAS)
        if bias == "none":
            return y
        return relax.op.add(constant, y) if bias == "first" else relax.op.add(y, constant)

    return body


def expected(x, bias=BIAS, table=TABLE[None], codes=CODES, scale=ONE, zero=None, layer="codebook"):
    weight = operators.weight_constants(Weight(codes, table, scale, zero))
    return lambda emit: operators.codebook_linear(
        x, weight, relax.const(bias), activation="fp32", layer=layer
    )


def looked_up_in_another_shape(emit):
    codes = emit(relax.op.reshape(relax.const(CODES.reshape(3, 20)), [60]))
    indices = emit(relax.op.astype(codes, "int64"))
    taken = emit(relax.op.take(relax.const(TABLE), indices, axis=0, mode="fast"))
    return emit(relax.op.reshape(taken, [6, 10]))


def looked_up_in_a_row(emit):
    row = emit(relax.op.take(relax.const(TABLE[None]), relax.const(0, "int64"), axis=0))
    return emit(relax.op.take(row, relax.const(CODES.astype(np.int32)), axis=0))


def looked_up_in_a_table_of_another_shape(emit):
    table = emit(relax.op.reshape(relax.const(TABLE[None]), [8]))
    return emit(relax.op.take(table, relax.const(CODES.astype(np.int32)), axis=0))


SPELLINGS = [
    looked_up,
    looked_up_flat,
    looked_up_directly,
    looked_up_in_another_shape,
    looked_up_in_a_row,
    looked_up_in_a_table_of_another_shape,
]


@pytest.mark.parametrize("weight", SPELLINGS)
@pytest.mark.parametrize("bias", ["first", "last", "none"])
def test_spellings(weight, bias):
    x = var("x", tirx.Var("m", "int64"), 10)
    got = MatchCodebook()(module([x], product(x, weight, bias)))
    constant = np.zeros(6, np.float32) if bias == "none" else BIAS
    assert_same(got, module([x], expected(x, constant)))


@pytest.mark.parametrize("weight", SPELLINGS)
def test_rows_of_a_look_up_are_an_embedding(weight):
    ids = var("ids", 4, dtype="int32")
    got = MatchCodebook()(module([ids], lambda emit: relax.op.take(weight(emit), ids, axis=0)))

    def embedding(emit):
        weight = operators.weight_constants(Weight(CODES, TABLE[None], ONE))
        long = emit(relax.op.astype(ids, "int64"))
        return operators.codebook_embedding(long, weight, layer="codebook")

    assert_same(got, module([ids], embedding))


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_that_are_known_or_columns_stay_floats(axis):
    ids = relax.const(np.arange(3)) if axis == 0 else var("ids", 4, dtype="int32")
    inputs = [var("x", 2)] if axis == 0 else [ids]
    before = module(inputs, lambda emit: relax.op.take(looked_up(emit), ids, axis=axis))
    assert_same(MatchCodebook()(before), before)


def test_a_codebook_for_each_row():
    x = var("x", 2, 10)
    table = RNG.standard_normal((6, 8)).astype(np.float32)

    def gathered(emit):
        codes = emit(relax.op.astype(relax.const(CODES), "int64"))
        return emit(relax.op.gather_elements(relax.const(table), codes, axis=1))

    got = MatchCodebook()(module([x], product(x, gathered)))
    assert_same(got, module([x], expected(x, table=table)))


def test_tables_of_rows_that_are_multiples_of_one_become_scales():
    x = var("x", 2, 10)
    scale = np.array([1, 2, 4, 1, 0.5, 8], np.float32)
    shape = TABLE / np.abs(TABLE).max()
    tables = Weight(CODES, scale[:, None] * shape, ONE)
    bias = relax.const(BIAS)

    def layer(weight):
        held = operators.weight_constants(weight)
        return lambda _: operators.codebook_linear(x, held, bias, activation="fp32", layer="a")

    got = MatchCodebook()(module([x], layer(tables)))
    assert_same(got, module([x], layer(Weight(CODES, shape[None], scale))))


def times(value, array):
    return lambda emit: emit(relax.op.multiply(value(emit), relax.const(array)))


def less(value, array):
    return lambda emit: emit(relax.op.subtract(value(emit), relax.const(array)))


def test_scales_and_zero_points_are_recognised():
    x = var("x", 2, 10)
    rows = RNG.standard_normal(6).astype(np.float32)
    for factor, scale in ((rows[:, None], rows), (rows[:1], rows[:1]), (rows[:1, None], rows[:1])):
        got = MatchCodebook()(module([x], product(x, times(looked_up, factor))))
        assert_same(got, module([x], expected(x, scale=scale)))
    both = times(less(looked_up, rows[:1]), rows[:, None])
    got = MatchCodebook()(module([x], product(x, both)))
    assert_same(got, module([x], expected(x, scale=rows, zero=np.repeat(rows[:1], 6))))
    each = RNG.standard_normal((6, 10)).astype(np.float32)
    for wrong in (each, each[:1]):
        before = module([x], product(x, times(looked_up, wrong)))
        assert_same(MatchCodebook()(before), before)


def test_scales_of_groups_are_recognised():
    x, codes = var("x", 2, 64), RNG.integers(0, 8, (6, 64)).astype(np.uint8)
    scale = RNG.standard_normal((6, 2)).astype(np.float32)

    def spread(emit):
        taken = relax.op.take(relax.const(TABLE), relax.const(codes.astype(np.int32)), axis=0)
        parted = emit(relax.op.reshape(emit(taken), [6, 2, 32]))
        scaled = relax.op.multiply(parted, relax.const(scale[:, :, None]))
        return emit(relax.op.reshape(emit(scaled), [6, 64]))

    got = MatchCodebook()(module([x], product(x, spread)))
    assert_same(got, module([x], expected(x, codes=codes, scale=scale)))


def test_a_codebook_whose_size_is_no_power_of_two():
    x = var("x", 2, 10)
    codes = (CODES % 5).astype(np.uint8)

    def weight(emit):
        taken = relax.op.take(relax.const(TABLE[:5]), relax.const(codes.astype(np.int32)), axis=0)
        return emit(taken)

    got = MatchCodebook()(module([x], product(x, weight)))
    table = np.pad(TABLE[:5], (0, 3))[None]
    assert_same(got, module([x], expected(x, codes=codes, table=table)))


def test_the_layer_is_named_by_its_indices():
    x = var("x", 2, 10)
    matched = MatchCodebook({digest(CODES): "encoder.out.indices"}, "int8")
    (call,) = calls(matched(module([x], product(x, looked_up))), operators.LINEAR)
    assert operators.attributes(call)["layer"] == "encoder.out"
    assert operators.attributes(call)["activation"] == "int8"


def test_indices_that_are_not_known_are_left_alone():
    x, codes = var("x", 2, 10), var("codes", 6, 10, dtype="int64")
    weight = lambda emit: emit(relax.op.take(relax.const(TABLE), codes, axis=0))  # noqa: E731
    before = module([x, codes], product(x, weight))
    assert_same(MatchCodebook()(before), before)


def test_a_plain_product_is_left_alone():
    x = var("x", 2, 10)
    floats = RNG.standard_normal((6, 10)).astype(np.float32)
    before = module([x], product(x, lambda emit: relax.const(floats)))
    assert_same(MatchCodebook()(before), before)


def test_what_is_matched_is_not_told_of():
    told: list[str] = []
    x = var("x", 2, 10)
    MatchCodebook(warn=told.append)(module([x], product(x, looked_up)))
    assert not told


def floats_of(call):
    weight = operators.weight_of(call)
    assert weight is not None
    return weight.expand()


def of_packed_codes(emit):
    """Indices computed from packed ones, two a byte."""
    bytes_ = relax.const(CODES[:, ::2] | CODES[:, 1::2] << 4)
    low = emit(relax.op.bitwise_and(bytes_, relax.const(15, "uint8")))
    high = emit(relax.op.right_shift(bytes_, relax.const(4, "uint8")))
    parts = [emit(relax.op.expand_dims(one, 2)) for one in (low, high)]
    both = emit(relax.op.concat(emit(relax.Tuple(parts)), axis=-1))
    codes = emit(relax.op.reshape(both, [6, 10]))
    return emit(relax.op.take(relax.const(TABLE), codes, axis=0))


def jointly(emit):
    """A row's table and the place in it, told together."""
    tables = relax.const(np.repeat(TABLE[None], 6, axis=0))
    rows, codes = np.arange(6)[:, None], CODES.astype(np.int64)
    return emit(relax.op.index_tensor(tables, [relax.const(rows), relax.const(codes)]))


def jointly_in_doubles(emit):
    """As torchao looks up: a table of doubles a group, an axis of one behind it."""
    tables = np.repeat(TABLE.astype(np.float64)[None, None, :, None], 2, axis=1)
    rows, groups = np.zeros((6, 10), np.int64), np.arange(10)[None] // 5 + np.zeros((6, 1), int)
    places = [relax.const(one.ravel()) for one in (rows, groups, CODES.astype(np.int64))]
    taken = emit(relax.op.index_tensor(relax.const(tables, "float64"), places))
    return emit(relax.op.astype(emit(relax.op.reshape(taken, [6, 10])), "float32"))


def transposed_twice(emit):
    codes = relax.const(np.ascontiguousarray(CODES.T).astype(np.int32))
    taken = emit(relax.op.take(relax.const(TABLE), codes, axis=0))
    return emit(relax.op.permute_dims(taken, [1, 0]))


@pytest.mark.parametrize("weight", [of_packed_codes, jointly, jointly_in_doubles, transposed_twice])
def test_codes_computed_from_constants_are_those_of_a_codebook(weight):
    x = var("x", 2, 10)
    (call,) = calls(MatchCodebook()(module([x], product(x, weight))), operators.LINEAR)
    assert np.array_equal(floats_of(call), TABLE[CODES])


def test_integers_are_a_look_up_of_themselves():
    x, zero = var("x", 2, 10), relax.const(np.float32(3))
    scale = RNG.standard_normal((6, 1)).astype(np.float32)

    def dequantised(emit):
        floats = emit(relax.op.astype(relax.const(CODES.astype(np.int8)), "float32"))
        return emit(relax.op.multiply(emit(relax.op.subtract(floats, zero)), relax.const(scale)))

    (call,) = calls(MatchCodebook()(module([x], product(x, dequantised))), operators.LINEAR)
    assert np.array_equal(floats_of(call), (CODES - np.float32(3)) * scale)
    assert operators.form_of(call)["bits"] == 3


def float_product(values, x):
    """As ``F.linear``, as ``x @ w`` and as a batch of products of one matrix repeated."""
    plain, repeated = relax.const(values), relax.const(np.ascontiguousarray(values.T))
    yield lambda emit: relax.op.matmul(x, emit(relax.op.permute_dims(plain, [1, 0])))
    yield lambda emit: relax.op.matmul(x, repeated)
    spread = relax.op.broadcast_to(repeated, [2, 10, 6])
    yield lambda emit: relax.op.matmul(x, emit(spread))


def test_floats_of_few_values_are_a_codebook():
    x, floats = var("x", 2, 3, 10), TABLE[CODES]
    told: list[str] = []
    for spelling in float_product(floats, x):
        found = MatchCodebook({digest(floats): "out.weight"}, tell=told.append)
        (call,) = calls(found(module([x], spelling)), operators.LINEAR)
        assert np.array_equal(floats_of(call), floats)
        assert operators.attributes(call)["activation"] == "fp32"
    assert told[0] == "float weights that hold few values are codebooks: out.weight (3 bits)"


def test_convolutions_of_few_values_are_codebooks():
    x, bias = var("x", 1, 4, 20), BIAS.reshape(1, 6, 1)
    floats = TABLE[RNG.integers(0, 8, (6, 4, 5))]

    def body(emit):
        conv = relax.op.nn.conv1d(x, relax.const(floats), strides=2, padding=3, dilation=2)
        return relax.op.add(emit(conv), relax.const(bias))

    (call,) = calls(MatchCodebook()(module([x], body)), operators.CONV1D)
    assert np.array_equal(floats_of(call), floats)
    assert np.array_equal(call.args[-1].value.numpy(), BIAS)
    at = operators.attributes(call)
    assert (at["stride"], at["padding"], at["dilation"], at["groups"]) == (2, 3, 2, 1)


def test_maps_of_few_values_are_codebooks():
    x, bias = var("x", 1, 4, 20, 9), BIAS.reshape(6, 1, 1)
    floats = TABLE[RNG.integers(0, 8, (6, 4, 5, 3))]

    def body(emit):
        conv = relax.op.nn.conv2d(x, relax.const(floats), (2, 1), (3, 0), (1, 2))
        return relax.op.add(emit(conv), relax.const(bias))

    (call,) = calls(MatchCodebook()(module([x], body)), operators.CONV2D)
    assert np.array_equal(floats_of(call), floats)
    assert np.array_equal(call.args[-1].value.numpy(), BIAS)
    first, second = operators.axes_of(call)
    assert (first["stride"], first["left"], first["right"], first["dilation"]) == (2, 3, 3, 1)
    assert (second["stride"], second["left"], second["right"], second["dilation"]) == (1, 0, 0, 2)


@pytest.mark.parametrize(
    ("cell", "functions", "projected", "operator"),
    [
        ("lstm", "", 0, "lstm"),
        ("lstm", "sigmoid,tanh,tanh", 12, "projected_lstm"),
        ("gru", "", 0, "gru"),
        ("rnn", "tanh", 0, "rnn_tanh"),
        ("rnn", "relu", 0, "rnn_relu"),
        ("rnn", "softsign", 0, None),
        ("gru_reset_before", "", 0, None),
    ],
)
def test_recurrent_layers_of_few_values_are_codebooks(cell, functions, projected, operator):
    kind, hidden = CELLS[cell], 16
    rows, width = kind.gates * hidden, projected or hidden
    x, lengths = var("x", 2, 7, 10), var("lengths", 2, dtype="int64")
    state = [var(f"s{n}", 2, size) for n, size in enumerate((width, hidden)[: kind.states])]
    shapes = [(rows, 10), (rows, width), *[(projected, hidden)] * bool(projected)]
    weights = [TABLE[RNG.integers(0, 8, shape)] for shape in shapes]
    biases = [RNG.standard_normal(rows).astype(np.float32) for _ in range(2)]
    held, kept = list(map(relax.const, weights)), list(map(relax.const, biases))

    def body(emit):
        call = operators.recurrent(
            cell, [x, *state, *held[:2], *kept], held[2] if projected else None, lengths,
            reverse=True, clip=0.0, functions=functions, layer="r",
        )  # fmt: skip
        return relax.TupleGetItem(emit(call), 0)

    matched = MatchCodebook(activation="int8")(module([x, *state, lengths], body))
    if operator is None:
        assert calls(matched, operators.RECURRENT)
        return
    (call,) = calls(matched, f"relax.gq.codebook_{operator}")
    for part, wanted in zip(LAYERS[operator].parts, weights, strict=True):
        found = operators.weight_of(call, part)
        assert found is not None
        assert np.array_equal(found.expand(), wanted)
    *got, last = call.args[operators.behind_weights(call) :]
    summed = biases if cell == "gru" else [biases[0] + biases[1]]
    assert all(np.array_equal(a.value.numpy(), b) for a, b in zip(got, summed, strict=True))
    assert last.same_as(call.args[-1])
    at = operators.attributes(call)
    assert (at["reverse"], at["activation"], at["layer"]) == (1, "int8", "r")


def test_what_is_added_to_a_product_read_elsewhere_is_no_bias():
    x, floats = var("x", 2, 10), relax.const(TABLE[CODES])

    def body(emit):
        y = emit(relax.op.matmul(x, emit(relax.op.permute_dims(floats, [1, 0]))))
        return relax.op.multiply(y, emit(relax.op.add(y, relax.const(BIAS))))

    (call,) = calls(MatchCodebook()(module([x], body)), operators.LINEAR)
    assert not call.args[-1].value.numpy().any()


def test_tables_that_only_a_slow_kernel_takes_are_told_of():
    x = var("x", 2, 256)
    told: list[str] = []
    tables = RNG.standard_normal((32, 16)).astype(np.float32)
    floats = np.take_along_axis(tables, RNG.integers(0, 16, (32, 256)), 1)
    before = module([x], lambda emit: relax.op.matmul(x, relax.const(floats.T.copy())))
    (call,) = calls(MatchCodebook(warn=told.append)(before), operators.LINEAR)
    assert np.array_equal(floats_of(call), floats)
    assert len(told) == 1
    assert "no kernel is quick with so many tables" in told[0]


def test_other_look_ups_are_left_alone_and_told_of():
    told: list[str] = []
    # relax.const makes int32 of NumPy's int64
    names = {digest(CODES.astype(np.int32)): "out.codes"}
    table = RNG.standard_normal((8, 10)).astype(np.float32)

    def along_the_other_axis(emit):
        codes = relax.const(CODES.astype(np.int64))
        return emit(relax.op.gather_elements(relax.const(table), codes, axis=0))

    x = var("x", 2, 10)
    before = module([x], product(x, along_the_other_axis))
    assert_same(MatchCodebook(names, warn=told.append)(before), before)
    (sentence,) = told
    assert "kept in float32" in sentence
    assert "look-up of out.codes is not a layer" in sentence


def test_float_embeddings_are_not_told_of():
    told: list[str] = []
    x = var("x", 4, 10)

    def body(emit):
        rows = relax.const(np.ones((9, 10), np.float32))
        return relax.op.add(x, emit(relax.op.take(rows, relax.const(np.arange(4)), axis=0)))

    MatchCodebook(warn=told.append)(module([x], body))
    assert not told
