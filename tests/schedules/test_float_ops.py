from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from helpers.kernel_harness import TARGETS, Kernels, device_for, target

from gq_tvm.schedules.cpu.float_ops import lanes_of
from gq_tvm.schedules.cpu.float_ops.activation import activation
from gq_tvm.schedules.cpu.float_ops.attention import Attention, attention
from gq_tvm.schedules.cpu.float_ops.layer_norm import layer_norm
from gq_tvm.schedules.cpu.float_ops.matmul import matmul
from gq_tvm.schedules.cpu.float_ops.runs import Run, join_runs
from gq_tvm.schedules.cpu.float_ops.softmax import softmax
from gq_tvm.schedules.cpu.vector_math import FUNCTIONS


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def assert_close(got, want, bound=1e-5):
    assert np.array_equal(np.isnan(got), np.isnan(want))
    got, want = np.nan_to_num(got, nan=0), np.nan_to_num(want, nan=0)
    assert np.linalg.norm(got - want) <= bound * max(np.linalg.norm(want), 1e-30)


# The two of ARM differ in dot products of bytes alone.
@pytest.fixture(
    params=[pytest.param(one, marks=pytest.mark.slow if one == "arm" else ()) for one in TARGETS]
)
def machine(request, emulated):
    where = target(request.param)
    device = device_for(where, emulated)
    return lanes_of(where), lambda functions: Kernels(where, device, functions)


def test_layer_norm(machine):
    lanes, compiled = machine
    shapes = [(5, 256, None), (3, 7, 3), (4, 131, None), (1, 1, 1)]
    run = compiled({f"f{i}": layer_norm(lanes, m, w, 1e-5) for i, (_, w, m) in enumerate(shapes)})
    for i, (rows, width, _) in enumerate(shapes):
        x, gamma, beta = 3 + normal(rows, width), normal(width, seed=1), normal(width, seed=2)
        x[-1, -1] = np.nan if rows > 1 else 1
        (got,) = run(f"f{i}", [x, gamma, beta], [x.shape])
        x = x.astype(np.float64)
        apart = x - x.mean(1, keepdims=True)
        want = apart / np.sqrt((apart**2).mean(1, keepdims=True) + 1e-5) * gamma + beta
        assert_close(got, want)


def test_silu_and_runs(machine):
    lanes, compiled = machine
    runs = [Run(70, 37, 33), Run(None, 0, None), Run(None, None, 20), Run(None, 3, None)]
    run = compiled(
        {
            "any": activation(lanes, "silu", None),
            "one": activation(lanes, "silu", 19),
            "join": join_runs(lanes, runs),
            "tail": join_runs(lanes, [Run(None, None, 33)]),
        }
    )
    for name, size in (("any", 1), ("any", 70), ("one", 19)):
        x = 20 * normal(size)
        x[-1] = np.nan if size > 1 else -1e30
        with np.errstate(over="ignore"):
            want = x / (1 + np.exp(-x.astype(np.float64)))
        assert_close(run(name, [x], [x.shape])[0], want)
    for small in (1, 40):
        sources = [normal(70), normal(small), normal(20 + small), normal(3 + small)]
        want = np.concatenate([sources[0][37:], sources[1], sources[2][-20:], sources[3][3:]])
        assert np.array_equal(run("join", sources, [want.shape])[0], want)
    assert np.array_equal(run("tail", [normal(101)], [(33,)])[0], normal(101)[-33:])


def test_activations_keep_their_digits_at_every_magnitude(machine):
    """In vectors and in the scalars behind the last, which kernels without vectors use alone."""
    lanes, compiled = machine
    wanted: dict[str, Any] = {
        "tanh": np.tanh,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "silu": lambda x: x / (1 + np.exp(-x)),
        "relu": lambda x: np.maximum(x, 0),
        "relu6": lambda x: np.clip(x, 0, 6),
        "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
        "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
        "gelu": lambda x: x * np.vectorize(NormalDist().cdf)(x),
    }
    assert set(wanted) == set(FUNCTIONS)
    whole, size = 4 * lanes, 5 * lanes - 1
    run = compiled({name: activation(lanes, name, size) for name in FUNCTIONS})
    for magnitude in (1e-34, 1e-20, 1e-9, 1e-6, 1e-4, 1e-2, 1, 10, 100):
        x = np.float32(magnitude) * normal(size).clip(-1, 1)
        x[-1] = np.nan
        for name, function in wanted.items():
            (got,) = run(name, [x], [x.shape])
            got, want = got / magnitude, function(x.astype(np.float64)) / magnitude
            assert_close(got[:whole], want[:whole], 1e-6)
            assert_close(got[whole:], want[whole:], 1e-6)


def test_softmax(machine):
    lanes, compiled = machine
    shapes = [(5, 64), (3, 7), (4, 131), (1, 1)]
    run = compiled({"any": softmax(lanes, None, None), "one": softmax(lanes, 4, 131)})
    for shape in shapes:
        x = 20 * normal(*shape)
        if shape[0] > 3:
            x[0, -1], x[1, 0], x[2] = np.nan, -np.inf, -np.inf
            x[3, 3] = 1e30
        with np.errstate(invalid="ignore"):
            e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
            want = e / e.sum(1, keepdims=True)
        assert_close(run("any", [x], [shape])[0], want)
        if shape == (4, 131):
            assert_close(run("one", [x], [shape])[0], want)


def test_matmul(machine):
    lanes, compiled = machine
    shapes = [(3, 6, 77, 40), (1, 5, 3, 7), (2, 1, 64, 64), (2, 9, 131, 1)]
    functions = {"f0": matmul(lanes, 16, *shapes[0])}
    run = compiled({**functions, "any": matmul(lanes, 32, None, None, None, None)})
    for i, (batch, m, n, k) in enumerate(shapes):
        a, b = normal(batch, m, k), normal(batch, k, n)
        for name in ("f0", "any") if i == 0 else ("any",):
            (got,) = run(name, [a, b], [(batch, m, n)])
            assert_close(got, a.astype(np.float64) @ b)


def attend(q, k, v, mask, scale, causal):
    q, k, v = (one.transpose(0, 2, 1, 3).astype(np.float64) for one in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) * scale + (0 if mask is None else mask)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)
    top = np.maximum(scores.max(-1, keepdims=True), -1e300)
    e = np.exp(scores - top)
    total = e.sum(-1, keepdims=True)
    y = np.divide(e, total, where=total != 0, out=np.zeros_like(e)) @ v
    return y.transpose(0, 2, 1, 3)


FULL = Attention(1, 64, 64, 2, 16, 16, 0.3)
ATTENTIONS = [
    FULL,
    Attention(2, 3, 70, 1, 5, 7, 0.5, mask=(True, True, True)),
    Attention(1, 37, 5, 3, 20, 33, 0.3, mask=(False, True, False)),
    Attention(1, 1, 130, 2, 64, 64, 0.1, causal=True, mask=(True, False, True)),
    Attention(2, 70, 69, 1, 8, 24, 0.3, causal=True),
    replace(FULL, keys=65),
]


def test_attention(machine):
    lanes, compiled = machine
    unknown: dict[str, Any] = {"batch": None, "frames": None, "keys": None}
    kernels = [replace(of, **(unknown if i % 2 else {})) for i, of in enumerate(ATTENTIONS)]
    run = compiled(
        {f"f{i}": attention(lanes, 16 if i % 3 else 32, of) for i, of in enumerate(kernels)}
    )
    for i, of in enumerate(ATTENTIONS):
        q = 2 * normal(of.batch, of.frames, of.heads, of.width)
        k = normal(of.batch, of.keys, of.heads, of.width, seed=1)
        v = normal(of.batch, of.keys, of.heads, of.values, seed=2)
        mask, inputs = None, [q, k, v]
        if of.mask is not None:
            leading = zip((of.batch, of.heads, of.frames), of.mask, strict=True)
            mask = normal(*(size if there else 1 for size, there in leading), of.keys, seed=3)
            mask[..., -1] = -np.inf
            mask[0, 0, 0] = -np.inf  # nothing to see: zeros
            inputs.append(mask)
        else:
            q[0, 1, 0, 0] = np.nan
        (got,) = run(f"f{i}", inputs, [(*q.shape[:3], of.values)])
        assert_close(got, attend(q, k, v, mask, of.scale, of.causal))
