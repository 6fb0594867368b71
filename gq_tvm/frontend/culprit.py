"""Which operator of a model it is that TVM cannot compile: each is tried alone.

TVM's own account names a check of its source code. The operator that fails in the same words by
itself is the one, and `importer.Importer.places` knows where in the user's model it stands.
"""

from __future__ import annotations

from collections.abc import Iterator

import tvm
from torch import fx
from tvm import relax

from gq_tvm.frontend.importer import reason
from gq_tvm.frontend.places import place_of
from gq_tvm.frontend.reading.program import Translated
from gq_tvm.passes.operators import WEIGHTS


def find(translated: Translated, failure: Exception, target: tvm.target.Target) -> str:
    """The place of the first operator that fails as the whole did, "" if none does.

    Args:
        translated: What did not compile.
        failure: What TVM said of the whole.
        target: What it was compiled for.
    """
    tried = set()
    for name, places in translated.places.items():
        for call, node in _calls(translated.module[name], places):
            function = _alone(call)
            if str(function) in tried:
                continue
            tried.add(str(function))
            try:
                with target:
                    relax.build(tvm.IRModule({"main": function}), target)
            except Exception as own:
                if reason(own) == reason(failure):
                    return place_of(node)
    return ""


def _calls(
    function: relax.Function, places: dict[str, fx.Node]
) -> Iterator[tuple[relax.Call, fx.Node]]:
    """The calls of TVM's operators, and the nodes they come from."""
    found: list[relax.Call] = []
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            operator = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)
            if operator and value.op.name not in WEIGHTS:
                found.append(value)
            if binding.var.name in places:  # the last of the calls its node became
                yield from ((call, places[binding.var.name]) for call in found)
                found = []


def _alone(call: relax.Call) -> relax.Function:
    """A function of a call and nothing else; tensors are its parameters."""
    parameters: dict[int, relax.Var] = {}

    def parameter(value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.Tuple):
            return relax.Tuple([parameter(one) for one in value.fields])
        if not isinstance(value.ty, relax.TensorType):
            return value
        number = len(parameters)
        parameters[number] = relax.Var(f"x{number}", value.ty)
        return parameters[number]

    alone = relax.Call(call.op, [parameter(one) for one in call.args], call.attrs, call.ty_args)
    builder = relax.BlockBuilder()
    with builder.function("main", list(parameters.values())):
        builder.emit_func_output(builder.emit(alone))
    return builder.get()["main"]
