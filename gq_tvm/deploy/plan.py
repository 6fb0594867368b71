"""From lowered functions to a plan: which kernels a call runs, on what memory.

By then a function is a list of kernel calls and reshapes. TVM's virtual machine would execute it
with a runtime of several megabytes, which is not published for 32-bit ARM; the plan is a text file
of these calls that a small program executes (``native/plan.h``, ``native/model.h``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import GenericConst, IRModule, prim

from gq_tvm.errors import Error
from gq_tvm.passes.operators import is_operator
from gq_tvm.passes.relax_tools.rewriter import inputs_of

_OPERATIONS = (
    (prim.Add, "add"),
    (prim.Sub, "sub"),
    (prim.Mul, "mul"),
    (prim.FloorDiv, "div"),
    (prim.FloorMod, "mod"),
    (prim.Min, "min"),
    (prim.Max, "max"),
)


def lower(module: IRModule, target: tvm.target.Target) -> IRModule:
    """Make every operator that is left a call of a kernel, as TVM's own pipeline does."""
    transform = relax.transform
    steps = [
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.RewriteDataflowReshape(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CanonicalizeBindings(),
        transform.DeadCodeElimination(),
    ]
    with target, tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(steps)(module)


def kernels(module: IRModule) -> IRModule:
    """The kernels of a lowered module, each with its name as a symbol."""
    found = {
        name.name_hint: function.with_attr("global_symbol", name.name_hint)
        for name, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
    }
    return IRModule(found)


def lines(
    module: IRModule,
    names: Iterable[str],
    weights: Mapping[str, int],
    layers: Mapping[str, str] | None = None,
) -> list[str]:
    """The lines of a plan that describe functions.

    Args:
        module: What `lower` made.
        names: Of the functions.
        weights: Where each parameter lies in the file of the weights.
        layers: The layer that each parameter belongs to, where it belongs to one.

    Raises:
        Error: a function does what no plan can say.
    """
    return [
        line
        for name in names
        for line in _Function(name, module[name], weights, layers or {}).lines()
    ]


@dataclass
class _Value:
    """A tensor: an input, a weight, a result of a kernel, or another one in a new shape."""

    kind: str
    dtype: str
    shape: list[Any]
    where: int = 0
    name: str = "-"
    data: bytes = b""
    last_use: int = -1


@dataclass
class _Call:
    kernel: str
    arguments: list[Any]  # numbers of values, or expressions of sizes
    results: list[int]


class _Function:
    def __init__(
        self,
        name: str,
        function: relax.Function,
        weights: Mapping[str, int],
        layers: Mapping[str, str],
    ) -> None:
        self._name = name
        self._layers = layers
        self._values: list[_Value] = []
        self._of: dict[Any, Any] = {}  # by variable: the number of its value, or those of a tuple
        self._calls: list[_Call] = []
        self._sizes: list[str] = []  # the lines that compute sizes
        self._registers: dict[int, str] = {}  # by hash of an expression, which is its address
        self._kept: list[Any] = []  # these expressions, lest another one takes an address over
        inputs = inputs_of(function)
        attrs = function.attrs or {}
        self._bounds = tuple(
            {str(k): int(v) for k, v in attrs.get(f"tir_var_{end}_bound", {}).items()}
            for end in ("lower", "upper")
        )
        for number, var in enumerate(inputs):
            self._of[var] = self._add("input", var.ty, number, var.name)
            for axis, size in enumerate(var.ty.shape):
                self._bind(size, number, axis)
        for var in list(function.params)[len(inputs) :]:
            self._of[var] = self._add("weight", var.ty, weights[var.name], var.name)
        body = function.body
        if not isinstance(body, relax.SeqExpr):
            raise Error(f"function {name} is no sequence of calls and cannot be bundled")
        for block in body.blocks:
            for binding in block.bindings:
                self._take(binding)
        returned = self._resolve(body.body)
        self._inputs = list(range(len(inputs)))
        self._outputs = returned if isinstance(returned, list) else [returned]
        self._slots = self._place()

    def lines(self) -> list[str]:
        """The function as text."""
        values = [
            " ".join(
                [
                    f"value {number} {value.kind} {value.dtype}",
                    value.data.hex() or "-" if value.kind == "constant" else str(value.where),
                    value.name,
                    *map(self._size, value.shape),
                ]
            )
            for number, value in enumerate(self._values)
        ]
        calls = [
            " ".join(["call", call.kernel, self._layer(call), *self._arguments(call)])
            for call in self._calls
        ]
        return [
            f"function {self._name} {len(self._registers)} {self._slots}",
            *self._sizes,
            *values,
            " ".join(["inputs", *map(str, self._inputs)]),
            " ".join(["outputs", *map(str, self._outputs)]),
            *calls,
        ]

    def _add(self, kind: str, ty: Any, where: int = 0, name: str = "-") -> int:
        if not isinstance(ty, relax.TensorType) or ty.shape is None:
            raise Error(f"function {self._name} handles {ty}, which cannot be bundled")
        self._values.append(_Value(kind, str(ty.dtype), list(ty.shape), where, name))
        return len(self._values) - 1

    def _take(self, binding: Any) -> None:
        """Note what a binding does."""
        value = binding.value
        if isinstance(value, relax.Call) and is_operator(value, "relax.call_tir"):
            self._of[binding.var] = self._call(value)
        elif isinstance(value, relax.Call) and is_operator(value, "relax.reshape"):
            source = self._resolve(value.args[0])
            self._of[binding.var] = self._add("view", binding.var.ty, source)
        elif isinstance(value, relax.Call):
            what = value.op.name if isinstance(value.op, tvm.ir.Op) else str(value.op)
            raise Error(f"function {self._name} uses {what}, which cannot be bundled")
        else:
            self._of[binding.var] = self._resolve(value)

    def _call(self, call: relax.Call) -> Any:
        kernel, arguments = call.args[:2]
        fields = arguments.fields if isinstance(arguments, relax.Tuple) else [arguments]
        made = call.ty_args[0]
        several = isinstance(made, relax.TupleType)
        results = [self._add("temporary", ty) for ty in (made.fields if several else [made])]
        sizes = list(call.args[2].values) if len(call.args) > 2 else []
        taken = [
            self._resolve(one) if isinstance(one.ty, relax.TensorType) else one for one in fields
        ]
        self._calls.append(_Call(kernel.name_hint, [*taken, *results, *sizes], results))
        return results if several else results[0]

    def _resolve(self, expr: Any) -> Any:
        """The value an expression is, or the list of those it holds."""
        if isinstance(expr, relax.Tuple):
            return [self._resolve(one) for one in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self._resolve(expr.tuple_value)[int(expr.index)]
        if isinstance(expr, GenericConst):
            number = self._add("constant", expr.ty)
            self._values[number].data = expr.value.numpy().tobytes()
            return number
        if isinstance(expr, relax.Var) and expr in self._of:
            return self._of[expr]
        kind = type(expr).__name__
        raise Error(f"function {self._name} holds a {kind}, which cannot be bundled")

    # --- sizes ---------------------------------------------------------------------------------

    def _bind(self, size: Any, number: int, axis: int) -> None:
        """Note that an axis of an input tells a size, unless it is a number or known already."""
        if not isinstance(size, tirx.Var) or hash(size) in self._registers:
            return
        register = f"r{len(self._registers)}"
        self._registers[hash(size)] = register
        self._kept.append(size)
        lower, upper = self._bounds
        least, most = lower.get(str(size), 0), upper.get(str(size), -1)
        self._sizes.append(f"size {register[1:]} {number} {axis} {least} {most} {size}")

    def _size(self, size: Any) -> str:
        """A size as the plan spells it: a number or the register that has it."""
        if isinstance(size, int | prim.IntImm):
            return str(int(size))
        if hash(size) in self._registers:
            return self._registers[hash(size)]
        for kind, name in _OPERATIONS:
            if isinstance(size, kind):
                left, right = self._size(size.a), self._size(size.b)
                register = f"r{len(self._registers)}"
                self._registers[hash(size)] = register
                self._kept.append(size)
                self._sizes.append(f"let {register[1:]} {name} {left} {right}")
                return register
        raise Error(f"function {self._name} has the size {size}, which cannot be bundled")

    def _arguments(self, call: _Call) -> list[str]:
        """What is read as its number, what is written behind a >, sizes behind a =."""
        return [
            f"={self._size(one)}"
            if not isinstance(one, int)
            else f">{one}"
            if one in call.results
            else str(one)
            for one in call.arguments
        ]

    def _layer(self, call: _Call) -> str:
        """The layer whose weights a call reads, ``-`` if it reads none."""
        read = [self._values[one].name for one in call.arguments if isinstance(one, int)]
        return next((self._layers[name] for name in read if name in self._layers), "-")

    # --- memory --------------------------------------------------------------------------------

    def _root(self, number: int) -> int:
        """The value whose memory a value is in."""
        while self._values[number].kind == "view":
            number = self._values[number].where
        return number

    def _place(self) -> int:
        """Give every result of a kernel a slot; one whose last reader is done is used again."""
        for number in self._outputs:
            root = self._values[self._root(number)]
            if root.kind == "temporary":
                root.kind = "output"  # it outlives the call
        for step, call in enumerate(self._calls):
            for argument in call.arguments:
                if isinstance(argument, int):
                    self._values[self._root(argument)].last_use = step
        free: list[int] = []
        sizes: list[str] = []  # of the first value of each slot, in words
        busy: dict[int, int] = {}
        for step, call in enumerate(self._calls):
            for number in call.results:
                value = self._values[number]
                if value.kind != "temporary":
                    continue
                size = f"{value.dtype} {math.prod(value.shape)}"
                alike = [slot for slot in free if sizes[slot] == size] or free
                if alike:
                    value.where = alike[-1]
                    free.remove(value.where)
                else:
                    value.where = len(sizes)
                    sizes.append(size)
                busy[number] = value.where
            done = [number for number in busy if self._values[number].last_use <= step]
            free += [busy.pop(number) for number in done]
        return len(sizes)
