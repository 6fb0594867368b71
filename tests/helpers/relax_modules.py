"""Relax modules for the tests of the passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule

from gq_tvm.ops.weight import Weight
from gq_tvm.passes import operators

Emit = Callable[[relax.Expr], relax.Var]


def var(name: str, *shape: Any, dtype: str = "float32") -> relax.Var:
    return relax.Var(name, relax.TensorType(list(shape), dtype))


def module(
    params: Sequence[relax.Var], body: Callable[[Emit], Any], attrs: dict[str, Any] | None = None
) -> IRModule:
    """A module whose function ``main`` returns what `body` returns, given a way to bind."""
    builder = relax.BlockBuilder()
    with builder.function("main", list(params), attrs=attrs or {}):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit))
        builder.emit_func_output(result)
    return builder.get()


def weight(n: int, k: int, bits: int, *, taps: int | None = None, seed: int = 0) -> list[Any]:
    """Constants: the arguments of a weight [n, k] (or [n, k, taps]), and bias [n]."""
    rng = np.random.default_rng(seed)
    shape = (n, k) if taps is None else (n, k, taps)
    made = Weight(
        rng.integers(0, 2**bits, shape).astype(np.uint8),
        rng.standard_normal((1, 2**bits)).astype(np.float32),
        np.ones(1, np.float32),
    )
    bias = relax.const(rng.standard_normal(n).astype(np.float32))
    return [*operators.weight_constants(made), bias]


def linear(x: relax.Expr, n: int, k: int, bits: int = 4, **attrs: Any) -> relax.Call:
    seed, residual = attrs.pop("seed", 0), attrs.pop("residual", None)
    attrs = {"activation": "fp32", "layer": "layer", **attrs}
    *held, bias = weight(n, k, bits, seed=seed)
    return operators.codebook_linear(x, held, bias, residual, **attrs)


def lstm(
    x: relax.Expr, h: relax.Expr, c: relax.Expr, hidden: int, bits: tuple[int, int], **attrs: Any
) -> relax.Call:
    seed = attrs.pop("seed", 0)
    attrs = {"reverse": False, "activation": "int8", "layer": "lstm", **attrs}
    *weight_ih, bias = weight(4 * hidden, operators.shape_of(x)[-1], bits[0], seed=seed)
    *weight_hh, _ = weight(4 * hidden, hidden, bits[1], seed=seed + 1)
    inputs = [x, h, c, *weight_ih, *weight_hh, bias]
    return operators.codebook_recurrent("relax.gq.codebook_lstm", inputs, **attrs)


def gru(
    x: relax.Expr, h: relax.Expr, hidden: int, bits: tuple[int, int], **attrs: Any
) -> relax.Call:
    attrs = {"reverse": False, "activation": "int8", "layer": "gru", **attrs}
    *weight_ih, bias_ih = weight(3 * hidden, operators.shape_of(x)[-1], bits[0])
    *weight_hh, bias_hh = weight(3 * hidden, hidden, bits[1], seed=1)
    inputs = [x, h, *weight_ih, *weight_hh, bias_ih, bias_hh]
    return operators.codebook_recurrent("relax.gq.codebook_gru", inputs, **attrs)


def calls(mod: IRModule, name: str) -> list[relax.Call]:
    """The calls of an operator in ``main``, in their order."""
    return [
        binding.value
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if operators.is_operator(binding.value, name)
    ]


def assert_same(got: IRModule, wanted: IRModule) -> None:
    canonical = relax.transform.CanonicalizeBindings()
    tvm.ir.assert_structural_equal(canonical(got), canonical(wanted))
