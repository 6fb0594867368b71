from __future__ import annotations

import numpy as np
import pytest
from helpers.relax_modules import calls, linear, lstm, module, var, weight
from tvm import relax, tirx
from tvm.ir import GlobalVar, IRModule

from gq_tvm import targets
from gq_tvm.errors import Error
from gq_tvm.ops.weight import Weight
from gq_tvm.passes import lower, operators
from gq_tvm.passes.choose_kernel import ChooseKernel
from gq_tvm.passes.lower_codebook import LowerCodebook
from gq_tvm.passes.pack_weights import PackWeights
from gq_tvm.passes.parameters import Parameters
from gq_tvm.schedules.scalar.rows import unpack_rows

NATIVE = targets.get("native")


def pack(mod: IRModule) -> tuple[IRModule, Parameters]:
    parameters = Parameters()
    return PackWeights(parameters)(ChooseKernel(NATIVE, parameters, "scalar")(mod)), parameters


def test_the_weight_becomes_parameters_of_the_function():
    x = var("x", 2, 10)
    packed, parameters = pack(module([x], lambda emit: linear(x, 6, 10, layer="out")))
    names = [one.name for one in packed["main"].params]
    assert names == ["x", "out.weights", "out.table", "out.scale", "out.bias"]
    assert packed["main"].attrs["num_input"] == 1
    assert set(names[1:]) == parameters.arrays.keys()
    (call,) = calls(packed, operators.PACKED)
    assert [arg.name for arg in call.args] == names


@pytest.mark.parametrize("bits", range(1, 9))
def test_exactly_n_bits_a_weight(bits):
    x = var("x", 2, 24)
    _, parameters = pack(module([x], lambda emit: linear(x, 8, 24, bits)))
    assert parameters.arrays["layer.weights"].nbytes == 8 * 24 * bits // 8 + 1
    wanted = weight(8, 24, bits)[0].value.numpy()
    got = unpack_rows(parameters.arrays["layer.weights"], 8, 24, bits)
    np.testing.assert_array_equal(got, wanted)


def test_a_weight_used_twice_is_packed_once():
    x = var("x", 2, 6)

    def body(emit):
        first = emit(linear(x, 6, 6, layer="first"))
        return linear(first, 6, 6, layer="second")

    packed, parameters = pack(module([x], body))
    assert len(packed["main"].params) == 1 + 4
    assert [layer.tied_to for layer in parameters.layers] == [None, "first"]
    assert all(name.startswith("first.") for name in parameters.arrays)


def test_a_weight_of_two_functions_is_packed_once():
    x, y = var("x", 2, 6), var("y", 3, 6)
    one = module([x], lambda emit: linear(x, 6, 6, layer="one"))["main"]
    two = module([y], lambda emit: linear(y, 6, 6, layer="two"))["main"]
    both = IRModule(
        {
            GlobalVar(name): function.with_attr("global_symbol", name)
            for name, function in (("one", one), ("two", two))
        }
    )
    packed, parameters = pack(both)
    assert [len(packed[name].params) for name in ("one", "two")] == [5, 5]
    assert len(parameters.arrays) == 4


def test_the_table_of_layers():
    x = var("x", 2, 10)
    _, parameters = pack(module([x], lambda emit: linear(x, 6, 10, 3, layer="out")))
    (layer,) = parameters.layers
    assert (layer.name, layer.kind, layer.shape, layer.bits) == ("out", "linear", [6, 10], 3)
    assert (layer.kernel, layer.activation) == ("scalar", "fp32")
    assert layer.bytes == sum(parameters.arrays[name].nbytes for name in layer.parameters)
    assert layer.float_bytes == 240


def test_an_lstm_has_two_weights_in_the_table_and_one_kernel():
    """However many steps: two layers over T steps, lowered whole, are two calls of one function."""
    steps = tirx.Var("T", "int64")
    x, h, c = var("x", 1, steps, 4), var("h", 1, 4), var("c", 1, 4)

    def body(emit):
        y = x
        for i in range(2):
            call = emit(lstm(y, h, c, 4, (3, 2), layer=f"lstm.{i}", seed=2 * i))
            y = emit(relax.TupleGetItem(call, 0))
        return y

    lowered, parameters = lower(module([x, h, c], body), NATIVE, "scalar")
    first, second, third, _ = parameters.layers
    assert [layer.name for layer in (first, second, third)] == [
        "lstm.0.ih",
        "lstm.0.hh",
        "lstm.1.ih",
    ]
    assert [(layer.kind, layer.bits, layer.shape) for layer in (first, second)] == [
        ("lstm", 3, [16, 4]),
        ("lstm", 2, [16, 4]),
    ]
    assert first.call == second.call
    assert first.call["layer"] == "lstm.0"
    assert [*first.parameters, *second.parameters, "lstm.0.bias"] == first.call["arguments"][3:]
    used = [call.args[0].name_hint for call in calls(lowered, "relax.call_tir")]
    assert used == [first.call["symbol"]] * 2


def call_with(indices, codebook):
    x = var("x", 2, 10)
    bias = relax.const(np.zeros(6, np.float32))
    return module(
        [x],
        lambda emit: operators.codebook_linear(
            x, operators.weight_constants(Weight(indices, codebook, np.ones(1, np.float32))),
            bias, activation="int8", layer="encoder.out",
        ),
    )  # fmt: skip


def test_an_index_beyond_the_codebook_is_refused():
    indices = np.zeros((6, 10), np.uint8)
    indices[3, 4] = 4
    wrong = call_with(indices, np.ones((1, 4), np.float32))
    with pytest.raises(Error, match=r"layer encoder\.out: index 4 is beyond the 4"):
        pack(wrong)


@pytest.mark.parametrize(
    ("codebook", "message"),
    [
        (np.ones((1, 3), np.float32), "2, 4, ... or 256 centroids, got 3"),
        (np.ones((4, 4), np.float32), "tables that share out the 6 rows"),
        (np.full((1, 4), np.nan, np.float32), "codebook holds NaN or infinity"),
    ],
)
def test_a_codebook_that_does_not_fit_is_refused(codebook, message):
    wrong = call_with(np.zeros((6, 10), np.uint8), codebook)
    with pytest.raises(Error, match=rf"layer encoder\.out: .*{message}"):
        pack(wrong)


def test_a_weight_computed_at_run_time_is_refused():
    x, indices = var("x", 2, 10), var("indices", 6, 10, dtype="uint8")
    _, *held, bias = weight(6, 10, 4)

    def body(emit):
        return operators.codebook_linear(x, [indices, *held], bias, activation="fp32", layer="out")

    with pytest.raises(Error, match="layer out: its weight is computed while the model runs"):
        pack(module([x, indices], body))


def test_equal_kernels_are_shared():
    x = var("x", 2, 6)

    def body(emit):
        y = emit(linear(x, 6, 6, layer="a"))
        z = emit(linear(y, 6, 6, layer="b", seed=1))
        return linear(z, 6, 6, layer="c", seed=2, epilogue="relu")

    packed, parameters = pack(module([x], body))
    lowered = LowerCodebook(NATIVE, parameters)(packed)
    assert len(lowered.get_global_vars()) == 1 + 2
    assert len(calls(lowered, "relax.call_tir")) == 3
    assert not calls(lowered, operators.PACKED)
