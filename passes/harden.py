"""Give TVM's operators PyTorch's manners where they lack them.

``relax.take`` as imported reads out of bounds for negative or too large indices; wrapping is what
PyTorch does with negative ones, and reads nothing foreign for the others. ``relax.nn.relu`` and
``relax.clip`` turn NaN into a bound; maximum and minimum with the bound first keep it.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import IRModule

from gq_tvm.passes.operators import is_operator
from gq_tvm.passes.rewriter import CallRewriter, ModulePass


@tvm.transform.module_pass(opt_level=0)
class Harden(ModulePass):
    """Replace ``take`` in mode fast, ``relu`` and ``clip``."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return CallRewriter(module, _harden).run()


def _harden(rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
    if is_operator(call, "relax.take") and call.attrs.mode == "fast":
        return relax.op.take(*call.args, axis=call.attrs.axis, mode="wrap")
    if is_operator(call, "relax.nn.relu"):
        return _at_least(0.0, call.args[0])
    if is_operator(call, "relax.clip"):
        x, low, high = call.args
        capped = rewriter.emit(relax.op.minimum(_scalar(high.value, x), x))
        return _at_least(low.value, capped)
    return None


def _at_least(low: float, x: relax.Expr) -> relax.Expr:
    return relax.op.maximum(_scalar(low, x), x)


def _scalar(value: float, like: relax.Expr) -> relax.Expr:
    return relax.const(value, str(like.ty.dtype))
