"""A plan as text: a line for everything it says, a version before and a checksum behind them.

Words are separated by spaces; texts are percent-encoded, a lone ``%`` is the empty one, and ``-``
stands for none. Sizes are registers: an input tells one, or it is computed from those before it.
"""

from __future__ import annotations

import zlib
from dataclasses import fields
from pathlib import Path
from urllib.parse import quote, unquote

from gq_tvm.plan.plan import Call, Content, Function, Layer, Operand, Plan, Use, Value
from gq_tvm.plan.size import Computed, Size

FIRST_LINE = "gq-plan 3"
CHECKSUM = "checksum"
_PLAIN = "".join(chr(code) for code in range(33, 127) if chr(code) != "%")
NONE = "-"  # a word
#: The fields of a `Use` that are always there, in their order; others are written ``name=value``.
USE_WORDS = ("activation", "rows", "gates", "glu", "group", "zero", "tables")


def write(plan: Plan) -> str:
    """The text of a plan, but for its checksum.

    Raises:
        AssertionError: the contents of its files are not known.
    """
    assert plan.weights
    assert plan.kernels
    numbers = {layer: number for number, layer in enumerate(plan.uses)}
    lines = [
        FIRST_LINE,
        f"machine {_word(plan.machine)}",
        " ".join(["features", *map(_word, plan.features)]),
        f"weights {plan.weights.size} {plan.weights.crc:08x}",
        f"kernels {plan.kernels.size} {plan.kernels.crc:08x}",
        *([" ".join(["runtime", *map(_word, plan.runtime)])] if plan.runtime else []),
        *(
            " ".join(["metadata", _word(name), *map(_word, words)])
            for name, words in plan.metadata.items()
        ),
        *(_layer(layer, number) for layer, number in numbers.items()),
    ]
    for function in plan.functions.values():
        lines += _Writer(function, numbers).lines()
    return "\n".join([*lines, ""])


def sealed(text: str) -> bytes:
    """A text with its checksum behind it, so that a copy that was cut or altered is noticed."""
    data = text.encode()
    return data + f"{CHECKSUM} {zlib.crc32(data):08x}\n".encode()


def content(path: Path) -> Content:
    """What a file holds.

    A CRC-32 is there to notice accidents. SHA-256 would notice no more of them and cost ten times
    as much at each start of a device.
    """
    crc, size = 0, 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
    return Content(size, crc)


def _word(text: str | None) -> str:
    """A text as a word, of None the word for none."""
    if text is None:
        return NONE
    return "%2D" if text == NONE else quote(text, safe=_PLAIN) or "%"


def plain(word: str) -> str:
    """The text that a word stands for."""
    return "" if word == "%" else unquote(word, errors="strict")


def _layer(layer: Layer, number: int) -> str:
    shape = "x".join(map(str, layer.shape))
    words = [_word(layer.name), layer.kind, shape, str(layer.bits), layer.activation]
    words += [_word(layer.kernel), _word(layer.schedule), _word(layer.origin)]
    if layer.use is None:
        words.append(NONE)
    else:
        words.append(_use(layer.use))
    return " ".join(["layer", str(number), *words, *map(_word, layer.parameters)])


def _use(use: Use) -> str:
    """Its fields up to the tables; of the others, those that are not as they mostly are."""
    activation, rows, *numbers = (getattr(use, name) for name in USE_WORDS)
    words = [activation, NONE if rows is None else str(rows), *(str(int(one)) for one in numbers)]
    for one in fields(Use)[len(USE_WORDS) :]:
        value = getattr(use, one.name)
        if value != one.default:
            words.append(f"{one.name}={value}")
    return ",".join(words)


class _Writer:
    """The lines of a function."""

    def __init__(self, function: Function, layers: dict[Layer, int]) -> None:
        self._function = function
        self._layers = layers
        self._registers: dict[Size, int] = {}
        self._sizes: list[str] = []

    def lines(self) -> list[str]:
        """All of them, those of the sizes before those that need them."""
        function = self._function
        for one in function.sizes.values():
            most = -1 if one.most is None else one.most
            self._register(
                one, f"size {{}} {one.input} {one.axis} {one.least} {most} {_word(one.name)}"
            )
        values = [self._value(number, one) for number, one in enumerate(function.values)]
        calls = [self._call(one) for one in function.calls]
        inputs = [i for i, one in enumerate(function.values) if one.kind == "input"]
        inputs.sort(key=lambda number: function.values[number].where)
        kind = "output" if function.single else "outputs"
        return [
            f"function {_word(function.name)} {len(self._registers)} {function.slots}",
            *self._sizes,
            *values,
            " ".join(["inputs", *map(str, inputs)]),
            " ".join([kind, *map(str, function.returned)]),
            *calls,
        ]

    def _register(self, size: Size, line: str) -> str:
        number = self._registers.setdefault(size, len(self._registers))
        self._sizes.append(line.format(number))
        return f"r{number}"

    def _size(self, size: Size) -> str:
        if isinstance(size, int):
            return str(size)
        if size in self._registers:
            return f"r{self._registers[size]}"
        assert isinstance(size, Computed), f"{size} is told by no input"
        operands = " ".join(map(self._size, size.operands))
        return self._register(size, f"let {{}} {size.operation} {operands}")

    def _value(self, number: int, value: Value) -> str:
        what = value.data.hex() or NONE if value.kind == "constant" else str(value.where)
        name = _word(value.name or None)
        words = ["value", str(number), value.kind, value.dtype, what, name]
        return " ".join([*words, *map(self._size, value.shape)])

    def _call(self, call: Call) -> str:
        layers = ",".join(str(self._layers[one]) for one in call.layers) or NONE
        words = ["call", _word(call.kernel), _word(call.layer or None), layers]
        return " ".join([*words, *map(self._argument, call.arguments)])

    def _argument(self, one: Operand | Size) -> str:
        """What is read as its number, what is written behind a >, sizes behind a =."""
        if isinstance(one, Operand):
            return f">{one.value}" if one.written else str(one.value)
        return f"={self._size(one)}"
