"""A graph that ONNX Runtime computes on every CPU as this front end means it.

On x86 without VNNI it multiplies unsigned activations by signed weights in pairs whose sum
saturates at 16 bits (its documentation, "Quantize ONNX models", on U8S8); by unsigned weights it
does not. A weight and its zero point both raised by 128 mean the same product.

DynamicQuantizeLSTM rounds all its inputs, and in each step the states of all sequences, to one grid
of 8 bits; the codebook LSTM that it becomes here does not. It is compared as an LSTM of the weights
that its bytes stand for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_UINT8, _INT8, _INT32 = 2, 3, 6  # TensorProto.DataType
#: By operator: where its activations are, and each weight with its zero point.
_OPERANDS = {
    "MatMulInteger": (0, ((1, 3),)),
    "ConvInteger": (0, ((1, 3),)),
    "QLinearMatMul": (0, ((3, 5),)),
    "QLinearConv": (0, ((3, 5),)),
    "DynamicQuantizeMatMul": (None, ((1, 3),)),
    "MatMulIntegerToFloat": (0, ((1, 5),)),
}
_LSTM = "DynamicQuantizeLSTM"
_LSTM_INPUTS = 8  # those of LSTM; scales and zero points are behind them


def to_exact(model: Any) -> bool:
    """Rewrite a model, in place.

    Args:
        model: A ModelProto, its data in it.

    Returns:
        Whether there was something to rewrite.
    """
    dequantised = [_dequantised(model.graph, node) for node in _of(model.graph, _LSTM)]
    return _with_unsigned_weights(model) or any(dequantised)


def rewritten(graph: Any) -> bool:
    """Whether a graph has nodes that ``to_exact`` looks at."""
    return any(node.op_type in (*_OPERANDS, _LSTM) for node in graph.node)


def _of(graph: Any, operator: str) -> list[Any]:
    return [node for node in graph.node if node.op_type == operator]


def _dequantised(graph: Any, node: Any) -> bool:
    """Make an LSTM of a DynamicQuantizeLSTM whose weights are constants."""
    from onnx import numpy_helper

    constants = {one.name: one for one in graph.initializer}
    given = [*node.input, *[""] * 12]
    weights = []
    for at, scale, zero in ((1, 8, 9), (2, 10, 11)):
        names = [given[one] for one in (at, scale, zero)]
        if any(name not in constants for name in names):
            return False
        arrays = [numpy_helper.to_array(constants[name]) for name in names]
        weights.append(_floats(*arrays))
    for at, weight in zip((1, 2), weights, strict=True):
        name = f"{given[at]}/float"
        if name not in constants:
            graph.initializer.append(numpy_helper.from_array(weight, name))
        node.input[at] = name
    del node.input[_LSTM_INPUTS:]
    node.op_type, node.domain = "LSTM", ""
    return True


def _floats(codes: NDArray, scale: NDArray, zero: NDArray) -> NDArray[np.float32]:
    """A weight [directions, K, 4 H] as LSTM takes it, [directions, 4 H, K]."""
    each = [one.astype(np.float32).reshape(codes.shape[0], 1, -1) for one in (scale, zero)]
    floats = (codes.astype(np.float32) - each[1]) * each[0]
    return np.ascontiguousarray(floats.transpose(0, 2, 1))


def _with_unsigned_weights(model: Any) -> bool:
    """Raise the signed weights of a model's products of integers; whether there are any."""
    import onnx

    types = _types(onnx.shape_inference.infer_shapes(model).graph)
    changed = False
    for node in list(model.graph.node):
        if node.op_type not in _OPERANDS:
            continue
        activations, weights = _OPERANDS[node.op_type]
        if activations is not None and types.get(node.input[activations], _UINT8) != _UINT8:
            continue
        for at, zero in weights:
            if types.get(node.input[at]) != _INT8:
                continue
            node.input.extend([""] * (zero + 1 - len(node.input)))
            for place in (at, zero):
                node.input[place] = _raised(model.graph, node, node.input[place])
            changed = True
    return changed


def _types(graph: Any) -> dict[str, int]:
    known = {one.name: one.data_type for one in graph.initializer}
    for one in (*graph.input, *graph.value_info):
        known[one.name] = one.type.tensor_type.elem_type
    return known


def _raised(graph: Any, node: Any, name: str) -> str:
    """What is 128 more than an int8 value, or than none, as uint8; computed before a node."""
    from onnx import helper

    new = f"{name or node.output[0]}/unsigned"
    if any(new in one.output for one in graph.node) or any(
        new == one.name for one in graph.initializer
    ):
        return new
    if not name:
        graph.initializer.append(helper.make_tensor(new, _UINT8, [], [128]))
        return new
    half = f"{new}/128"
    graph.initializer.append(helper.make_tensor(half, _INT32, [], [128]))
    made = [
        helper.make_node("Cast", [name], [f"{new}/wide"], to=_INT32),
        helper.make_node("Add", [f"{new}/wide", half], [f"{new}/sum"]),
        helper.make_node("Cast", [f"{new}/sum"], [new], to=_UINT8),
    ]
    at = next(place for place, one in enumerate(graph.node) if one is node)
    for one in reversed(made):
        graph.node.insert(at, one)
    return new
