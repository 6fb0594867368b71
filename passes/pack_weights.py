"""Lay every codebook weight out for its kernel, and make the result a parameter.

The constants ``indices``, ``codebook`` and ``bias`` leave the module here: what the kernels read
are named arguments of the function, kept once however many layers or functions use them in one
layout. Layers whose kernels want different layouts each have their own: the weight of an embedding
tied to a linear layer is there twice, row after row for the look-up and in tiles for the product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.errors import Error
from gq_tvm.passes.operators import (
    DEPTHWISE,
    INPUTS,
    LINEAR,
    RESIDUAL,
    attributes,
    is_operator,
    packed,
)
from gq_tvm.passes.parameters import Layer, Parameters
from gq_tvm.passes.products import product_of
from gq_tvm.passes.rewriter import CallRewriter, ModulePass
from gq_tvm.schedules import Schedule, depthwise, direct, family
from gq_tvm.targets import Target


@tvm.transform.module_pass(opt_level=0)
class PackWeights(ModulePass):
    """Turn codebook operators into ``relax.gq.packed``, their weights into parameters.

    Raises:
        Error: indices or codebook are not constants, or do not fit each other.
    """

    def __init__(self, target: Target, parameters: Parameters) -> None:
        self.target = target
        self.parameters = parameters

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return CallRewriter(module, self._pack).run()

    def _pack(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, *INPUTS):
            return None
        at = attributes(call)
        split = INPUTS[call.op.name]
        inputs, weights = list(call.args[:split]), call.args[split:]
        residual: list[relax.Expr] = []
        if is_operator(call, LINEAR):
            weights, residual = call.args[split:RESIDUAL], list(call.args[RESIDUAL:])
        indices, codebook, *bias = (_constant(one, at["layer"]) for one in weights)
        check_indices(at["layer"], indices, codebook, at["bits"])
        operands = self._operands(call, at, indices, codebook)
        layer = self._record(call, at, indices, operands)
        names = list(layer.parameters)
        if bias:
            name = self.parameters.add(f"{layer.name}.bias", self._bias(call, at, bias[0]))
            names.append(name)
        attrs = {**at, "kind": _kind(call), "shape": list(indices.shape)}
        arrays = self.parameters.arrays
        arguments = [rewriter.parameter(n, arrays[n].shape, str(arrays[n].dtype)) for n in names]
        return packed([*inputs, *arguments, *residual], call.ty, attrs)

    def _operands(
        self, call: relax.Call, at: dict[str, Any], indices: NDArray, codebook: NDArray
    ) -> dict[str, NDArray]:
        product = product_of(call)
        if is_operator(call, DEPTHWISE):
            return depthwise.pack(indices, codebook, at["bits"])
        if product is None:
            return direct.pack(indices, codebook, at["bits"])
        try:
            schedule = Schedule.parse(at["schedule"])
            return family(at["kernel"]).pack(self.target, product, schedule, indices, codebook)
        except Error as refusal:
            raise Error(f"layer {at['layer']}: {refusal}") from None

    def _bias(self, call: relax.Call, at: dict[str, Any], bias: NDArray) -> NDArray[np.float32]:
        product = product_of(call)
        bias = bias.astype(np.float32)
        if product is None:
            return bias
        schedule = Schedule.parse(at["schedule"])
        return family(at["kernel"]).pack_bias(self.target, product, schedule, bias)

    def _record(
        self,
        call: relax.Call,
        at: dict[str, Any],
        indices: NDArray,
        operands: dict[str, NDArray],
    ) -> Layer:
        depthwise_layer = is_operator(call, DEPTHWISE)
        names = [self.parameters.add(f"{at['layer']}.{key}", operands[key]) for key in operands]
        owner = next(
            (one.name for one in self.parameters.layers if one.parameters[0] == names[0]), None
        )
        layer = Layer(
            name=at["layer"],
            kind="conv1d" if depthwise_layer else _kind(call),
            shape=list(indices.shape),
            bits=at["bits"],
            activation=at.get("activation", "fp32"),
            kernel=at.get("kernel") or (depthwise if depthwise_layer else direct).NAME,
            schedule=at.get("schedule", ""),
            parameters=names,
            bytes=sum(array.nbytes for array in operands.values()),
            tied_to=owner if owner != at["layer"] else None,
        )
        if layer not in self.parameters.layers:
            self.parameters.layers.append(layer)
        return layer


def _kind(call: relax.Call) -> str:
    """What the operator of a call is called behind ``codebook_``."""
    return str(call.op.name).removeprefix("relax.gq.codebook_")


def check_indices(layer: str, indices: NDArray, codebook: NDArray, bits: int) -> None:
    """Refuse indices (u8) that a codebook (f32 [1 or N, 2^bits]) does not cover."""
    if codebook.ndim != 2 or codebook.shape[1] != 2**bits:
        raise Error(
            f"layer {layer}: a {bits}-bit codebook has shape [1 or rows, {2**bits}], this one has "
            f"{list(codebook.shape)}; convert the model again"
        )
    if codebook.shape[0] not in (1, indices.shape[0]):
        raise Error(
            f"layer {layer}: {codebook.shape[0]} codebook rows do not fit {indices.shape[0]} "
            "rows of weights; convert the model again"
        )
    largest = int(indices.max(initial=0))
    if largest >= 2**bits:
        raise Error(
            f"layer {layer}: index {largest} is beyond its {2**bits} centroids ({bits} bits); "
            "convert the model again"
        )


def _constant(expr: relax.Expr, layer: str) -> NDArray[Any]:
    if not isinstance(expr, GenericConst):
        raise Error(
            f"layer {layer}: its weight is computed while the model runs; export indices, codebook "
            "and bias as buffers or parameters"
        )
    return np.asarray(expr.value.numpy())
