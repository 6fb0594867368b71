"""com.microsoft's operators against ONNX Runtime, over drawn attributes and shapes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from helpers.onnx_graphs import one_node, run
from numpy.typing import NDArray
from onnx import helper

from gq_tvm.errors import Error

DOMAIN = "com.microsoft"
Arrays = dict[str, NDArray]


def theirs(proto: Any, inputs: Arrays, types: list[int]) -> list[NDArray]:
    proto = copy.deepcopy(proto)
    for one, number in zip(proto.graph.output, types, strict=True):
        one.CopyFrom(helper.make_tensor_value_info(one.name, number, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return list(made.run(None, inputs))


def both(
    operator: str, inputs: Arrays, folder: Path, constants: Arrays | None = None, **more: Any
) -> list[tuple[NDArray, NDArray]]:
    """Outputs of a node here and of ONNX Runtime, their shapes and dtypes alike."""
    proto = one_node(operator, inputs, constants, domain=DOMAIN, opset=21, **more)
    ours = run(proto, inputs, folder)
    types = [int(helper.np_dtype_to_tensor_dtype(one.dtype)) for one in ours]
    pairs = list(zip(ours, theirs(proto, inputs, types), strict=True))
    for got, wanted in pairs:
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
    return pairs


def check(
    operator: str, inputs: Arrays, folder: Path, constants: Arrays | None = None, **more: Any
) -> None:
    for got, wanted in both(operator, inputs, folder, constants, **more):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def check_integers(operator: str, inputs: Arrays, folder: Path, **more: Any) -> None:
    """A sum that is nearly a tie may be rounded either way."""
    for got, wanted in both(operator, inputs, folder, **more):
        apart = np.abs(got.astype(int) - wanted.astype(int))
        assert apart.max() <= 1
        assert (apart > 0).mean() <= 0.02


def of(rng: Any, *shape: int) -> NDArray:
    return rng.standard_normal(shape).astype(np.float32)


def quantised(rng: Any, name: str, dtype: Any, *shape: int) -> Arrays:
    info = np.iinfo(dtype)
    return {
        name: rng.integers(info.min, info.max + 1, shape).astype(dtype),
        f"{name}_scale": np.array(rng.uniform(0.01, 0.1), np.float32),
        f"{name}_zero": np.array(rng.integers(info.min, info.max + 1), dtype),
    }


def result(rng: Any, dtype: Any) -> Arrays:
    info = np.iinfo(dtype)
    zero = np.array(rng.integers(info.min // 2, info.max // 2), dtype)
    return {"y_scale": np.array(rng.uniform(0.02, 0.1), np.float32), "y_zero": zero}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("operator", ["QLinearAdd", "QLinearMul"])
def test_two_quantised_tensors(operator: str, dtype: Any, seed: int, tmp_path):
    rng = np.random.default_rng(seed)
    shape = [(2, 3, 40), (40,), (1, 3, 1), (2, 1, 40)][seed]
    given = quantised(rng, "a", dtype, 2, 3, 40) | quantised(rng, "b", dtype, *shape)
    check_integers(operator, given | result(rng, dtype), tmp_path)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("operator", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_functions_of_a_quantised_tensor(operator: str, dtype: Any, seed: int, tmp_path):
    rng = np.random.default_rng(seed)
    own = {"alpha": float(rng.uniform(0, 0.5))} if operator == "QLinearLeakyRelu" else {}
    given = quantised(rng, "x", dtype, 3, 50) | result(rng, dtype)
    check_integers(operator, given, tmp_path, **own)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    "own",
    [
        {"kernel_shape": [3, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": 1},
        {"kernel_shape": [2, 3], "channels_last": 1},
        None,
    ],
    ids=str,
)
def test_pools_of_a_quantised_tensor(own: Any, dtype: Any, tmp_path):
    rng = np.random.default_rng(0)
    given = quantised(rng, "x", dtype, 2, 8, 9, 7) | result(rng, dtype)
    for last in (0, 1) if own is None else ():
        check_integers("QLinearGlobalAveragePool", given, tmp_path, channels_last=last)
    if own is not None:
        check_integers("QLinearAveragePool", given, tmp_path, **own)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_quantised_tensors_one_behind_the_other(axis: int, dtype: Any, tmp_path):
    rng = np.random.default_rng(axis + 1)
    shapes = [[2, 3, 4], [2, 3, 4], [2, 3, 4]]
    for size, shape in enumerate(shapes, 1):
        shape[axis] = size
    given = result(rng, dtype)
    for name, shape in zip("abc", shapes, strict=True):
        given |= quantised(rng, name, dtype, *shape)
    check_integers("QLinearConcat", given, tmp_path, axis=axis)


@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("few", [1, 2, 4])
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"do_rotary": 1},
        {"do_rotary": 1, "rotary_interleaved": 1, "scale": 0.2},
        {"local_window_size": 2},
        {"softcap": 3.0},
        {"packed": True, "do_rotary": 1},
    ],
    ids=str,
)
def test_group_query_attention(own: dict[str, Any], few: int, past: int, tmp_path):
    rng = np.random.default_rng(past + few)
    own = dict(own)
    batch, new, count, width = 2, 1 if past else 4, 4, 16
    given: Arrays = {}
    if own.pop("packed", False):
        given["query"] = of(rng, batch, new, (count + 2 * few) * width)
        order = ["query", "", ""]
    else:
        given["query"] = of(rng, batch, new, count * width)
        given |= {one: of(rng, batch, new, few * width) for one in ("key", "value")}
        order = ["query", "key", "value"]
    if past:
        given |= {one: of(rng, batch, few, past, width) for one in ("past_key", "past_value")}
    order += ["past_key", "past_value"] if past else ["", ""]
    # One sequence of a batch may be shorter than the past is long.
    given["last"] = np.array([past + new - 1, past + new - 1 - (2 if past else 0)], np.int32)
    order += ["last", "total", "cosines", "sines"]
    angles = rng.uniform(0, 3, (past + new + 3, width // 2)).astype(np.float32)
    constants = {"total": np.array(past + new, np.int32)}
    if own.get("do_rotary"):
        constants |= {"cosines": np.cos(angles), "sines": np.sin(angles)}
    else:
        order = order[:7]
    pairs = both(
        "GroupQueryAttention",
        given,
        tmp_path,
        constants,
        outputs=3,
        order=order,
        num_heads=count,
        kv_num_heads=few,
        **own,
    )
    for place, (got, wanted) in enumerate(pairs):
        for row in range(batch):  # the keys behind the last of a sequence are anything
            some = slice(0, given["last"][row] + 1) if place else slice(None)
            one, other = (each[row][..., some, :] for each in (got, wanted))
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_group_query_attention_with_spare_room_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    given = {name: of(rng, 1, 1, 32) for name in ("query", "key", "value")}
    given |= {name: of(rng, 1, 2, 8, 16) for name in ("past_key", "past_value")}
    given["last"] = np.array([4], np.int32)
    proto = one_node(
        "GroupQueryAttention",
        given,
        {"total": np.array(5, np.int32)},
        domain=DOMAIN,
        num_heads=2,
        kv_num_heads=2,
        outputs=3,
    )
    with pytest.raises(Error, match="has 5 keys in all and is given 9"):
        run(proto, given, tmp_path)


@pytest.mark.parametrize("masked", [None, "lengths", "keys", "both"])
@pytest.mark.parametrize("own", [{}, {"unidirectional": 1}, {"scale": 0.3}, {"past": 3}], ids=str)
def test_attention_of_encoders(own: dict[str, Any], masked: str | None, tmp_path):
    rng, own = np.random.default_rng(0), dict(own)
    batch, frames, heads, width, past = 2, 5, 2, 8, own.pop("past", 0)
    given = {"x": of(rng, batch, frames, 12)}
    order = ["x", "w", "b", "", "", ""]
    if masked is not None:
        mask = np.ones((batch, past + frames), np.int32)
        mask[1, -2:] = 0
        mask = np.repeat(mask[:, None], frames, 1) if masked == "both" else mask
        given["mask"] = np.array([past + frames, 3], np.int32) if masked == "lengths" else mask
        order[3] = "mask"
    if past:
        given["past"], order[4] = of(rng, 2, batch, heads, past, width // heads), "past"
    constants = {"w": of(rng, 12, 3 * width), "b": of(rng, 3 * width)}
    more: dict[str, Any] = {"num_heads": heads, "outputs": 1 + bool(past), "order": order, **own}
    check("Attention", given, tmp_path, constants, **more)


@pytest.mark.parametrize("masked", [None, "lengths", "keys", "both", "added"])
@pytest.mark.parametrize("own", [{}, {"unidirectional": 1}, {"scale": 0.3}, {"bias": 1}], ids=str)
def test_multi_head_attention(own: dict[str, Any], masked: str | None, tmp_path):
    rng, own = np.random.default_rng(0), dict(own)
    frames, keys, width = 5, 5 if "unidirectional" in own else 6, 8
    given = {"q": of(rng, 2, frames, width)}
    given |= {one: of(rng, 2, keys, width) for one in "kv"}
    order = ["q", "k", "v", "", "", ""]
    if own.pop("bias", 0):
        given["bias"], order[3] = of(rng, 3 * width), "bias"
    if masked == "added":
        given["added"], order[5] = of(rng, 1, 2, frames, keys), "added"
    elif masked is not None:
        mask = np.ones((2, keys), np.int32)
        mask[1, -2:] = 0
        mask = np.repeat(mask[:, None], frames, 1) if masked == "both" else mask
        given["mask"] = np.array([keys, 3], np.int32) if masked == "lengths" else mask
        order[4] = "mask"
    check("MultiHeadAttention", given, tmp_path, num_heads=2, order=order, **own)


@pytest.mark.parametrize("width", [32, 48, 40])
@pytest.mark.parametrize("kind", [0, 1])
def test_products_by_four_bit_floats(kind: int, width: int, tmp_path):
    rng, rows, block = np.random.default_rng(kind), 6, 16
    blocks = -(-rows * width // block)
    constants: Arrays = {
        "b": rng.integers(0, 256, rows * width // 2).astype(np.uint8),
        "absmax": rng.uniform(0.1, 2, blocks).astype(np.float32),
    }
    own = {"N": rows, "K": width, "block_size": block, "quant_type": kind}
    check("MatMulBnb4", {"x": of(rng, 3, width)}, tmp_path, constants, **own)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("width", [64, 80])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_blocks(bits: int, width: int, zeros: bool, tmp_path):
    rng, rows, block = np.random.default_rng(bits), 7, 16
    blocks = -(-width // block)
    constants: Arrays = {
        "data": rng.integers(0, 256, (rows, width * bits // 8)).astype(np.uint8),
        "scales": rng.uniform(0.1, 1, (rows, blocks)).astype(np.float32),
    }
    order = ["data", "ids", "scales"]
    if zeros:
        size = -(-blocks * bits // 8)
        constants["zeros"] = rng.integers(0, 256, (rows, size)).astype(np.uint8)
        order.append("zeros")
    ids = {"ids": np.array([[0, 3], [6, 2]], np.int64)}
    own = {"block_size": block, "bits": bits, "quantize_axis": 1, "gather_axis": 0}
    check("GatherBlockQuantized", ids, tmp_path, constants, order=order, **own)
