"""Lay every codebook weight out for its kernel, and make the result a parameter.

The constants ``indices``, ``codebook`` and ``bias`` leave the module here: what the kernels read
are named arguments of the function, kept once however many layers or functions use them in one
layout. Layers whose kernels want different layouts each have their own: the weight of an embedding
tied to a linear layer is there twice, row after row for the look-up and in tiles for the product.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.errors import Error
from gq_tvm.passes.operators import (
    DEPTHWISE,
    RECURRENT_LAYERS,
    WEIGHTS,
    attributes,
    behind_weights,
    form_of,
    is_operator,
    packed,
    part_name,
    weight_of,
)
from gq_tvm.passes.parameters import Parameters
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass
from gq_tvm.plan.plan import Layer, Use
from gq_tvm.schedules import Choice, Product
from gq_tvm.schedules.cpu import depthwise
from gq_tvm.schedules.scalar import direct


@tvm.transform.module_pass(opt_level=0)
class PackWeights(ModulePass):
    """Turn codebook operators into ``relax.gq.packed``, their weights into parameters.

    Raises:
        Error: a weight is not all constants, or makes no weight.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return CallRewriter(module, self._pack).run()

    def _pack(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, *WEIGHTS):
            return None
        at, places = attributes(call), WEIGHTS[call.op.name]
        choices = self.parameters.choices.get(at.get("choice", ""), {})
        weights = [self._weight(call, at, part, choices.get(part)) for part in places]
        names = [name for weight in weights for name in weight.parameters]
        behind = behind_weights(call)
        recurrent = RECURRENT_LAYERS.get(call.op.name)
        biases = [f"bias{end}" for end in (recurrent.biases if recurrent else ("",))]
        arguments = call.args[behind : behind + len(biases)]
        for name, part, bias in zip(biases, places, arguments, strict=False):
            array = _bias(choices.get(part), _constant(bias, at["layer"]))
            names.append(self.parameters.add(f"{at['layer']}.{name}", array))
        last = call.args[behind + len(biases) :]  # a residual, or lengths
        inputs, arrays = call.args[: min(places.values())], self.parameters.arrays
        arguments = [rewriter.parameter(n, arrays[n].shape, str(arrays[n].dtype)) for n in names]
        attrs = {
            **at,
            "kind": _kind(call),
            "shape": weights[0].shape,
            "packed": len(self.parameters.packed),
            "more": len(last),
            **form_of(call, next(iter(places))),
        }
        self.parameters.packed.append(tuple(weights))
        return packed([*inputs, *arguments, *last], call.ty, attrs)

    def _weight(
        self, call: relax.Call, at: dict[str, Any], part: str, choice: Choice | None
    ) -> Layer:
        """Lay out the weight of a part of `WEIGHTS`."""
        name = part_name(at["layer"], part)
        weight = weight_of(call, part)
        if weight is None:
            raise _computed(name)
        weight.check(f"layer {name}", ndim=weight.indices.ndim)
        try:
            if choice is None:
                kernel_of = depthwise if is_operator(call, DEPTHWISE) else direct
                kernel, operands = kernel_of.NAME, kernel_of.pack(weight)
            else:
                kernel, operands = choice.family.name, choice.family.pack(choice, weight)
        except Error as refusal:
            raise Error(f"layer {name}: {refusal}") from None
        names = [self.parameters.add(f"{name}.{key}", operands[key]) for key in operands]
        return Layer(
            name=name,
            kind="conv1d" if is_operator(call, DEPTHWISE) else _kind(call),
            shape=tuple(map(int, weight.indices.shape)),
            bits=weight.bits,
            activation=choice.arithmetic if choice else at.get("activation", "fp32"),
            kernel=kernel,
            schedule=str(choice.schedule) if choice else "",
            origin=choice.origin if choice else "",
            parameters=tuple(names),
            use=_use(choice.product) if choice else None,
        )


def _use(product: Product) -> Use:
    return Use(*(getattr(product, one.name) for one in fields(Use)))


def _bias(choice: Choice | None, bias: NDArray) -> NDArray[np.float32]:
    """Lay a bias out as the kernel of its weight reads it."""
    return bias.astype(np.float32) if choice is None else choice.family.pack_bias(choice, bias)


def _kind(call: relax.Call) -> str:
    """What the operator of a call is called behind ``codebook_``."""
    return str(call.op.name).removeprefix("relax.gq.codebook_")


def _constant(expr: relax.Expr, layer: str) -> NDArray[Any]:
    if not isinstance(expr, GenericConst):
        raise _computed(layer)
    return np.asarray(expr.value.numpy())


def _computed(layer: str) -> Error:
    return Error(
        f"layer {layer}: its weight is computed while the model runs; export indices, codebook, "
        "scale and bias as buffers or parameters"
    )
