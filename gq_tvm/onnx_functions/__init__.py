"""The operators of ``torch.ops.gq`` as functions of ONNX: nodes that any runtime has, under a name.

A file holds each function once for all layers alike, and nodes in our domain call them; whoever
reads it can put the nodes in their place (``onnx.inliner``). What a node calls is known again by
writing the function anew: it is ours if it is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import helper

from gq_tvm.onnx_functions import layers, recurrent
from gq_tvm.onnx_functions.body import Body
from gq_tvm.onnx_functions.packing import pack, unpack
from gq_tvm.onnx_functions.signature import INPUTS, STATE, Signature
from gq_tvm.ops.checks_recurrent import LAYERS

__all__ = [
    "DOMAIN",
    "INPUTS",
    "OPERATORS",
    "OUTPUTS",
    "STATE",
    "Signature",
    "function",
    "pack",
    "unpack",
]

DOMAIN = "gq_tvm"

#: How each operator is written.
OPERATORS: dict[str, Callable[[Body, Signature], list[str]]] = {
    "codebook_linear": layers.linear,
    "codebook_conv1d": layers.convolution,
    "codebook_conv2d": layers.convolution,
    "codebook_embedding": layers.embedding,
    **{f"codebook_{name}": recurrent.codebook(name) for name in LAYERS},
    "recurrent": recurrent.recurrent,
}

OUTPUTS = ("y", "h", "c")


def function(signature: Signature, name: str, opset: int) -> onnx.FunctionProto:
    """Write an operator as a function.

    Args:
        signature: The operator as it is called.
        name: Of the function.
        opset: Of ONNX's own domain, from 18 on.
    """
    body = Body()
    results = OPERATORS[signature.operator](body, signature)
    outputs = OUTPUTS[: len(results)]
    for value, output in zip(results, outputs, strict=True):
        body.named(value, output)
    return helper.make_function(
        DOMAIN,
        name,
        signature.inputs,
        outputs,
        body.nodes,
        [helper.make_opsetid("", opset)],
        sorted(signature.attributes),
    )
