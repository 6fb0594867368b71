"""Bits for each weight of a model, from what each loses alone."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from gq_tvm.columns import columns
from gq_tvm.errors import Error
from gq_tvm.quantize.allocation.knapsack import Choice, Front
from gq_tvm.quantize.allocation.sensitivity import FLOAT, OneWeight, Sensitivity, decibels
from gq_tvm.quantize.compress import Say, say_to_stderr
from gq_tvm.quantize.drop_in.arguments import check_numbers

#: By name of a weight.
Bits = dict[str, int]


class Allocation(dict[str, int]):
    """Bits by name of a weight, 32 for float: ``overrides`` of ``compress`` and ``prepare``.

    ``str`` gives a table.

    Attributes:
        bytes: of the whole model, all counted.
        lost: the share of noise, if those of the weights alone add up.
        metric: what the user's metric gave for the whole; None where there was none.
        float_metric: what it gave for the float model.
    """

    def __init__(
        self,
        bits: Mapping[str, int],
        sensitivity: Sensitivity,
        metric: float | None = None,
        float_metric: float | None = None,
    ) -> None:
        super().__init__(bits)
        self.metric, self.float_metric = metric, float_metric
        own = {name: sensitivity.weights[name] for name in bits}
        self.bytes = sensitivity.fixed + sum(one.bytes[bits[name]] for name, one in own.items())
        self.lost = sum(one.lost.get(bits[name], 0.0) for name, one in own.items())
        self._float_bytes = sensitivity.fixed + sum(one.bytes[FLOAT] for one in own.values())
        self._rows = [
            [name, str(bits[name]), _alone(one, bits[name]), str(one.bytes[bits[name]])]
            for name, one in own.items()
        ]

    @property
    def sqnr(self) -> float:
        """Signal to quantisation noise in dB, if the noises of the weights alone add up."""
        return decibels(self.lost)

    def __str__(self) -> str:
        table = columns([["weight", "bits", "SQNR dB alone", "bytes"], *self._rows], {1, 2, 3})
        lines = [
            table,
            f"{self.bytes} bytes of {self._float_bytes} in float; "
            f"{self.sqnr:.1f} dB if the noises of the weights add up",
        ]
        if self.metric is not None:
            lines.append(f"metric {self.metric:g}, of the float model {self.float_metric:g}")
        return "\n".join(lines)

    def toml(self) -> str:
        """``[quantise.overrides]``, as configurations of trainings have it."""
        lines = [f"# {self.bytes} bytes; 32 bits are float", "[quantise.overrides]"]
        lines += [f'"{name}" = {bits}' for name, bits in self.items()]
        return "\n".join(lines) + "\n"


def allocate(
    sensitivity: Sensitivity,
    budget: int | None = None,
    *,
    sqnr: float | None = None,
    metric: Callable[[nn.Module], float] | None = None,
    model: nn.Module | None = None,
    tolerance: float = 0.0,
    higher_is_better: bool = False,
    trials: int = 20,
    progress: Say | None = say_to_stderr,
    **options: Any,
) -> Allocation:
    """Choose bits for each weight; float is among the choices, for a layer of an LSTM as a whole.

    Exactly one of three is asked for:

    - ``budget``: of the allocations that take no more bytes, the one of least summed loss.
    - ``sqnr``: of those whose summed loss leaves this many dB, the one of fewest bytes.
    - ``metric``: few bytes with which the metric of the whole compressed model stays within
      ``tolerance`` of the float model's. Allocations that are best by their sums are measured by
      bisection, then weights get fewer bits one by one, those first that save most for what they
      lose, while the metric allows it [C].

    Args:
        sensitivity: what ``sensitivity`` gave.
        budget: bytes of the whole model: weights, and all that stays in float.
        sqnr: in dB, of the model's outputs, activations in float.
        metric: is given a compressed model and returns a number: a word error rate, an accuracy.
        model: the float model, for a metric.
        tolerance: how much worse than the float model's the metric may be, in its own unit.
        higher_is_better: of the metric.
        trials: compressed models to measure at most.
        progress: told in lines what was measured; None: nobody.
        options: of ``compress`` for the models to measure: ``inputs``, ``scales``, ...; its
            activation is the sensitivity's if none is given.

    Returns:
        Bits by weight. Where an interrupt ends a search, the best found until then.

    Raises:
        Error: not exactly one is asked for, no allocation reaches it, or a metric gives no number.
    """
    asked = [name for name, one in (("budget", budget), ("sqnr", sqnr), ("metric", metric)) if one
             is not None]  # fmt: skip
    if len(asked) != 1:
        raise Error(
            "allocate: give one of budget, sqnr and metric, "
            f"got {' and '.join(asked) if asked else 'none'}."
        )
    units = Units(sensitivity)
    if budget is not None:
        check_numbers("allocate", int, budget=budget)
        return units.within(budget)
    if sqnr is not None:
        check_numbers("allocate", sqnr=sqnr)
        return units.reaching(sqnr)
    assert metric is not None
    from gq_tvm.quantize.allocation.search import Search

    if model is None:
        raise Error("allocate: a metric needs the float model too; give model.")
    check_numbers("allocate", tolerance=tolerance)
    check_numbers("allocate", int, trials=trials)
    if tolerance < 0 or trials < 1:
        raise Error("allocate: tolerance must be 0 or more, and trials 1 or more.")
    options = {"activation": sensitivity.activation, "progress": None, **options}
    search = Search(units, metric, model, options, higher_is_better, progress or (lambda line: 0))
    return search.run(tolerance, trials)


@dataclass(frozen=True)
class Option:
    """Bits for the weights of a unit, with what they take and lose."""

    bits: Bits
    size: int
    lost: float


class Units:
    """What gets bits together: a weight, or the two of a layer of an LSTM or GRU.

    Attributes:
        options: of each unit, those that no smaller one beats, by size.
    """

    def __init__(self, sensitivity: Sensitivity) -> None:
        if not sensitivity.weights:
            raise Error("allocate: the sensitivity has no weight; measure again.")
        self.sensitivity = sensitivity
        layers: dict[str, dict[str, OneWeight]] = defaultdict(dict)
        for name, one in sensitivity.weights.items():
            layers[one.layer][name] = one
        self.options = [_options(weights) for weights in layers.values()]

    def within(self, budget: int) -> Allocation:
        """Of least summed loss within a budget of bytes."""
        fixed = self.sensitivity.fixed
        front = self._front(budget - fixed)
        if front is None:
            least = fixed + sum(options[0].size for options in self.options)
            raise Error(no_budget(budget, least, fixed))
        return self._allocation(front.chosen(len(front.sizes) - 1))

    def reaching(self, sqnr: float) -> Allocation:
        """Of fewest bytes with a summed loss of so many dB."""
        front = self._front(sum(options[-1].size for options in self.options))
        assert front is not None
        state = front.within(10 ** (-sqnr / 10))
        if state is None:  # float loses nothing, but steps of the budget may have passed over it
            return self._allocation([-1] * len(self.options))
        return self._allocation(front.chosen(state))

    def front(self, most: int) -> list[Allocation]:
        """Allocations that no smaller one beats, by size, about evenly spread in dB."""
        front = self._front(sum(options[-1].size for options in self.options))
        assert front is not None
        # Of what loses nothing, or all, the level is beyond those aimed at.
        levels = -10 * np.log10(np.clip(front.costs, 1e-30, 100.0))
        live = levels[front.costs > 0]
        top = float(live.max()) if len(live) else 0.0
        states = [0, len(levels) - 1]
        for aim in np.linspace(levels[0], top, most):
            states.append(int(np.abs(levels - aim).argmin()))
        found = [self._allocation(front.chosen(state)) for state in sorted(set(states))]
        return [*found, self._allocation([-1] * len(self.options))]

    def _front(self, budget: int) -> Front | None:
        groups = [[Choice(one.size, one.lost) for one in options] for options in self.options]
        return Front.of(groups, budget)

    def _allocation(self, chosen: Sequence[int]) -> Allocation:
        bits: Bits = {}
        for options, number in zip(self.options, chosen, strict=True):
            bits |= options[number].bits
        return self.allocation(bits)

    def allocation(self, bits: Bits) -> Allocation:
        """Of these bits, in the order of the sensitivity."""
        ordered = {name: bits[name] for name in self.sensitivity.weights}
        return Allocation(ordered, self.sensitivity)


def no_budget(budget: int, least: int, fixed: int) -> str:
    """The refusal of a budget that nothing fits in."""
    return (
        f"a budget of {budget} bytes cannot be met: the smallest choices need {least}, of "
        f"which {fixed} stay in float; raise the budget, or choose fewer bits"
    )


def _options(weights: Mapping[str, OneWeight]) -> list[Option]:
    """All together in float, or each with bits of its own; by size, the beaten left out."""
    every = [
        Option(dict.fromkeys(weights, FLOAT), sum(w.bytes[FLOAT] for w in weights.values()), 0)
    ]
    for widths in itertools.product(*(one.lost for one in weights.values())):
        pairs = list(zip(weights.values(), widths, strict=True))
        size = sum(one.bytes[bits] for one, bits in pairs)
        lost = sum(one.lost[bits] for one, bits in pairs)
        every.append(Option(dict(zip(weights, widths, strict=True)), size, lost))
    kept: list[Option] = []
    for option in sorted(every, key=lambda one: (one.size, one.lost)):
        if not kept or option.lost < kept[-1].lost:
            kept.append(option)
    return kept


def _alone(one: OneWeight, bits: int) -> str:
    return "" if bits == FLOAT else f"{one.sqnr(bits):.1f}"
