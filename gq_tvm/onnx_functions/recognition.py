"""Functions of a file that are those written here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import onnx
from onnx import AttributeProto, helper, numpy_helper

from gq_tvm.errors import Error
from gq_tvm.onnx_functions import OPERATORS, Signature, function

_SIZED = ("codebook", "scale")  # inputs whose shapes a node states
_LONGEST = 2**24  # of an axis: constants of a function may be as long


def recognised(
    node: onnx.NodeProto, written: onnx.FunctionProto, sizes: Mapping[str, Sequence[int]]
) -> Signature | None:
    """What a node calls, None if its function is not one that we write.

    Args:
        node: A node of our domain.
        written: The function it calls.
        sizes: Of the constants of the file, by name.
    """
    operator = re.sub(r"_\d+$", "", written.name)
    if operator not in OPERATORS or len(written.input) != len(node.input):
        return None
    attributes = {one.name: _value(one) for one in node.attribute}
    named = dict(zip(written.input, node.input, strict=True))
    if not all(
        tuple(sizes.get(named[name], ())) == attributes.get(f"{name}_shape")
        for name in named
        if name.startswith(_SIZED)
    ):
        return None
    for name in (one for one in named if one.startswith("indices")):
        shape, packed = attributes.get(f"{name}_shape"), sizes.get(named[name], ())
        codebook = attributes.get(f"{name.replace('indices', 'codebook')}_shape")
        if not shape or not codebook or len(packed) != 1:
            return None
        bits, count = (codebook[-1] - 1).bit_length(), prod(shape)
        if min(shape) < 1 or packed[0] != -(-count // 8) * bits:
            return None
        if max(shape[0], count // shape[0]) > _LONGEST:
            return None
    signature = Signature(operator, tuple(written.input), attributes)
    version = next((one.version for one in written.opset_import if not one.domain), 0)
    try:
        ours = function(signature, written.name, version)
    except (Error, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None  # of attributes that say what cannot be
    return signature if _plain(ours) == _plain(written) else None


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return tuple(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def _plain(written: onnx.FunctionProto) -> Any:
    """What a function computes, however it is stored."""
    nodes = [_plain_node(one) for one in written.node]
    return list(written.input), list(written.output), sorted(written.attribute), nodes


def _plain_node(node: onnx.NodeProto) -> Any:
    attributes = {one.name: _plain_attribute(one) for one in node.attribute}
    return node.domain, node.op_type, list(node.input), list(node.output), attributes


def _plain_attribute(attribute: onnx.AttributeProto) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        array = numpy_helper.to_array(attribute.t)
        return array.dtype.str, array.shape, array.tobytes()
    if attribute.type == AttributeProto.GRAPH:
        graph = attribute.g
        ends = [[one.name for one in each] for each in (graph.input, graph.output)]
        return ends, len(graph.initializer), [_plain_node(one) for one in graph.node]
    value = _value(attribute)
    return attribute.type, attribute.ref_attr_name, value
