"""What errors of the inputs of an LSTM or GRU cost in its outputs, over time.

A gate that is saturated hides an error that an open one carries on through all later frames, and
one error may cost a thousand times another. How much is measured by derivatives of the outputs [C].
"""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from gq_tvm.quantize.drop_in.recurrent import State, weights_of
from gq_tvm.quantize.training_layers.quant_recurrent import QuantRecurrent

_MOST_FRAMES = 4096
_MOST_GATES = 2**22  # numbers; a dozen times as many are held for the derivatives
_PROBES = 2  # random directions in which the outputs are differentiated


class Sequences:
    """Some of those that reach a layer with the inputs of a stack, evenly out of all.

    Args:
        layer: the stack, or a cell.
        ending: of the layer; see ``drop_in.recurrent``.
    """

    def __init__(self, layer: QuantRecurrent, ending: str) -> None:
        self._layer, self._ending = layer, ending
        self._weights = [getattr(layer, name) for name in weights_of(layer, ending)]
        self._most = min(_MOST_FRAMES, max(1, _MOST_GATES // len(self._weights[0])))
        self._kept: list[tuple[Tensor, State]] = []
        self._every, self._seen = 1, 0

    def add(self, x: Tensor, state: State) -> None:
        """Keep some of x f32 [B, T, I], in the layer's order of frames, with their states."""
        for number in range(len(x) if x.shape[1] else 0):
            if self._seen % self._every == 0:
                own = tuple(part[number].detach().clone() for part in state)
                self._kept.append((x[number, : self._most].detach().clone(), own))
            self._seen += 1
            while len(self._kept) > 1 and self._frames > self._most:
                self._kept = self._kept[::2]
                self._every *= 2

    @property
    def _frames(self) -> int:
        return sum(len(x) for x, _ in self._kept)

    def costs(self) -> tuple[Tensor, Tensor]:
        """Rows f32 [M, I], and what errors in them cost f32 [M, I].

        The sum of costs times the squares of errors is about the share that the layer's outputs
        lose of their variance.
        """
        alike: dict[int, list[tuple[Tensor, State]]] = defaultdict(list)
        for x, state in self._kept:
            alike[len(x)].append((x, state))
        rows, costs, outputs = [], [], []
        random = torch.Generator().manual_seed(0)
        weight = self._weights[0].detach()
        for group in alike.values():
            x = torch.stack([x for x, _ in group])
            state = tuple(torch.stack(parts) for parts in zip(*(s for _, s in group), strict=True))
            y, powers = self._outputs_and_derivatives(x, state, random)
            rows.append(x.flatten(0, 1))
            costs.append(powers.flatten(0, 1) @ weight.square())
            outputs.append(y.flatten(0, 1))
        power = torch.cat(outputs).sub(torch.cat(outputs).mean(0)).square().sum()
        cost = torch.cat(costs) / power if power > 0 else torch.zeros_like(torch.cat(costs))
        return torch.cat(rows).cpu(), cost.cpu()

    def _outputs_and_derivatives(
        self, x: Tensor, state: State, random: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Outputs [B, T, P] of the float layer, and the sum of squares of their derivatives.

        Those are by the product with x, [B, T, gates * H].
        """
        ih, hh, *projection = (weight.detach() for weight in self._weights)
        with torch.enable_grad():
            product = F.linear(x, ih).requires_grad_()
            steps = []
            for from_x in product.unbind(1):
                h, *rest = self._layer.step(from_x, F.linear(state[0], hh), state, self._ending)
                state = (F.linear(h, *projection) if projection else h, *rest)
                steps.append(state[0])
            y = torch.stack(steps, 1)
            powers = torch.zeros_like(product)
            for _ in range(_PROBES):
                probe = torch.randn(y.shape, generator=random).to(y)
                (found,) = torch.autograd.grad(y, product, probe, retain_graph=True)
                powers += found.square() / _PROBES
        return y.detach(), powers.detach()
