"""Split an LSTM layer in two: one product over all frames, then the recurrence.

The input part ``x W_ih^T + bias`` of every step is known at once, so it is one matrix product; only
``h W_hh^T`` has to wait for the step before.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import IRModule

from gq_tvm.passes.operators import (
    LSTM,
    attributes,
    codebook_linear,
    codebook_recurrence,
    is_operator,
)
from gq_tvm.passes.rewriter import CallRewriter, ModulePass


@tvm.transform.module_pass(opt_level=0)
class ExpandLSTM(ModulePass):
    """codebook_lstm becomes codebook_linear (layer ``.ih``) and codebook_recurrence (``.hh``)."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return CallRewriter(module, _expand).run()


def _expand(rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
    if not is_operator(call, LSTM):
        return None
    at = attributes(call)
    x, h0, c0, indices_ih, codebook_ih, indices_hh, codebook_hh, bias = call.args
    gates = codebook_linear(
        x,
        indices_ih,
        codebook_ih,
        bias,
        bits=at["bits_ih"],
        activation=at["activation"],
        layer=f"{at['layer']}.ih",
    )
    return codebook_recurrence(
        [rewriter.emit(gates), h0, c0, indices_hh, codebook_hh],
        bits=at["bits_hh"],
        activation=at["activation"],
        layer=f"{at['layer']}.hh",
    )
