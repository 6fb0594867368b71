"""The recurrent codebook operators in PyTorch; see ``torch_ops``, which imports this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gq_tvm.ops import checks_recurrent as checks
from gq_tvm.ops.checks_recurrent import LAYERS, Layer
from gq_tvm.ops.torch_weight import Operand, WeightTensors, operand, product


def scan(
    step: Callable[[Tensor, list[Tensor]], Sequence[Tensor]],
    from_x: Tensor,
    state: Sequence[Tensor],
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """The steps of a layer over all frames; see ``reference_recurrent``.

    Args:
        step: Takes the x-part of the gates [B, N] and the state; gives the new one, y's part first.
        from_x: f32 [B, T, N].
        state: Its parts, each f32 [B, ...].
        lengths: i64 [B] or None.
        reverse: Whether the last frame comes first.

    Returns:
        y f32 [B, T, P] and the last state.
    """
    now, frames = list(state), from_x.shape[1]
    steps = []
    for t in reversed(range(frames)) if reverse else range(frames):
        new = list(step(from_x[:, t], now))
        if lengths is not None:
            there = (t < lengths)[:, None]
            new = [torch.where(there, *both) for both in zip(new, now, strict=True)]
            steps.append(torch.where(there, new[0], 0.0))
        else:
            steps.append(new[0])
        now = new
    if not steps:
        return from_x.new_empty(from_x.shape[0], 0, now[0].shape[1]), now
    return torch.stack(steps[::-1] if reverse else steps, 1), now


def recurrent_layer(
    name: str,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Operand],
    biases: Sequence[Tensor | None],
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """``reference_recurrent.codebook_recurrent`` of any weights: y, and the last state."""

    def step(from_x: Tensor, state: list[Tensor]) -> list[Tensor]:
        new = cell_step(name, from_x, product(state[0], weights[1]), state, biases)
        return [product(new[0], weights[2]), *new[1:]] if len(weights) > 2 else new

    return scan(step, product(x, weights[0]), state, lengths, reverse)


def cell_step(
    name: str,
    from_x: Tensor,
    from_h: Tensor,
    state: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> list[Tensor]:
    """One step of a layer from both its products, f32 [B, G * H]; h is not projected yet."""
    kind = LAYERS[name]
    if kind.cell == "gru":
        return [_gru_cell(from_x, from_h, biases[0], biases[1], state[0])]
    gates = from_x + from_h
    gates = gates if biases[0] is None else gates + biases[0]
    if kind.cell == "rnn":
        return [torch.relu(gates) if kind.functions == "relu" else torch.tanh(gates)]
    i, f, g, o = gates.chunk(4, dim=1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(c), c]


def _gru_cell(
    from_x: Tensor, from_h: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None, h: Tensor
) -> Tensor:
    if bias_ih is not None:
        from_x = from_x + bias_ih
    if bias_hh is not None:
        from_h = from_h + bias_hh
    (r_x, z_x, n_x), (r_h, z_h, n_h) = from_x.chunk(3, dim=1), from_h.chunk(3, dim=1)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return n + torch.sigmoid(z_x + z_h) * (h - n)


@dataclass(frozen=True)
class _Given:
    """The arguments of an operator, apart."""

    x: Tensor
    state: list[Tensor]
    weights: list[WeightTensors]
    biases: list[Tensor | None]
    activation: str
    lengths: Tensor | None
    reverse: bool

    @staticmethod
    def of(kind: Layer, x: Tensor, *rest: Any) -> _Given:
        """Those of a call, the last of which may be left out."""
        given = iter(rest)

        def take(count: int) -> list[Any]:
            return [next(given, None) for _ in range(count)]

        state = take(len(kind.states))
        coded = [take(4) for _ in kind.parts]
        biases, (activation,) = take(len(kind.biases)), take(1)
        weights = [WeightTensors(*four, *take(2)) for four in coded]
        lengths, reverse = take(2)
        return _Given(x, state, weights, biases, activation, lengths, bool(reverse))

    def check(self, name: str, values: bool) -> None:
        """Refuse what is wrong; ``values=False`` leaves out what fake tensors lack."""
        op = f"codebook_{name}"
        for weight in self.weights:
            weight.check(op, values=values)
        shapes = [weight.indices.shape for weight in self.weights]
        checks.check_layer(
            name, self.x, self.state, shapes, self.biases, self.activation, self.lengths
        )
        check_frames(op, self.x, self.lengths, values)


def _register(name: str, kind: Layer) -> None:
    """Make ``gq::codebook_`` + name an operator.

    It takes x, the state, the coded tensors of each weight, the biases, the activation, the
    outliers of each weight, lengths i64 [B] or None and whether the last frame comes first.
    """
    weights = ", ".join(
        f"Tensor indices{part}, Tensor codebook{part}, Tensor? scale{part}, Tensor? zero{part}"
        for part in kind.parts
    )
    outliers = ", ".join(
        f"Tensor? outlier_positions{part}=None, Tensor? outlier_values{part}=None"
        for part in kind.parts
    )
    state = ", ".join(f"Tensor {one}0" for one in kind.states)
    biases = ", ".join(f"Tensor? bias{one}" for one in kind.biases)
    results = ", ".join(["Tensor"] * (1 + len(kind.states)))

    def run(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        given = _Given.of(kind, x, *rest)
        given.check(name, values=True)
        held = [operand(weight, given.activation) for weight in given.weights]
        # The outputs of an operator may not be its inputs, as they would be without any frame.
        first = [one.clone() for one in given.state]
        frames = given.lengths, given.reverse
        y, after = recurrent_layer(name, x, first, held, given.biases, *frames)
        return y, *after

    def fake(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        given = _Given.of(kind, x, *rest)
        given.check(name, values=False)
        y = x.new_empty([x.shape[0], x.shape[1], given.state[0].shape[1]])
        return y, *(one.new_empty(one.shape) for one in given.state)

    made = torch.library.custom_op(
        f"gq::codebook_{name}",
        run,
        mutates_args=(),
        schema=f"(Tensor x, {state}, {weights}, {biases}, str activation, {outliers},"
        f" Tensor? lengths=None, bool reverse=False) -> ({results})",
    )
    made.register_fake(fake)


for _name, _kind in LAYERS.items():
    _register(_name, _kind)


def check_frames(op: str, x: Tensor, lengths: Tensor | None, values: bool) -> None:
    """Refuse lengths that are none of x; ``values=False`` leaves out what fake tensors lack."""
    checks.check_lengths(op, x, lengths)
    if values and lengths is not None and lengths.numel():
        checks.check_longest(op, int(lengths.min()), int(lengths.max()), x.shape[1])
