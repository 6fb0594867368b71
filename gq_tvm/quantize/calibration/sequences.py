"""What errors of the inputs of an LSTM or GRU cost in its outputs, over time.

A gate that is saturated hides an error that an open one carries on through all later frames, and
one error may cost a thousand times another. How much is measured by derivatives of the outputs [C].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gq_tvm.ops.torch_rounding import quantize_activations
from gq_tvm.quantize.calibration.smoothing import USUAL
from gq_tvm.quantize.drop_in.recurrent import State, weights_of
from gq_tvm.quantize.training_layers.quant_recurrent import QuantRecurrent

_MOST_FRAMES = 4096
_MOST_GATES = 2**22  # numbers; a dozen times as many are held for the derivatives
_LEAST = 1e-4  # that an error in a row counts, of what one counts on average
_PROBES = 2  # random directions in which the outputs are differentiated


@dataclass(frozen=True)
class Costs:
    """What errors cost in the outputs of a layer.

    Attributes:
        rows: f32 [M, I], of what reaches it.
        inputs: f32 [M, I], of errors in these; the sum of costs times the squares of errors is
            about the share that the outputs lose of their variance.
        weights: f32 [gates * H] for those before x and h, of errors in a row of the weight: these
            stay the same over a sequence, and what they do at each frame adds up, or cancels.
    """

    rows: Tensor
    inputs: Tensor
    weights: list[Tensor]

    @property
    def uneven(self) -> bool:
        """Whether some frames count so much more than others that int8 rows would show it."""
        q, scale = quantize_activations(self.rows, "int8")
        return float(((q * scale - self.rows).square() * self.inputs).sum()) > USUAL


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
    def empty(self) -> bool:
        """Whether none came."""
        return not self._kept

    @property
    def _frames(self) -> int:
        return sum(len(x) for x, _ in self._kept)

    def costs(self) -> Costs:
        """What errors cost, from derivatives in random directions."""
        alike: dict[int, list[tuple[Tensor, State]]] = defaultdict(list)
        for x, state in self._kept:
            alike[len(x)].append((x, state))
        before_x = self._weights[0].detach()
        rows, inputs, outputs = [], [], []
        powers: tuple[list[Tensor], list[Tensor]] = ([], [])
        steep: tuple[list[Tensor], list[Tensor]] = ([], [])
        random = torch.Generator().manual_seed(0)
        for group in alike.values():
            x = torch.stack([x for x, _ in group])
            state = tuple(torch.stack(parts) for parts in zip(*(s for _, s in group), strict=True))
            run = _Run(self._layer, self._ending, x, state)
            rows.append(x.flatten(0, 1))
            outputs.append(run.y.detach().flatten(0, 1))
            squares = torch.zeros_like(run.products[0])
            for derivatives in run.derivatives(random):
                squares += derivatives[0].square() / _PROBES
                for one, met, sums in zip(derivatives, (x, run.h), steep, strict=True):
                    sums.append((one.mT @ met).square().sum(0) / _PROBES)
            inputs.append(squares.flatten(0, 1) @ before_x.square())
            for met, sums in zip((x, run.h), powers, strict=True):
                sums.append(met.square().sum((0, 1)))
        power = torch.cat(outputs).sub(torch.cat(outputs).mean(0)).square().sum()
        cost = torch.cat(inputs) / power if power > 0 else torch.zeros_like(torch.cat(inputs))
        by_row = [
            _ratio(torch.stack(one).sum(0), torch.stack(met).sum(0))
            for one, met in zip(steep, powers, strict=True)
        ]
        return Costs(torch.cat(rows).cpu(), cost.cpu(), by_row)


def _ratio(steep: Tensor, power: Tensor) -> Tensor:
    """The mean over inputs that are not always 0, f32 [gates * H]."""
    live = power > 0
    if not live.any():
        return torch.ones(len(steep))
    found = (steep[:, live] / power[live]).mean(1).cpu()
    return found.clamp_min(_LEAST * float(found.mean())) if found.any() else torch.ones(len(found))


class _Run:
    """A layer in float, as its outputs depend on the products with x and h.

    Args:
        layer: the stack, or a cell.
        ending: of the layer.
        x: f32 [B, T, I].
        state: before, each [B, H].

    Attributes:
        y: f32 [B, T, P].
        h: what the second weight meets, f32 [B, T, P].
        products: those of x, and zeros that are added to those of h: [B, T, gates * H].
    """

    def __init__(self, layer: QuantRecurrent, ending: str, x: Tensor, state: State) -> None:
        ih, hh, *projection = (getattr(layer, n).detach() for n in weights_of(layer, ending))
        steps, met = [], []
        with torch.enable_grad():
            product = F.linear(x, ih).requires_grad_()
            added = torch.zeros_like(product).requires_grad_()
            for from_x, more in zip(product.unbind(1), added.unbind(1), strict=True):
                met.append(state[0].detach())
                h, *rest = layer.step(from_x, F.linear(state[0], hh) + more, state, ending)
                state = (F.linear(h, *projection) if projection else h, *rest)
                steps.append(state[0])
            self.y = torch.stack(steps, 1)
        self.h = torch.stack(met, 1)
        self.products = product, added

    def derivatives(self, random: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """Of the outputs in random directions, by both products."""
        for _ in range(_PROBES):
            probe = torch.randn(self.y.shape, generator=random).to(self.y)
            yield torch.autograd.grad(self.y, self.products, probe, retain_graph=True)
