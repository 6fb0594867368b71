"""LSTM, GRU and RNN against a loop in NumPy: the onnx package's reference lacks much of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.onnx_graphs import model, one_node, run, save, value
from numpy.typing import NDArray
from onnx import helper

from gq_tvm.errors import Error
from gq_tvm.onnx_import import Options, read

R = np.random.default_rng(0)
FRAMES, BATCH, WIDTH, HIDDEN = 5, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS: dict[str, Any] = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}
USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def f(*shape: int) -> NDArray[np.float32]:
    return R.standard_normal(shape).astype(np.float32)


def loop(
    kind: str,
    x: NDArray,
    w: NDArray,
    r: NDArray,
    b: NDArray,
    state: list[NDArray],
    lengths: NDArray | None = None,
    backward: bool = False,
    names: list[str] | None = None,
    clip: float = 0.0,
    after: int = 0,
) -> tuple[NDArray, list[NDArray]]:
    """One direction, the operators' definition in ONNX's order of gates; after: the reset gate."""
    names = names or USUAL[kind]
    own = [
        lambda v, one=FUNCTIONS[name]: one(np.clip(v, -clip, clip) if clip else v) for name in names
    ]
    wb, rb = np.split(b, 2)
    y = np.zeros((len(x), x.shape[1], r.shape[1]))
    ends = [one.astype(np.float64).copy() for one in state]
    for n in range(x.shape[1]):
        count = len(x) if lengths is None else int(lengths[n])
        for t in range(count)[:: -1 if backward else 1]:
            h, from_x = ends[0][n], w @ x[t, n] + wb
            if kind == "RNN":
                h = own[0](from_x + r @ h + rb)
            elif kind == "LSTM":
                i, o, forget, c = np.split(from_x + r @ h + rb, 4)
                ends[1][n] = own[0](forget) * ends[1][n] + own[0](i) * own[1](c)
                h = own[0](o) * own[2](ends[1][n])
            else:
                (xz, xr, xh), (rz, rr, rh), (bz, br, bh) = (np.split(v, 3) for v in (from_x, r, rb))
                z, reset = own[0](xz + rz @ h + bz), own[0](xr + rr @ h + br)
                inner = reset * (rh @ h + bh) if after else rh @ (reset * h) + bh
                h = (1 - z) * own[1](xh + inner) + z * h
            ends[0][n] = h
            y[t, n] = h
    return y, ends


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "backwards": {"direction": "reverse"},
    "both ways": {"direction": "bidirectional"},
    "clipped": {"clip": 0.4},
    "other functions": {"activations": ["HardSigmoid", "Relu", "Tanh"]},
    "lengths": {"lengths": True, "direction": "bidirectional"},
    "batch first": {"layout": 1, "direction": "bidirectional"},
    "batch first, lengths": {"layout": 1, "lengths": True},
    "no states": {"states": False},
    "reset behind the product": {"linear_before_reset": 1},
    "no frame": {"frames": 0},
}


_OF_A_GRU = "reset behind the product"


@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, kind) for case in CASES for kind in GATES if kind == "GRU" or case != _OF_A_GRU],
)
def test_a_recurrent_node(kind: str, case: str, tmp_path):
    options = dict(CASES[case])
    with_lengths, with_states = options.pop("lengths", False), options.pop("states", True)
    frames = options.pop("frames", FRAMES)
    directions = 2 if options.get("direction") == "bidirectional" else 1
    names = options.get("activations", USUAL[kind])[: len(USUAL[kind])]
    if "activations" in options:
        options["activations"] = names * directions
    constants = {
        "w": f(directions, GATES[kind] * HIDDEN, WIDTH),
        "r": f(directions, GATES[kind] * HIDDEN, HIDDEN),
        "b": f(directions, 2 * GATES[kind] * HIDDEN),
    }
    x = f(frames, BATCH, WIDTH)
    states = [f(directions, BATCH, HIDDEN) for _ in range(2 if kind == "LSTM" else 1)]
    first = bool(options.get("layout"))
    inputs: dict[str, NDArray] = {"x": x.transpose(1, 0, 2) if first else x}
    order = ["x", "w", "r", "b"]
    lengths = np.array([5, 0, 3], np.int32) if with_lengths else None
    if lengths is not None:
        inputs["n"] = lengths
    order.append("n" if with_lengths else "")
    for name, one in zip(("h", "c"), states if with_states else [], strict=False):
        inputs[name] = np.ascontiguousarray(one.transpose(1, 0, 2)) if first else one
        order.append(name)
    inputs["x"] = np.ascontiguousarray(inputs["x"])
    proto = one_node(
        kind, inputs, constants, 1 + len(states), order=order, hidden_size=HIDDEN, **options
    )
    got = run(proto, inputs, tmp_path)
    ys, ends = [], []
    for at in range(directions):
        back = at == 1 or options.get("direction") == "reverse"
        begin = [one[at] if with_states else np.zeros_like(one[at]) for one in states]
        y, end = loop(
            kind,
            x,
            constants["w"][at],
            constants["r"][at],
            constants["b"][at],
            begin,
            lengths,
            back,
            names,
            options.get("clip", 0.0),
            options.get("linear_before_reset", 0),
        )
        ys.append(y)
        ends.append(end)
    wanted = [np.stack(ys, 1), *(np.stack(one) for one in zip(*ends, strict=True))]
    if first:
        wanted = [wanted[0].transpose(2, 0, 1, 3), *(one.transpose(1, 0, 2) for one in wanted[1:])]
    for one, its in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, its, atol=2e-5)


def test_a_projected_lstm_is_refused_by_name(tmp_path):
    constants = {"w": f(1, 24, WIDTH), "r": f(1, 24, 2)}
    proto = one_node("LSTM", {"x": f(5, 3, WIDTH)}, constants, hidden_size=HIDDEN)
    with pytest.raises(Error, match="proj_size"):
        run(proto, {"x": f(5, 3, WIDTH)}, tmp_path)


def test_a_quantised_lstm_is_the_float_one_of_its_weights(tmp_path):
    codes = R.integers(-60, 60, (2, 1, 6, 4 * HIDDEN)).astype(np.int8)
    w, r = codes[0][:, :WIDTH], codes[1]
    step = np.array([0.02], np.float32)
    constants = {"w": w, "r": r, "b": f(1, 8 * HIDDEN)}
    constants |= {"s": step, "z": np.zeros(1, np.int8)}
    x = f(FRAMES, BATCH, WIDTH)
    order = ["x", "w", "r", "b", "", "", "", "", "s", "z", "s", "z"]
    proto = one_node(
        "DynamicQuantizeLSTM",
        {"x": x},
        constants,
        3,
        order=order,
        domain="com.microsoft",
        hidden_size=HIDDEN,
    )
    got = run(proto, {"x": x}, tmp_path)
    dense = [one[0].T.astype(np.float32) * 0.02 for one in (w, r)]
    begin = [np.zeros((BATCH, HIDDEN)) for _ in range(2)]
    y, _ = loop("LSTM", x, dense[0], dense[1], constants["b"][0], begin)
    np.testing.assert_allclose(got[0][:, 0], y, atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"clip": 0.3}, {"activations": ["Relu", "Tanh"]}])
def test_the_number_of_frames_stays_free(tmp_path, options):
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=HIDDEN, **options)
    constants = {"w": f(1, 3 * HIDDEN, WIDTH), "r": f(1, 3 * HIDDEN, HIDDEN)}
    proto = model([node], [value("x", ["time", "batch", WIDTH])], ["y"], constants)
    said: list[str] = []
    program = read(save(proto, tmp_path), Options(compare=False), said.append)
    assert said == []
    for frames in (9, 3):
        got = program.module()(torch.from_numpy(f(frames, 2, WIDTH)))
        assert got.shape == (frames, 1, 2, HIDDEN)
