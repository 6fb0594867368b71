"""A weight in a codebook and products with it, in nodes: ``ops.weight``, ``ops.reference.product``.

Sums of products of integers are exact on every CPU: both factors are given to MatMulInteger as
bytes from 128 on, as ONNX Runtime's sums of signed bytes saturate on x86 without VNNI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from gq_tvm.onnx_functions.body import FLOAT, INT64, UINT8, Body
from gq_tvm.onnx_functions.packing import unpacked
from gq_tvm.onnx_functions.rounding import rounded
from gq_tvm.ops.checks import group_size

_ARRAYS = ("codebook", "scale", "zero", "outlier_positions", "outlier_values")


@dataclass(frozen=True)
class Coded:
    """The arrays of a weight, as inputs of a function.

    Attributes:
        shape: Of its indices.
        arrays: The names of those there are: indices (packed), codebook, scale, zero, ...
        shapes: Of the codebook and of the scale.
    """

    shape: tuple[int, ...]
    arrays: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    @staticmethod
    def of(inputs: tuple[str, ...], attributes: Mapping[str, Any], suffix: str = "") -> Coded:
        """The weight whose arrays' names end in a suffix."""
        arrays = {one: one + suffix for one in ("indices", *_ARRAYS) if one + suffix in inputs}
        shapes = {
            one: tuple(attributes[f"{name}_shape"])
            for one, name in arrays.items()
            if f"{name}_shape" in attributes
        }
        return Coded(shapes["indices"], arrays, shapes)

    @property
    def rows(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """K."""
        return prod(self.shape[1:])

    @property
    def bits(self) -> int:
        """Of an index."""
        return (self.shapes["codebook"][-1] - 1).bit_length()

    @property
    def groups(self) -> int:
        """J."""
        codebook, scale = self.shapes["codebook"], self.shapes.get("scale", ())
        tables = codebook[1] if len(codebook) == 3 else 1
        return max(tables, scale[1] if len(scale) == 2 else 1)

    @property
    def group(self) -> int:
        """The inputs of a group, all of a row if it is not parted."""
        return group_size(self.width, self.groups) or self.width

    def tables(self) -> Any:
        """The table of each row, i64 [N, 1], or of each group, [1, J]; None if there is one."""
        *_, count, _ = self.shapes["codebook"]
        if count == 1:
            return None
        if len(self.shapes["codebook"]) == 3:
            return np.arange(count)[None]
        return (np.arange(self.rows) * count // self.rows)[:, None]

    def by_input(self, per_group: Any) -> Any:
        """What belongs to groups, for each input."""
        if per_group.shape[1] == 1:
            return per_group
        return np.repeat(per_group, self.group, 1)[:, : self.width]


def _looked_up(body: Body, weight: Coded, table: str) -> str:
    """Values of a table [T, 2^bits] at the indices: [N, K]."""
    codes = unpacked(body, weight.arrays["indices"], weight.bits, weight.rows, weight.width)
    tables = weight.tables()
    if tables is not None:
        first = weight.by_input(tables) * weight.shapes["codebook"][-1]
        codes = body("Add", codes, body.constant(first, np.int32))
    return body("Gather", body.reshape(table, -1), codes)


def _shared(body: Body, weight: Coded, name: str) -> str:
    """Scales or zero points as f32 [1 or N, 1 or J]."""
    array = body.cast(weight.arrays[name], FLOAT)
    shape = weight.shapes.get("scale", (1,))
    return array if len(shape) == 2 else body.reshape(array, -1, 1)


def expanded(body: Body, weight: Coded) -> str:
    """The floats, in the shape of the indices."""
    values = _looked_up(body, weight, weight.arrays["codebook"])
    grouped = len(weight.shapes.get("scale", ())) == 2 and weight.shapes["scale"][1] > 1
    columns = body.constant(np.arange(weight.width) // weight.group, np.int64)
    for name, operator in (("zero", "Sub"), ("scale", "Mul")):
        if name in weight.arrays:
            spread = _shared(body, weight, name)
            if grouped:
                spread = body("Gather", spread, columns, axis=1)
            values = body(operator, values, spread)
    if "outlier_positions" in weight.arrays:
        at = body.cast(weight.arrays["outlier_positions"], INT64)
        added = body.cast(weight.arrays["outlier_values"], FLOAT)
        flat = body.reshape(values, -1)
        values = body("ScatterElements", flat, at, added, axis=0, reduction="add")
    return body.reshape(values, *weight.shape)


@dataclass(frozen=True)
class Operand:
    """What products need of a weight, computed once.

    Attributes:
        weight: It.
        activation: Of the rows it meets.
        matrix: f32 [K, N] for ``"fp32"``; else levels + 128 as u8 [K, N], of groups [J, G, N].
        scale: f32 [1, 1 or N], of groups [J, 1, 1 or N]; "" for ``"fp32"``.
        zero: The same, the scales times the zero points; "" for none.
        outliers: Rows i64 [M], columns i64 [M] and values f32 [M]; () for none, or ``"fp32"``.
    """

    weight: Coded
    activation: str
    matrix: str
    scale: str = ""
    zero: str = ""
    outliers: tuple[str, ...] = ()

    @staticmethod
    def of(body: Body, weight: Coded, activation: str) -> Operand:
        """Compute it."""
        if activation == "fp32":
            flat = body.reshape(expanded(body, weight), weight.rows, weight.width)
            return Operand(weight, activation, body("Transpose", flat, perm=[1, 0]))
        rows = body.reshape(weight.arrays["codebook"], -1, weight.shapes["codebook"][-1])
        grid, steps = rounded(body, rows, "int8")
        levels = _looked_up(body, weight, _bytes(body, grid))
        scale = zero = ""
        if "scale" in weight.arrays:
            scale = _shared(body, weight, "scale")
        if "zero" in weight.arrays:
            zero = _shared(body, weight, "zero")
            zero = body("Mul", scale, zero) if scale else zero
        tables = weight.tables()
        if tables is not None:
            steps = body("Gather", body.reshape(steps, -1), body.constant(tables, np.int64))
        scale = body("Mul", scale, steps) if scale else steps
        return Operand(
            weight,
            activation,
            _turned(body, weight, levels),
            _per_group(body, weight, scale),
            _per_group(body, weight, zero) if zero else "",
            _outliers(body, weight),
        )


def _bytes(body: Body, integers: str) -> str:
    """Integers from -127 to 127, held as floats, as bytes from 128 on."""
    return body.cast(body("Add", integers, body.constant(128.0)), UINT8)


def _in_groups(body: Body, weight: Coded, values: str) -> str:
    """Bytes [R, K], 128 for 0, as [R, J, G]."""
    missing = weight.groups * weight.group - weight.width
    if missing:
        filled = body.constant(128, np.uint8)
        values = body("Pad", values, body.sizes(0, 0, 0, missing), filled)
    return body.reshape(values, -1, weight.groups, weight.group)


def _turned(body: Body, weight: Coded, levels: str) -> str:
    if weight.groups == 1:
        return body("Transpose", levels, perm=[1, 0])
    return body("Transpose", _in_groups(body, weight, levels), perm=[1, 2, 0])


def _per_group(body: Body, weight: Coded, shared: str) -> str:
    turned = body("Transpose", shared, perm=[1, 0])
    if weight.groups == 1:
        return turned
    apart = body("Unsqueeze", turned, body.sizes(1))  # [1 or J, 1, 1 or N]
    return body("Expand", apart, body.sizes(weight.groups, 1, 1))


def _outliers(body: Body, weight: Coded) -> tuple[str, ...]:
    if "outlier_positions" not in weight.arrays:
        return ()
    at = body.cast(weight.arrays["outlier_positions"], INT64)
    width = body.sizes(weight.width)
    added = body.cast(weight.arrays["outlier_values"], FLOAT)
    return body("Div", at, width), body("Mod", at, width), added


def product(body: Body, x: str, operand: Operand) -> str:
    """``x W^T``: f32 [..., K] -> f32 [..., N]."""
    if operand.activation == "fp32":
        return body("MatMul", x, operand.matrix)
    q, scale_x = rounded(body, x, operand.activation)
    if operand.weight.groups > 1:
        y = body("Mul", _sum_of_groups(body, x, q, operand), scale_x)
    else:
        y = _integer_sums(body, _bytes(body, q), operand.matrix)
        if operand.zero:
            y = body("Mul", y, operand.scale)
            total = body("ReduceSum", q, body.sizes(-1), keepdims=1)
            y = body("Mul", body("Sub", y, body("Mul", total, operand.zero)), scale_x)
        else:
            # As a product of both scales ONNX Runtime would take them one after the other.
            y = body("Mul", y, body("MatMul", scale_x, operand.scale))
    return body("Add", y, _outlier_sums(body, x, operand)) if operand.outliers else y


def product_by_groups(body: Body, x: str, operand: Operand, groups: int) -> str:
    """Products of integers where each of some groups of outputs has inputs of its own.

    Args:
        body: To write in.
        x: f32 [..., groups * K], those of a group together.
        operand: Of all outputs, N, with an activation of integers.
        groups: How many; they share N alike.

    Returns:
        f32 [..., N].
    """
    if groups == 1:
        return product(body, x, operand)
    whole = operand.weight
    size = whole.rows // groups
    weight = replace(whole, shape=(size, *whole.shape[1:]))

    def parts(value: str, count: int, each: int) -> list[str]:
        if not value or count == 1:
            return [value] * groups
        sizes = body.sizes(*[each] * groups)
        return body.several("Split", groups, value, sizes, axis=-1)

    shared = whole.shapes.get("scale", (1,))[0]
    apart = max(shared, 1 if whole.tables() is None else len(whole.tables()))
    each = zip(
        parts(x, groups, whole.width),
        parts(operand.matrix, groups, size),
        parts(operand.scale, apart, size),
        parts(operand.zero, shared, size),
        strict=True,
    )
    found = [
        product(body, own, Operand(weight, operand.activation, matrix, scale, zero))
        for own, matrix, scale, zero in each
    ]
    y = body("Concat", *found, axis=-1)
    if not operand.outliers:
        return y
    rows, columns, values = operand.outliers
    group = body("Div", rows, body.sizes(size))
    columns = body("Add", columns, body("Mul", group, body.sizes(whole.width)))
    outliers = rows, columns, values
    return body("Add", y, _outlier_sums(body, x, replace(operand, outliers=outliers)))


def _integer_sums(body: Body, first: str, second: str) -> str:
    zero = body.constant(128, np.uint8)
    return body.cast(body("MatMulInteger", first, second, zero, zero), FLOAT)


def _sum_of_groups(body: Body, x: str, q: str, operand: Operand) -> str:
    """The terms of the groups, added one after the other: f32 [..., N]."""
    weight = operand.weight
    rows = body.reshape(_bytes(body, q), -1, weight.width)
    parts = body("Transpose", _in_groups(body, weight, rows), perm=[1, 0, 2])
    step = Body(f"{parts}_")
    inputs = {
        "y": FLOAT,
        "q": UINT8,
        "w": UINT8,
        "s": FLOAT,
        **({"z": FLOAT} if operand.zero else {}),
    }
    inputs = {f"{parts}_{name}": kind for name, kind in inputs.items()}
    before, of_q, of_w, scale, *zero = inputs
    term = step("Mul", _integer_sums(step, of_q, of_w), scale)
    if zero:
        signed = step("Sub", step.cast(of_q, FLOAT), step.constant(128.0))
        total = step("ReduceSum", signed, step.sizes(-1), keepdims=1)
        term = step("Sub", term, step("Mul", total, zero[0]))
    after = step("Add", before, term)
    count = body("Shape", rows, start=0, end=1)
    sizes = body("Concat", count, body.sizes(weight.rows), axis=0)
    start = body("Expand", body.constant(0.0), sizes)
    given = [start, parts, operand.matrix, operand.scale, *([operand.zero] if zero else [])]
    graph = step.graph(f"{parts}_group", inputs, [(after, FLOAT)])
    y = body("Scan", *given, body=graph, num_scan_inputs=len(given) - 1)
    leading = body("Shape", x, start=0, end=-1)
    return body("Reshape", y, body("Concat", leading, body.sizes(weight.rows), axis=0))


def _outlier_sums(body: Body, x: str, operand: Operand) -> str:
    """``ops.reference.outlier_sums``."""
    rows, columns, values = operand.outliers
    terms = body("Mul", body("Gather", x, columns, axis=-1), values)
    leading = body("Shape", x, start=0, end=-1)
    sizes = body("Concat", leading, body.sizes(operand.weight.rows), axis=0)
    zeros = body("Expand", body.constant(0.0), sizes)
    at = body("Expand", rows, body("Shape", terms))
    return body("ScatterElements", zeros, at, terms, axis=-1, reduction="add")
