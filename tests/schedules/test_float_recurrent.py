"""Recurrent layers in float: kernels and PyTorch's operator compute the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.kernel_harness import Kernels, device_for, target

import gq_tvm.ops.torch_ops  # noqa: F401  (registers torch.ops.gq)
from gq_tvm.errors import Error
from gq_tvm.ops.checks_recurrent import CELLS
from gq_tvm.ops.reference_recurrent import recurrent
from gq_tvm.ops.torch_float_recurrent import recurrent as in_torch
from gq_tvm.runtime.devices.device import LocalDevice
from gq_tvm.schedules import Frames
from gq_tvm.schedules.cpu.float_ops.recurrent import FloatRecurrent

#: Cell, P of a projection, functions, clip, lengths of the sequences or None, reverse.
LAYERS: list[tuple[str, int, str, float, list[int] | None, bool]] = [
    ("lstm", 0, "", 0, None, False),
    ("lstm", 0, "hard_sigmoid,softsign,relu", 0.5, [19, 0, 7], True),
    ("lstm", 11, "", 0, [3, 19, 0], True),
    ("gru", 0, "", 0, None, True),
    ("gru", 0, "sigmoid,softsign", 0.3, [0, 17, 19], False),
    ("gru_reset_before", 0, "", 0, None, False),
    ("gru_reset_before", 0, "hard_sigmoid,tanh", 0, [18, 19, 1], True),
    ("rnn", 0, "", 0, [5, 19, 16], False),
    ("rnn", 0, "relu", 2, None, True),
]
LAYER = ("cell", "projected", "functions", "clip", "lengths", "reverse")


def layer_of(
    layer: tuple[Any, ...], width: int = 13, hidden: int = 37, batch: int = 3, steps: int = 19
) -> dict[str, Any]:
    """The arguments of the definition."""
    given = dict(zip(LAYER, layer, strict=True))
    projected, kind = given.pop("projected"), CELLS[given["cell"]]
    rng = np.random.default_rng([*map(ord, given["cell"]), hidden])

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    rows, state = kind.gates * hidden, projected or hidden
    lengths = given["lengths"]
    return given | {
        "x": draw(batch, steps, width),
        "state": [draw(batch, size) for size in (state, hidden)[: kind.states]],
        "weight_ih": draw(rows, width) / 3,
        "weight_hh": draw(rows, state) / 6,
        "bias_ih": draw(rows),
        "bias_hh": draw(rows),
        "weight_hr": draw(state, hidden) / 6 if projected else None,
        "lengths": None if lengths is None else np.array(lengths, np.int64)[:batch],
    }


@pytest.mark.parametrize("layer", LAYERS)
def test_pytorchs_operator_is_the_definition(layer):
    given = layer_of(layer)
    tensors: dict[str, Any] = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in given.items()
    }
    tensors["state"] = [torch.from_numpy(one) for one in given["state"]]
    for got, wanted in zip(in_torch(**tensors), recurrent(**given), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("where", "layers"),
    [
        ("x86-64-v3", LAYERS),
        ("x86-64", LAYERS[1:8:2]),
        ("arm", LAYERS[2:3]),
        pytest.param("x86-64-v4", LAYERS, marks=pytest.mark.slow),
        pytest.param("cortex-a7", LAYERS[1:8], marks=pytest.mark.slow),
    ],
)
def test_kernels_compute_the_definition(where, layers, emulated):
    """With T known or not; whole vectors and ragged ones; one step alone, and no step."""
    where = target(where)
    made: dict[str, tuple[FloatRecurrent, dict[str, Any]]] = {}
    for number, layer in enumerate(layers):
        sizes: list[dict[str, int]] = [{}, {"hidden": 8, "batch": 1, "steps": 1}, {"steps": 0}]
        for size in sizes[: 1 if layer[4] else 3]:
            given = layer_of(layer, **size)
            hidden = len(given["weight_ih"]) // CELLS[layer[0]].gates
            steps = given["x"].shape[1] if size else None
            of = FloatRecurrent(
                *(where, layer[0], given["x"].shape[2], hidden, layer[1]),
                Frames(steps, layer[5], layer[4] is not None),
                *layer[2:4],
            )
            made[f"f{number}_{len(made)}"] = of, given
    kernels = Kernels(
        where, device_for(where, emulated), {name: of.kernel() for name, (of, _) in made.items()}
    )
    for name, (of, given) in made.items():
        weights = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        operands = of.operands(*(given[key] for key in weights)).values()
        lengths = [] if given["lengths"] is None else [given["lengths"]]
        wanted = recurrent(**given)
        inputs = [given["x"], *given["state"], *operands, *lengths]
        for got, exact in zip(
            kernels(name, inputs, [y.shape for y in wanted]), wanted, strict=True
        ):
            np.testing.assert_allclose(got, exact, atol=1e-5)


def test_lengths_that_are_none_read_nothing_beyond_the_frames():
    where, layer = target("native"), ("rnn", 0, "", 0, [-5, 100, 4], True)
    given = layer_of(layer)
    of = FloatRecurrent(where, "rnn", 13, 37, 0, Frames(None, True, True), "", 0)
    kernels = Kernels(where, LocalDevice(), {"f": of.kernel()})
    weights = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    operands = of.operands(*(given[key] for key in weights)).values()
    inputs = [given["x"], *given["state"], *operands, given["lengths"]]
    wanted = recurrent(**given | {"lengths": np.array([0, 19, 4])})
    for got, exact in zip(kernels("f", inputs, [y.shape for y in wanted]), wanted, strict=True):
        np.testing.assert_allclose(got, exact, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cell": "gruu"}, "cell must be one of lstm, gru"),
        ({"functions": "tanh,tanh"}, "functions of lstm must be 3 of sigmoid, tanh"),
        ({"clip": -1.0}, "clip must not be negative, got -1.0"),
        ({"state": []}, "the state of lstm has 2 parts, got 0"),
        ({"lengths": torch.tensor([1, 2, 20])}, "a length of 20 is outside the 19 frames"),
        ({"lengths": torch.tensor([1, 2])}, r"lengths must have shape \[3\], got \[2\]"),
        ({"weight_hh": torch.zeros(148, 36)}, r"weight_hh must have shape \[148, 37\]"),
    ],
)
def test_wrong_arguments_are_named(change, text):
    given = layer_of(LAYERS[0])
    tensors: dict[str, Any] = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in given.items()
    }
    tensors["state"] = [torch.from_numpy(one) for one in given["state"]]
    with pytest.raises(Error, match=text):
        in_torch(**tensors | change)
