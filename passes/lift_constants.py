"""Turn the tensor constants left in a module (layer norms, float weights) into parameters.

So nothing of the model's data lies in the machine code, and everything is in one file that is
mapped, not read.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.passes.parameters import Parameters
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass


@tvm.transform.module_pass(opt_level=0)
class LiftConstants(ModulePass):
    """Replace every constant with at least one axis by a parameter of its function.

    A constant is called as the model calls it; one that was computed, ``constant``.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return CallRewriter(module, constant=self._lift).run()

    def _lift(self, rewriter: CallRewriter, constant: GenericConst) -> relax.Expr | None:
        array = constant.value.numpy()
        if array.ndim == 0:
            return None
        name = self.parameters.add(self.parameters.name_of(constant, "constant"), array)
        return rewriter.parameter(name, array.shape, str(array.dtype))
