"""Weights compressed one after the other, each for the inputs it has behind those before it [C]."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gq_tvm.quantize.calibration.fitted import Fitted, Shown, correct_bias
from gq_tvm.quantize.calibration.inputs import Enough, Inputs, Say, evaluating
from gq_tvm.quantize.calibration.moments import Means, Moments
from gq_tvm.quantize.calibration.rounding import Suspect, keep_floats
from gq_tvm.quantize.calibration.sequences import Costs, Sequences
from gq_tvm.quantize.calibration.smoothing import (
    SAMPLE,
    USUAL,
    costs,
    factors,
    put_before,
    rounding_loss,
)
from gq_tvm.quantize.calibration.survey import Reached, Survey, groups
from gq_tvm.quantize.calibration.tap import Tap, Use
from gq_tvm.quantize.drop_in.recurrent import State, endings, is_first, weights_of
from gq_tvm.quantize.drop_in.replacement import factors_of
from gq_tvm.quantize.fitting import fit
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer, quantised_weights
from gq_tvm.quantize.training_layers.quant_recurrent import QuantRecurrent

# Weights of one group keep moments of at most so many bytes, and one matrix at least. The inputs
# are run again for each group; where that would take more multiplications, groups are joined.
_MOST_BYTES = 2**28
_MOST_WORK = 5e12
_FEWEST_RUNS = 8


@dataclass
class Collected:
    """What a group's weights met in a run of all inputs, by weight.

    Attributes:
        moments: shared by weights that meet the same inputs; absent for those only looked up.
        means: of the inputs.
        counts: f32 [N], how often ids chose each row.
    """

    moments: dict[Fitted, Moments]
    means: dict[Fitted, Means]
    counts: dict[Fitted, Tensor]


@dataclass(frozen=True)
class Met:
    """What a weight [N, K] meets, as ``fit`` takes it.

    Attributes:
        reached: the weight.
        moments: f32 [K, K], or None where it is only looked up.
        rows: f32 [N], what each of its rows counts, or None.
        means: of the inputs.
        factors: f32 [K], by which they were multiplied in front of the layer, and the weight
            divided; or None.
    """

    reached: Reached
    moments: Tensor | None
    rows: Tensor | None
    means: Means
    factors: Tensor | None


class Calibration:
    """The compression of a prepared model's weights with inputs.

    Args:
        model: prepared, its quantizers ``Fitted``.
        names: of the weights.
        inputs: what the model is run with.
        verb: who refuses.
        say: is told what was done.
        open: weights before which rows may stay floats, though int8 was asked for.

    Attributes:
        names: of the weights.
        reached: the weights that are, in the order of execution.
        untouched: weights that no input reaches; they stay in float.
        starved: weights, by name, with fewer rows of inputs than inputs: (rows, inputs).
    """

    def __init__(
        self,
        model: nn.Module,
        names: dict[Fitted, str],
        inputs: Inputs,
        verb: str,
        say: Say,
        open: Collection[Fitted] = (),
    ) -> None:
        self._model = model
        self._open = open
        self.names = names
        self._inputs = inputs
        self._say = say
        self._verb = verb
        self._tap = Tap(model)
        self._biases: list[Shown] = []
        # By layer and weight, and which of the layer's weights that is.
        self._costs: dict[tuple[QuantLayer, str], tuple[Costs, int]] = {}
        self._holders: dict[Fitted, list[tuple[QuantLayer, str]]] = defaultdict(list)
        for _, layer, attribute in quantised_weights(model):
            quantizer = layer.quantizer(attribute)
            assert isinstance(quantizer, Fitted)
            self._holders[quantizer].append((layer, attribute))
        self.reached: list[Reached] = []
        self.untouched: list[Fitted] = []
        self.starved: dict[str, tuple[int, int]] = {}

    def run(self) -> None:
        """Compress all weights that are reached."""
        clock = None
        with closing(self.each()) as each:  # an interrupt ends what watches the model, too
            for met in each:
                quantizer = met.reached.quantizer
                quantizer.take(fit(quantizer.rows, quantizer.form, met.moments, met.rows))
                self._correct_biases(quantizer, met.means)
                clock = clock or _Clock(self.reached, self._say)
                clock.tick(met.reached)

    def each(self, floats: bool = False) -> Generator[Met, None, None]:
        """The weights that are reached, in the order of execution, and what they meet.

        Those that were compressed meanwhile are so in the runs for the next ones. Rows are rounded
        as they will be in deployment, unless ``floats``.
        """
        with evaluating(self._model), self._tap:
            reached = self.reached = self._survey()
            self._smooth(reached)
            found = {one.quantizer for one in reached}
            self.untouched = [one for one in self.names if one not in found]
            for one in reached:
                width = one.quantizer.rows.shape[1]
                if one.multiplied and one.rows < width:
                    self.starved[one.name] = one.rows, width
            for group in self._groups(reached):
                collected = self._collect(group, floats)
                for one in group:
                    yield self._met(one, collected, floats)
                del collected  # before the next are collected

    def _survey(self) -> list[Reached]:
        survey = Survey(self.names, self._verb, max(1, SAMPLE // len(self._inputs)))
        with self._kept_sequences():
            for number, run in enumerate(self._inputs.runs()):
                survey.begin(number, f"{self._verb}: {self._inputs.name(number)}")
                self._tap.begin(floats=True, watch=survey)
                run(self._model)
        return survey.found()

    @contextmanager
    def _kept_sequences(self) -> Iterator[None]:
        """Let stacks of recurrent layers keep some of what reaches them."""
        stacks = [one for one in self._model.modules() if isinstance(one, QuantRecurrent)]
        every: dict[QuantRecurrent, dict[str, Sequences]] = {}
        for one in stacks:
            first = [ending for ending in endings(one) if is_first(ending)]
            every[one] = {
                ending: Sequences(one, ending)
                for ending in first
                if weights_of(one, ending)[0] in one.quantizers
            }
            one.entered = partial(_enter, every[one])
        try:
            yield
        finally:
            for one in stacks:
                one.entered = None
        for one, kept in every.items():
            for ending, sequences in kept.items():
                if not sequences.empty:
                    found = sequences.costs()
                    for number, name in enumerate(weights_of(one, ending)[: len(found.weights)]):
                        self._costs[one, name] = found, number

    def _smooth(self, reached: list[Reached]) -> None:
        """Put factors before inputs that rounded rows would hold badly, or leave rows floats."""
        suspects = []
        for one in reached:
            (layer, attribute), *others = self._holders[one.quantizer]
            if others or one.read or not one.multiplied:
                continue
            scalable = layer.scales_inputs_of(attribute)
            if layer.activation_of(attribute) != "int8" or not (
                scalable or isinstance(layer, nn.Conv1d)
            ):
                continue
            weight, matrix = one.quantizer.shown.float, one.quantizer.rows.cpu()
            taps = weight[0, 0].numel()  # 1 of a linear layer
            if (layer, attribute) in self._costs:
                found, _ = self._costs[layer, attribute]
                rows, cost = found.rows, found.inputs
            else:
                rows, cost = one.sample, costs(matrix, one.sample)
            scale, lost = (
                factors(matrix, rows, cost, taps) if scalable else (None, rounding_loss(rows, cost))
            )
            if scale is not None:
                one.quantizer.change(put_before(layer, attribute, weight, scale))
                one.stand_apart()
            if lost > USUAL:
                suspects.append(Suspect(layer, attribute, weight))
        suspects = [one for one in suspects if all(map(self._may_change, one.weights()))]
        about = self._model, self._tap, self._inputs
        kept = keep_floats(*about, suspects, self.names, self._say)
        for one in reached:
            if one.quantizer in kept:
                one.stand_apart()

    def _may_change(self, weight: Fitted) -> bool:
        return weight in self._open and len(self._holders[weight]) == 1

    def _groups(self, reached: list[Reached]) -> Iterator[list[Reached]]:
        work = sum(one.work for one in reached)
        runs = max(_FEWEST_RUNS, int(_MOST_WORK / max(work, 1.0)))
        yield from groups(reached, _MOST_BYTES, runs)

    def _collect(self, group: list[Reached], floats: bool) -> Collected:
        collected = Collected({}, {}, {})
        leaders: dict[object, Fitted] = {}  # of those with the same inputs, who collects
        for one in group:
            quantizer = one.quantizer
            if one.looked_up:
                collected.counts[quantizer] = torch.zeros(len(quantizer.rows))
            collected.means[quantizer] = Means()
            if one.multiplied:
                leader = leaders.setdefault(one.inputs, quantizer)
                if leader is quantizer:
                    collected.moments[quantizer] = Moments(quantizer.rows.shape[1])
                else:
                    collected.moments[quantizer] = collected.moments[leader]
        leading = set(leaders.values())
        for number, run in enumerate(self._inputs.runs()):
            watch = _Watch(collected, leading, self._left(group, number))
            self._tap.begin(floats, watch)
            with suppress(Enough):
                run(self._model)
        self._tap.begin(floats=False)
        return collected

    def _left(self, group: list[Reached], run: int) -> dict[Fitted, int] | None:
        """How often this run meets each weight of a group; None if it is not to be cut short."""
        if self._inputs.function:
            return None
        return {one.quantizer: one.uses.get(run, 0) for one in group}

    def _met(self, one: Reached, collected: Collected, floats: bool) -> Met:
        quantizer = one.quantizer
        moments, means = collected.moments.get(quantizer), collected.means[quantizer]
        counts = collected.counts.get(quantizer)
        # What a mean changes is left to the bias, where one is corrected.
        central = not floats and self._bias(quantizer) is not None
        square = None if moments is None else moments.square(central)
        if square is not None and counts is not None:
            # A look-up is a product with a single one: counted for all rows alike.
            square = square + torch.eye(len(square)) * counts.mean()
            counts = None
        elif counts is None and means.parted:
            counts = means.powers(len(quantizer.rows))
        elif counts is None:
            counts = self._costs_of_rows(quantizer)
        return Met(one, square, counts, means, self._factors(quantizer))

    def _factors(self, quantizer: Fitted) -> Tensor | None:
        layer, attribute = self._holders[quantizer][0]
        factors: Tensor | None = getattr(layer, factors_of(attribute), None)
        if factors is None:
            return None
        return factors.cpu().repeat_interleave(quantizer.rows.shape[1] // len(factors))

    def _costs_of_rows(self, quantizer: Fitted) -> Tensor | None:
        """What errors cost in the rows of a weight of a recurrent layer with a stack's inputs.

        None where frames count alike: rows then do, too, as far as so few derivatives can tell.
        """
        place, *others = self._holders[quantizer]
        if others or place not in self._costs:
            return None
        found, number = self._costs[place]
        return found.weights[number] if found.uneven else None

    def _bias(self, quantizer: Fitted) -> tuple[nn.Parameter, int] | None:
        """The bias behind a weight of one layer, as ``QuantLayer.bias_behind``."""
        if len(self._holders[quantizer]) > 1:
            return None
        ((layer, attribute),) = self._holders[quantizer]
        return layer.bias_behind(attribute)

    def _correct_biases(self, quantizer: Fitted, means: Means) -> None:
        """Let the bias behind a weight make up for what its inputs' mean changes."""
        place = self._bias(quantizer)
        if place is None:
            return
        bias, first = place
        by = means.products(quantizer.rows - quantizer.shown.compressed.flatten(1))
        whole = torch.zeros(len(bias), dtype=torch.float64)
        whole[first : first + len(by)] = by
        correct_bias(bias, self._biases, whole)


def _enter(kept: dict[str, Sequences], ending: str, x: Tensor, state: State) -> None:
    """Keep some of what enters a stack."""
    if ending in kept:
        kept[ending].add(x, state)


class _Watch:
    """Collects what meets the weights of a group, and ends the run once all have met theirs."""

    def __init__(
        self, collected: Collected, leading: set[Fitted], left: dict[Fitted, int] | None
    ) -> None:
        self._collected = collected
        self._leading = leading
        self._left = left
        self._last: dict[Fitted, Tensor] = {}
        self._ended = left is not None and not any(left.values())

    def __call__(self, use: Use, rows: Tensor, source: Tensor) -> None:
        if self._ended:
            raise Enough
        quantizer = use.quantizer
        if quantizer not in self._collected.means:
            return
        if quantizer in self._collected.counts and not rows.is_floating_point():
            counts = self._collected.counts[quantizer]
            counts += torch.bincount(rows.reshape(-1).cpu(), minlength=len(counts))
        else:
            self._add(use, rows, source)
        if self._left is not None:
            self._left[quantizer] -= 1
            self._ended = all(number <= 0 for number in self._left.values())

    def _add(self, use: Use, rows: Tensor, source: Tensor) -> None:
        quantizer = use.quantizer
        if quantizer in self._leading and source is not self._last.get(quantizer):
            self._collected.moments[quantizer].add(rows)
        self._last[quantizer] = source
        means = self._collected.means[quantizer]
        if rows.dim() == 4:  # of a convolution in groups: [B, T', groups, K]
            size = use.count // rows.shape[2]
            for number, part in enumerate(rows.unbind(2)):
                means.add(use.first + number * size, size, part)
        else:
            means.add(use.first, use.count, rows)


class _Clock:
    """Says which weight is done, and how long the rest will take."""

    def __init__(self, reached: list[Reached], say: Say) -> None:
        self._say = say
        self._all = sum(one.quantizer.rows.numel() for one in reached)
        self._count = len(reached)
        self._done, self._number = 0, 0
        self._begun = time.monotonic()

    def tick(self, one: Reached) -> None:
        """One more is done."""
        self._number += 1
        self._done += one.quantizer.rows.numel()
        gone = time.monotonic() - self._begun
        left = gone * (self._all - self._done) / self._done
        self._say(
            f"layer {self._number} of {self._count}, {one.name}: "
            f"{one.quantizer.lost**2:.2%} lost, {left:.0f} s left"
        )
