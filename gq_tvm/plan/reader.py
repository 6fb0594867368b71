"""Read a plan's text strictly: each line as `text` writes it, or a refusal that names the line."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence

from gq_tvm.errors import Error
from gq_tvm.ops.checks import SCALES
from gq_tvm.plan.plan import KINDS, Call, Content, Function, Layer, Operand, Plan, Use, Value
from gq_tvm.plan.size import OPERATIONS, Named, Size, computed
from gq_tvm.plan.text import CHECKSUM, FIRST_LINE, NONE, USE_WORDS, plain


def read(data: bytes, where: str) -> Plan:
    """The plan whose file has these bytes; ``where`` names it in refusals.

    Raises:
        Error: it is none of this version, is damaged, or says what no plan says.
    """
    if not data.startswith(f"{FIRST_LINE}\n".encode()):
        raise Error(f"{where} is not a plan of this version; compile the model again")
    end = data.rfind(f"{CHECKSUM} ".encode())
    if data[end:] != f"{CHECKSUM} {zlib.crc32(data[:end]):08x}\n".encode():
        raise Error(f"{where} is damaged; copy it again, or compile the model again")
    reader, number = _Reader(), 0
    try:
        for number, line in enumerate(data[:end].decode().splitlines(), 1):
            if number > 1 and line:
                reader.line(line.split())
        return reader.plan()
    except (Error, ValueError, IndexError, KeyError) as problem:
        said = problem if isinstance(problem, Error) else "has a word that does not belong there"
        raise Error(
            f"{where} cannot be understood (line {number} {said}); compile the model again"
        ) from None


class _Reader:
    """Reads line after line; each kind of line has a method."""

    def __init__(self) -> None:
        self._facts: dict[str, object] = {}
        self._metadata: dict[str, tuple[str, ...]] = {}
        self._layers: list[Layer] = []
        self._functions: dict[str, _FunctionReader] = {}
        self._current: _FunctionReader | None = None

    def line(self, words: Sequence[str]) -> None:
        """Take one line."""
        kind, *rest = words
        if kind in _LINES:
            _LINES[kind](self, rest)
        elif kind not in _FUNCTION_LINES:
            raise Error(f"says {kind[:40]} where a kind of line belongs")
        elif self._current is None:
            raise Error("stands outside of a function")
        else:
            _FUNCTION_LINES[kind](self._current, rest)

    def plan(self) -> Plan:
        """What the lines said."""
        for kind in ("machine", "features", "weights", "kernels"):
            if kind not in self._facts:
                raise Error(f"is the last, and there is no line {kind}")
        functions = {name: one.function() for name, one in self._functions.items()}
        if not functions:
            raise Error("is the last, and there is no function")
        plan = Plan(functions=functions, metadata=self._metadata, **self._facts)  # type: ignore[arg-type]
        for layer in plan.uses:
            for name in layer.parameters:
                if name not in plan.parameter_bytes:
                    raise Error(f"is the last, and no function has the weight {name[:40]}")
        return plan

    def _once(self, kind: str, fact: object) -> None:
        if kind in self._facts:
            raise Error("says again what an earlier line has said")
        self._facts[kind] = fact

    def machine(self, words: Sequence[str]) -> None:
        (machine,) = words
        self._once("machine", plain(machine))

    def features(self, words: Sequence[str]) -> None:
        self._once("features", tuple(map(plain, words)))

    def runtime(self, words: Sequence[str]) -> None:
        """Which functions of TVM's runtime are called."""
        self._once("runtime", tuple(map(plain, words)))

    def weights(self, words: Sequence[str]) -> None:
        self._once("weights", _content(words))

    def kernels(self, words: Sequence[str]) -> None:
        self._once("kernels", _content(words))

    def metadata(self, words: Sequence[str]) -> None:
        name, *rest = map(plain, words)
        if name in self._metadata:
            raise Error("says again what an earlier line has said")
        self._metadata[name] = tuple(rest)

    def layer(self, words: Sequence[str]) -> None:
        number, name, kind, shape, bits, activation, kernel, schedule, origin, use, *names = words
        _next(number, len(self._layers))
        if not names:
            raise Error("names no weight")
        self._layers.append(
            Layer(
                name=plain(name),
                kind=kind,
                shape=tuple(_whole(one, 1) for one in shape.split("x")),
                bits=_whole(bits, 1, 8),
                activation=activation,
                kernel=plain(kernel),
                parameters=tuple(map(plain, names)),
                schedule=plain(schedule),
                origin=plain(origin),
                use=_use(use),
            )
        )

    def function(self, words: Sequence[str]) -> None:
        name, registers, slots = words
        if plain(name) in self._functions:
            raise Error("says again what an earlier line has said")
        self._current = _FunctionReader(plain(name), _whole(slots), self._layers)
        self._functions[plain(name)] = self._current
        _whole(registers)


class _FunctionReader:
    """Reads the lines of a function."""

    def __init__(self, name: str, slots: int, layers: Sequence[Layer]) -> None:
        self._name = name
        self._slots = slots
        self._layers = layers
        self._registers: list[Size] = []
        self._values: list[Value] = []
        self._returned: list[int] | None = None
        self._single = False
        self._calls: list[Call] = []

    def function(self) -> Function:
        """What they said."""
        if self._returned is None:
            raise Error(f"is the last, and function {self._name} returns nothing")
        found = Function(
            self._name,
            tuple(self._values),
            tuple(self._returned),
            tuple(self._calls),
            self._slots,
            self._single,
        )
        inputs = sorted(one.where for one in found.of_kind("input"))
        sizes = [one for one in self._registers if isinstance(one, Named)]
        told = all(
            one.input < len(inputs) and one.axis < len(found.inputs[one.input].shape)
            for one in sizes
        )
        if inputs != list(range(len(inputs))) or not told:
            raise Error(f"is the last, and function {self._name} lacks an input")
        for names in ([one.name for one in sizes], [one.name for one in found.inputs]):
            if len(set(names)) < len(names):
                raise Error(f"is the last, and function {self._name} has a name twice")
        if any(found.sizes.get(one.name) != one for one in sizes):
            raise Error(f"is the last, and function {self._name} has a size of no input")
        return found

    def size(self, words: Sequence[str]) -> None:
        """An input tells a size."""
        number, given, axis, least, most, name = words
        _next(number, len(self._registers))
        greatest = _whole(most, -1)
        self._registers.append(
            Named(
                plain(name),
                _whole(given),
                _whole(axis),
                _whole(least),
                None if greatest < 0 else greatest,
            )
        )

    def let(self, words: Sequence[str]) -> None:
        """A size is computed."""
        number, operation, *operands = words
        _next(number, len(self._registers))
        if operation not in OPERATIONS or len(operands) != (3 if operation == "select" else 2):
            raise Error(f"says {operation[:40]} where an operation and what it is of belong")
        self._registers.append(computed(operation, *map(self._size, operands)))

    def value(self, words: Sequence[str]) -> None:
        """A tensor."""
        number, kind, dtype, what, name, *shape = words
        _next(number, len(self._values))
        if kind not in KINDS:
            raise Error(f"says {kind[:40]} where one of {', '.join(KINDS)} belongs")
        if not re.fullmatch(r"bool|(int|uint|float)(8|16|32|64)", dtype) or dtype == "float8":
            raise Error(f"has the dtype {dtype[:40]}, which nobody knows")
        self._values.append(
            Value(
                kind,
                dtype,
                tuple(map(self._size, shape)),
                0 if kind == "constant" else _whole(what, 0),
                "" if name == NONE else plain(name),
                bytes.fromhex(what) if kind == "constant" and what != NONE else b"",
            )
        )
        one = self._values[-1]
        if kind == "view" and one.where >= len(self._values) - 1:
            raise Error("views a later value")
        if kind in ("weight", "constant") and not all(isinstance(s, int) for s in one.shape):
            raise Error("has a size that is not fixed")

    def inputs(self, words: Sequence[str]) -> None:
        """Which values are inputs: they say it themselves."""
        for place, word in enumerate(words):
            one = self._values[_whole(word)]
            if one.kind != "input" or one.where != place:
                raise Error(f"names what is not the input {place}")

    def output(self, words: Sequence[str]) -> None:
        """What is returned, bare."""
        (one,) = words
        self.outputs([one])
        self._single = True

    def outputs(self, words: Sequence[str]) -> None:
        """What is returned, in a tuple."""
        if self._returned is not None or not words:
            raise Error("says again what an earlier line has said, or nothing")
        self._returned = [_whole(word, 0, len(self._values) - 1) for word in words]

    def call(self, words: Sequence[str]) -> None:
        """A call of a kernel."""
        kernel, layer, layers, *arguments = words
        numbers = [] if layers == NONE else layers.split(",")
        self._calls.append(
            Call(
                plain(kernel),
                tuple(map(self._argument, arguments)),
                "" if layer == NONE else plain(layer),
                tuple(self._layers[_whole(one)] for one in numbers),
            )
        )

    def _argument(self, word: str) -> Operand | Size:
        if word.startswith("="):
            return self._size(word[1:])
        most = len(self._values) - 1
        return Operand(_whole(word.removeprefix(">"), 0, most), word.startswith(">"))

    def _size(self, word: str) -> Size:
        if word.startswith("r"):
            return self._registers[_whole(word[1:])]
        return _whole(word, -(2**63))


_LINES: dict[str, Callable[[_Reader, Sequence[str]], None]] = {
    "machine": _Reader.machine,
    "features": _Reader.features,
    "runtime": _Reader.runtime,
    "weights": _Reader.weights,
    "kernels": _Reader.kernels,
    "metadata": _Reader.metadata,
    "layer": _Reader.layer,
    "function": _Reader.function,
}
_FUNCTION_LINES: dict[str, Callable[[_FunctionReader, Sequence[str]], None]] = {
    "size": _FunctionReader.size,
    "let": _FunctionReader.let,
    "value": _FunctionReader.value,
    "inputs": _FunctionReader.inputs,
    "output": _FunctionReader.output,
    "outputs": _FunctionReader.outputs,
    "call": _FunctionReader.call,
}


def _content(words: Sequence[str]) -> Content:
    size, crc = words
    return Content(_whole(size), int(crc, 16))


def _use(word: str) -> Use | None:
    if word == NONE:
        return None
    words = word.split(",")
    activation, rows, gates, glu, group, zero, tables = words[: len(USE_WORDS)]
    more = dict(one.split("=") for one in words[len(USE_WORDS) :])
    if not (more.keys() <= {"scale_type", "zero_type"} and set(more.values()) <= set(SCALES)):
        raise Error(f"says {word[-40:]} where what a product is belongs")
    return Use(
        activation,
        None if rows == NONE else _whole(rows),
        _whole(gates),
        bool(_whole(glu, 0, 1)),
        _whole(group),
        bool(_whole(zero, 0, 1)),
        _whole(tables),
        **more,
    )


def _next(word: str, number: int) -> None:
    if word != str(number):
        raise Error(f"says {word[:40]} where {number} belongs")


def _whole(word: str, least: int = 0, most: int = 2**63 - 1) -> int:
    value = int(word) if re.fullmatch(r"-?\d{1,19}", word) else most + 1
    if not least <= value <= most:
        raise Error(f"says {word[:40]} where a whole number from {least} to {most} belongs")
    return value
