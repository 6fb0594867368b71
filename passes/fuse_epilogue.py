"""Let a codebook kernel do what stands behind it, on sums that are still in registers.

``relu(codebook_linear(x))`` becomes ``codebook_linear(x, epilogue="relu")`` when nothing else reads
the sum; likewise sigmoid, tanh, gelu, silu (also spelled ``y * sigmoid(y)``), relu6 and what is
made of it, hardsigmoid and hardswish, and the gated linear unit of the two halves of the outputs,
then a constant factor, then one more summand of the same shape, in this order. Convolutions take
the functions of one value. Reshapes between are no hindrance: they touch no value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, isfinite

import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.passes.operators import (
    CONV1D,
    CONV2D,
    CONVOLUTION,
    DEPTHWISE,
    LINEAR,
    attributes,
    is_operator,
    same_shape,
    shape_of,
    with_args,
)
from gq_tvm.passes.relax_tools.dataflow import Users, Values, users, values
from gq_tvm.passes.relax_tools.rewriter import BindingRewriter, ModulePass
from gq_tvm.schedules.epilogue import GLU, Epilogue

_FUNCTIONS = {
    "relax.nn.relu": "relu",
    "relax.sigmoid": "sigmoid",
    "relax.tanh": "tanh",
    "relax.nn.silu": "silu",
    "relax.nn.gelu": "gelu",
}
_SIX = 6.0


@tvm.transform.module_pass(opt_level=0)
class FuseEpilogue(ModulePass):
    """Move activations, factors and residuals into the attribute ``epilogue``."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function, until there is nothing left to move."""
        while True:
            new: Values = {}
            for _gvar, function in module.functions_items():
                if isinstance(function, relax.Function):
                    new |= _fusions(values(function), users(function))
            if not new:
                return module
            module = BindingRewriter(module, new).run()


@dataclass(frozen=True)
class _Step:
    """One thing done to a layer's outputs.

    Attributes:
        of: The variable it is done to.
        readers: Other variables that read that one for it.
        activation: What it is, if an activation.
        scale: A factor, if it is one.
        residual: A summand, if it is one.
    """

    of: relax.Var
    readers: tuple[relax.Var, ...] = ()
    activation: str = ""
    scale: float = 1.0
    residual: relax.Var | None = None

    def behind(self, epilogue: Epilogue) -> Epilogue | None:
        """`epilogue` with this step behind it, or None if a kernel cannot do both."""
        if epilogue.residual or (self.activation and epilogue != Epilogue()):
            return None
        return replace(
            epilogue,
            activation=self.activation or epilogue.activation,
            scale=epilogue.scale * self.scale,
            residual=self.residual is not None,
        )


def _fusions(value_of: Values, users: Users) -> Values:
    """The new values of the variables that become a layer and what is done to its outputs."""
    new: Values = {}
    taken: set[relax.Var] = set()
    for var, value in value_of.items():
        for step in _steps(value, value_of):
            inner = {*step.readers, var}
            if any(not users[one] <= inner for one in (step.of, *step.readers)):
                continue
            kernel = _through_reshapes(step.of, value_of, users)
            fused = _fused(step, kernel, value_of) if kernel not in taken else None
            if fused is not None:
                taken.add(kernel)
                new[var] = fused
                break
    return new


def _steps(value: relax.Expr, value_of: Values) -> Iterator[_Step]:
    """What `value` may be: a step behind one variable or, a sum, behind either."""
    if is_operator(value, *_FUNCTIONS) and isinstance(value.args[0], relax.Var):
        yield _Step(value.args[0], activation=_FUNCTIONS[value.op.name])
    yield from _piecewise_linear(value, value_of)
    if not is_operator(value, "relax.multiply", "relax.add"):
        return
    for one, other in (value.args, reversed(value.args)):
        if not isinstance(one, relax.Var):
            continue
        if is_operator(value, "relax.add"):
            if isinstance(other, relax.Var) and not one.same_as(other):
                yield _Step(one, residual=other)
            continue
        factor = _scalar(other)
        if factor is not None:
            yield _Step(one, scale=factor)
        elif is_operator(value_of.get(other), "relax.sigmoid"):
            gate = value_of[other].args[0]
            if one.same_as(gate):
                yield _Step(one, (other,), activation="silu")
            else:
                yield from _glu(one, gate, other, value_of)


def _piecewise_linear(value: relax.Expr, value_of: Values) -> Iterator[_Step]:
    """relu6, hardsigmoid or hardswish, as far as `value` is one of them."""
    limited = _limited(value, value_of)
    if limited is not None:
        yield _Step(*limited, activation="relu6")
    if not is_operator(value, "relax.divide") or _scalar(value.args[1]) != _SIX:
        return
    opened, product = value.args[0], value_of.get(value.args[0])
    factors = product.args if is_operator(product, "relax.multiply") else [None]
    for i, factor in enumerate(factors):
        gate = opened if factor is None else factors[1 - i]
        found = _limited(value_of.get(gate), value_of)
        if found is None:
            continue
        moved, between = found
        of = _less_three(value_of.get(moved))
        readers = (moved, *between, gate)
        if of is not None and factor is None:
            yield _Step(of, readers, activation="hardsigmoid")
        elif of is not None and of.same_as(factor):
            yield _Step(of, (*readers, opened), activation="hardswish")


def _limited(
    value: relax.Expr | None, value_of: Values
) -> tuple[relax.Var, tuple[relax.Var, ...]] | None:
    """The variable of which `value` is what lies within 0 and 6, and variables between."""
    low, high, between = -inf, inf, []
    while is_operator(value, "relax.clip") and isinstance(value.args[0], relax.Var):
        below, above = (float(one.value) for one in value.args[1:])
        low, high = max(low, below), min(high, above)
        between.append(value.args[0])
        value = value_of.get(value.args[0])
    if (low, high) != (0, _SIX):
        return None
    return between[-1], tuple(between[:-1])


def _less_three(value: relax.Expr | None) -> relax.Var | None:
    """The variable to which `value` adds 3."""
    if is_operator(value, "relax.add"):
        for one, other in (value.args, reversed(value.args)):
            if isinstance(one, relax.Var) and _scalar(other) == _SIX / 2:
                return one
    return None


def _glu(
    linear: relax.Var, gate: relax.Expr, opened: relax.Var, value_of: Values
) -> Iterator[_Step]:
    """`linear` times the sigmoid `opened` of `gate`, if these are halves of one tensor's rows."""
    halves = [_half(value_of.get(one), value_of) for one in (linear, gate)]
    if None in halves:
        return
    (of, first, *others), (of_gate, second, *more) = halves  # type: ignore[misc]
    if of.same_as(of_gate) and (first, second) == (0, 1):
        yield _Step(of, (linear, gate, opened, *others, *more), activation=GLU)


def _half(value: relax.Expr | None, value_of: Values) -> tuple | None:
    """The variable whose last axis `value` is a half of, which half, and variables between."""
    if isinstance(value, relax.TupleGetItem):
        split = value_of.get(value.tuple_value)
        if is_operator(split, "relax.split") and isinstance(split.args[0], relax.Var):
            of, sections = split.args[0], split.attrs.indices_or_sections
            last = int(split.attrs.axis) % of.ty.ndim == of.ty.ndim - 1
            if last and isinstance(sections, int | tvm.tirx.IntImm) and int(sections) == 2:
                return of, int(value.index), value.tuple_value
    if is_operator(value, "relax.strided_slice") and isinstance(value.args[0], relax.Var):
        of, bounds = value.args[0], [_integer(one) for one in value.args[1:]]
        size = shape_of(of)[-1]
        if len(bounds) == 3:
            bounds.append(1)  # strides left out
        if isinstance(size, int) and size % 2 == 0 and bounds[0] in (-1, of.ty.ndim - 1):
            middle = size // 2
            for which, (begin, end) in enumerate(((0, middle), (middle, size))):
                if bounds[1:] == [begin, end, 1]:
                    return of, which
    return None


def _integer(expr: relax.Expr) -> int | None:
    """The integer in a tuple of one."""
    fields = expr.fields if isinstance(expr, relax.Tuple) else []
    return int(fields[0]) if len(fields) == 1 and isinstance(fields[0], tvm.tirx.IntImm) else None


def _scalar(value: relax.Expr) -> float | None:
    """The finite number a constant is, or None."""
    if not isinstance(value, GenericConst) or value.ty.ndim != 0:
        return None
    number = float(value.value.numpy())
    return number if isfinite(number) else None


def _through_reshapes(var: relax.Var, value_of: Values, users: Users) -> relax.Var:
    """The variable `var` is a reshape of, if nothing else reads it."""
    while is_operator(value_of.get(var), "relax.reshape"):
        source = value_of[var].args[0]
        if users.get(source) != {var}:
            break
        var = source
    return var


def _fused(step: _Step, kernel: relax.Var, value_of: Values) -> relax.Expr | None:
    """The layer `kernel` with `step` behind it, in the shape the step's result has."""
    call = value_of.get(kernel)
    if not is_operator(call, LINEAR, CONV1D, CONV2D, DEPTHWISE, CONVOLUTION):
        return None
    epilogue = step.behind(Epilogue.parse(attributes(call)["epilogue"]))
    if epilogue is None or (not is_operator(call, LINEAR) and not _is_function(epilogue)):
        return None
    args, shape = list(call.args), shape_of(step.of)
    if epilogue.glu:
        if shape[-1] != shape_of(kernel)[-1]:
            return None  # halves of something else than the layer's outputs
        shape[-1] //= 2
    residual = step.residual
    if residual is not None:
        if not same_shape(residual, step.of):
            return None  # one of them is broadcast
        reshaped = relax.op.reshape(residual, shape_of(kernel))
        args.append(residual if same_shape(residual, kernel) else reshaped)
    fused = with_args(call, args, epilogue=str(epilogue))
    return fused if same_shape(step.of, kernel) else relax.op.reshape(fused, shape)


def _is_function(epilogue: Epilogue) -> bool:
    """Whether an epilogue is a function of one value and nothing else."""
    return epilogue == Epilogue(epilogue.activation) and not epilogue.glu
