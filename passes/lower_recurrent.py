"""Recurrent layers in float become calls of their kernels, their weights parameters."""

from __future__ import annotations

from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.errors import Error
from gq_tvm.ops.checks_recurrent import CELLS
from gq_tvm.passes.operators import RECURRENT, attributes, is_operator, known, shape_of
from gq_tvm.passes.parameters import Parameters
from gq_tvm.passes.relax_tools.kernels import Kernels
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass
from gq_tvm.schedules import Frames
from gq_tvm.schedules.choosing.threads import large_enough
from gq_tvm.schedules.cpu.float_ops.recurrent import FloatRecurrent
from gq_tvm.targets import Target


@tvm.transform.module_pass(opt_level=0)
class LowerRecurrent(ModulePass):
    """Replace every ``relax.gq.recurrent``.

    Raises:
        Error: a weight is no constant.
    """

    def __init__(self, target: Target, parameters: Parameters, parallel: bool = False) -> None:
        self.target = target
        self.parameters = parameters
        self.parallel = parallel
        self._kernels = Kernels()

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        self._kernels = Kernels()
        return CallRewriter(module, self._lower).run()

    def _lower(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, RECURRENT):
            return None
        at = attributes(call)
        states = CELLS[at["cell"]].states
        inputs, given = call.args[: 1 + states], call.args[1 + states :]
        count = 4 + at["projection"]
        weights: list[Any] = [_constant(one, at["layer"]) for one in given[:count]]
        weights += [None] * (5 - count)
        lengths = given[count:]
        projection = weights[4]
        of = FloatRecurrent(
            self.target,
            at["cell"],
            width=weights[0].shape[1],
            hidden=len(weights[0]) // CELLS[at["cell"]].gates,
            projected=0 if projection is None else len(projection),
            frames=Frames(known(shape_of(call.args[0])[1]), bool(at["reverse"]), bool(lengths)),
            functions=at["functions"],
            clip=at["clip"],
        )
        parallel = self.parallel and large_enough(self.target, weights[1].size, "fp32")
        kernel = self._kernels.get(rewriter, ("recurrent", of), lambda: of.kernel(parallel))
        operands = []
        for name, array in of.operands(*weights).items():
            kept = self.parameters.add(f"{at['layer']}.{name}", array)
            operands.append(rewriter.parameter(kept, array.shape, str(array.dtype)))
        out = [relax.TensorType(list(one.shape), "float32") for one in call.ty.fields]
        arguments = relax.Tuple([*inputs, *operands, *lengths])
        return rewriter.emit(relax.call_tir(kernel, arguments, out))


def _constant(expr: relax.Expr, layer: str) -> NDArray[Any]:
    if not isinstance(expr, GenericConst):
        raise Error(
            f"layer {layer}: a weight of it is computed while the model runs; export it as a "
            "parameter or buffer"
        )
    return expr.value.numpy()
