"""From lowered functions to a plan.

By then a function is a list of kernel calls and reshapes: all that is left to say is what memory
each result may use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import GenericConst, IRModule, prim

from gq_tvm.errors import Error
from gq_tvm.passes.operators import is_operator
from gq_tvm.passes.relax_tools.rewriter import inputs_of
from gq_tvm.plan.plan import Call, Function, Layer, Operand, Value
from gq_tvm.plan.size import Named, Shape, Size, computed

# Binary operations, with the places of their operands where they stand in another order.
_OPERATIONS = (
    (prim.Add, "add"),
    (prim.Sub, "sub"),
    (prim.Mul, "mul"),
    (prim.FloorDiv, "div"),
    (prim.FloorMod, "mod"),
    (prim.Min, "min"),
    (prim.Max, "max"),
    (prim.LT, "lt"),
    (prim.EQ, "eq"),
)
_PACKED = ("tirx.tvm_call_packed", "tirx.tvm_call_cpacked")
_TURNED = ((prim.GT, "lt"),)  # of the operands in the other order
_INVERSE = ((prim.GE, "lt", False), (prim.LE, "lt", True), (prim.NE, "eq", False))


def kernels(module: IRModule) -> IRModule:
    """The kernels of a lowered module, each with its name as a symbol."""
    found = {
        name.name_hint: function.with_attr("global_symbol", name.name_hint)
        for name, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
    }
    return IRModule(found)


def runtime_functions(kernels: IRModule) -> tuple[str, ...]:
    """The functions of TVM's runtime that kernels call, which only it has."""
    found: dict[str, None] = {}

    def visit(call: Any, visitor: Any) -> None:
        if getattr(call.op, "name", "") in _PACKED:
            found[str(call.args[0].value)] = None
        visitor.default_visit(call)

    for function in kernels.functions.values():
        tvm_ffi.structural_visit(function.body, [(tvm.ir.Call, visit)])
    return tuple(found)


def functions(
    module: IRModule,
    names: Sequence[str],
    weights: Mapping[str, int],
    layers: Mapping[str, Sequence[tuple[str, tuple[Layer, ...]]]],
) -> dict[str, Function]:
    """Describe functions.

    Args:
        module: What `passes.lower` made.
        names: Of the functions.
        weights: Where each parameter lies in the file of the weights, in bytes.
        layers: By kernel: the layers it computes, their names and their weights.

    Raises:
        Error: a function does what no plan can say.
    """
    left = {kernel: list(uses) for kernel, uses in layers.items()}
    return {name: _Describer(name, module[name], weights, left).function() for name in names}


class _Describer:
    """Describes a function."""

    def __init__(
        self,
        name: str,
        function: relax.Function,
        weights: Mapping[str, int],
        layers: Mapping[str, list[tuple[str, tuple[Layer, ...]]]],
    ) -> None:
        self._name = name
        self._layers = layers
        self._values: list[Value] = []
        self._of: dict[Any, Any] = {}  # by variable: the number of its value, or those of a tuple
        self._calls: list[Call] = []
        self._sizes: dict[Any, Named] = {}
        self._analyzer = tvm.sym.Analyzer()
        inputs = inputs_of(function)
        self._tell_sizes(inputs, function.attrs or {})
        for number, var in enumerate(inputs):
            self._of[var] = self._add("input", var.ty, number, var.name)
        for var in list(function.params)[len(inputs) :]:
            self._of[var] = self._add("weight", var.ty, weights[var.name], var.name)
        body = function.body
        if not isinstance(body, relax.SeqExpr):
            raise self._refusal("is no sequence of calls")
        for block in body.blocks:
            for binding in block.bindings:
                self._of[binding.var] = self._taken(binding)
        returned = self._resolve(body.body)
        self._single = not isinstance(returned, list)
        self._returned = returned if isinstance(returned, list) else [returned]

    def function(self) -> Function:
        """The function, its results placed in memory."""
        made = Function(
            self._name,
            tuple(self._values),
            tuple(self._returned),
            tuple(self._calls),
            0,
            self._single,
        )
        return placed(made)

    def _refusal(self, what: str) -> Error:
        return Error(f"function {self._name} {what}, which no plan of calls can say")

    def _tell_sizes(self, inputs: Sequence[relax.Var], attrs: Mapping[str, Any]) -> None:
        """Note which sizes axes of inputs tell."""
        lower, upper = (attrs.get(f"tir_var_{end}_bound", {}) for end in ("lower", "upper"))
        for number, var in enumerate(inputs):
            for axis, size in enumerate(self._type(var.ty).shape):
                if not isinstance(size, tirx.Var) or size in self._sizes:
                    continue
                name = str(size)
                most = int(upper[name]) if name in upper else None
                least = int(lower[name]) if name in lower else 0
                taken = {one.name for one in self._sizes.values()}
                self._sizes[size] = Named(_free(name, taken), number, axis, least, most)

    def _type(self, ty: Any) -> relax.TensorType:
        if not isinstance(ty, relax.TensorType) or ty.shape is None:
            raise self._refusal(f"handles {ty}")
        return ty

    def _add(self, kind: str, ty: Any, where: int = 0, name: str = "", data: bytes = b"") -> int:
        shape = self._shape(self._type(ty).shape)
        self._values.append(Value(kind, str(ty.dtype), shape, where, name, data))
        return len(self._values) - 1

    def _taken(self, binding: Any) -> Any:
        """The value or values that a binding makes."""
        value = binding.value
        if isinstance(binding, relax.MatchCast):
            source = self._resolve(value)
            wanted = self._shape(self._type(binding.var.ty).shape)
            same = self._values[source].shape == wanted
            return source if same else self._add("view", binding.var.ty, source)
        if isinstance(value, relax.Call) and is_operator(value, "relax.call_tir"):
            return self._call(value)
        if isinstance(value, relax.Call) and is_operator(value, "relax.reshape"):
            return self._add("view", binding.var.ty, self._resolve(value.args[0]))
        if isinstance(value, relax.Call):
            what = value.op.name if isinstance(value.op, tvm.ir.Op) else str(value.op)
            raise self._refusal(f"uses {what}")
        return self._resolve(value)

    def _call(self, call: relax.Call) -> Any:
        kernel, given = call.args[:2]
        fields = given.fields if isinstance(given, relax.Tuple) else [given]
        made = call.ty_args[0]
        several = isinstance(made, relax.TupleType)
        arguments: list[Operand | Size] = [
            Operand(self._resolve(one)) if isinstance(one.ty, relax.TensorType) else self._size(one)
            for one in fields
        ]
        results = [self._add("temporary", ty) for ty in (made.fields if several else [made])]
        sizes = list(call.args[2].values) if len(call.args) > 2 else []
        arguments += [Operand(number, True) for number in results]
        arguments += map(self._size, sizes)
        symbol = kernel.name_hint
        self._calls.append(Call(symbol, tuple(arguments), *self._layer(symbol, arguments)))
        return results if several else results[0]

    def _layer(
        self, kernel: str, arguments: Sequence[Operand | Size]
    ) -> tuple[str, tuple[Layer, ...]]:
        """The layer that a call computes and its weights, of those its kernel computes."""
        read = {self._values[one.value].name for one in arguments if isinstance(one, Operand)}
        computed = self._layers.get(kernel, [])
        fitting = [one for one in computed if all(read.issuperset(w.parameters) for w in one[1])]
        if not fitting:
            return "", ()
        if len(fitting) > 1:  # of layers that share a weight, in the order they are called
            computed.remove(fitting[0])
        return fitting[0]

    def _resolve(self, expr: Any) -> Any:
        """The value an expression is, or the list of those it holds."""
        if isinstance(expr, relax.Tuple):
            return [self._resolve(one) for one in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self._resolve(expr.tuple_value)[int(expr.index)]
        if isinstance(expr, GenericConst):
            return self._add("constant", expr.ty, data=expr.value.numpy().tobytes())
        if isinstance(expr, relax.Var) and expr in self._of:
            return self._of[expr]
        raise self._refusal(f"holds a {type(expr).__name__}")

    # --- sizes ---------------------------------------------------------------------------------

    def _shape(self, sizes: Sequence[Any]) -> Shape:
        return tuple(map(self._size, sizes))

    def _size(self, size: Any) -> Size:
        simple = size if isinstance(size, int) else self._analyzer.simplify(size)
        return self._term(simple)

    def _term(self, size: Any) -> Size:
        if isinstance(size, int | prim.IntImm):
            return int(size)
        if size in self._sizes:
            return self._sizes[size]
        if isinstance(size, prim.Cast):
            return self._term(size.value)
        for kind, name in _OPERATIONS:
            if isinstance(size, kind):
                return computed(name, self._term(size.a), self._term(size.b))
        for kind, name in _TURNED:
            if isinstance(size, kind):
                return computed(name, self._term(size.b), self._term(size.a))
        for kind, name, turned in _INVERSE:
            if isinstance(size, kind):
                a, b = (size.b, size.a) if turned else (size.a, size.b)
                return computed("select", computed(name, self._term(a), self._term(b)), 0, 1)
        if isinstance(size, prim.Select):
            parts = size.condition, size.true_value, size.false_value
            return computed("select", *map(self._term, parts))
        if isinstance(size, tvm.ir.Call) and size.op.name == "prim.if_then_else":
            return computed("select", *map(self._term, size.args))
        raise self._refusal(f"has the size {size}")


def placed(function: Function) -> Function:
    """Give every result of a kernel a slot; one whose last reader is done is used again.

    Of the free slots the smallest that is large enough, or else the largest, which then grows.
    """
    values = list(function.values)
    for number in map(function.root, function.returned):
        if values[number].kind == "temporary":
            values[number] = replace(values[number], kind="output")  # it outlives the call
    last_use = {
        function.root(one.value): step
        for step, call in enumerate(function.calls)
        for one in call.arguments
        if isinstance(one, Operand)
    }
    free: list[int] = []
    held: list[
        dict[tuple[str, ...], int]
    ] = []  # by slot: the most bytes, by the sizes they are times
    busy: dict[int, int] = {}
    for step, call in enumerate(function.calls):
        for one in call.arguments:
            if not isinstance(one, Operand) or not one.written:
                continue
            value = values[one.value]
            if value.kind != "temporary":
                continue
            size, times = _size_of(value)
            if free:
                slot = _fitting([(held[slot].get(times, 0), slot) for slot in free], size)
                free.remove(slot)
            else:
                slot = len(held)
                held.append({})
            held[slot][times] = max(held[slot].get(times, 0), size)
            values[one.value] = replace(value, where=slot)
            busy[one.value] = slot
        done = [number for number in busy if last_use[number] <= step]
        free += [busy.pop(number) for number in done]
    return replace(function, values=tuple(values), slots=len(held))


def _fitting(free: list[tuple[int, int]], size: int) -> int:
    """The slot for so many bytes, of free ones, bytes and number each."""
    enough = [one for one in free if one[0] >= size]
    return (min(enough) if enough else max(free))[1]


def _size_of(value: Value) -> tuple[int, tuple[str, ...]]:
    """The bytes of a value, and the sizes known only at run time that these are times."""
    fixed, others = np.dtype(value.dtype).itemsize, []
    for size in value.shape:
        if isinstance(size, int):
            fixed *= size
        else:
            others.append(str(size))
    return fixed, tuple(sorted(others))


def _free(name: str, taken: set[str]) -> str:
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found
