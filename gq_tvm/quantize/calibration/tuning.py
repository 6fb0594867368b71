"""The last stage of calibration: a compressed model learns from the float one.

Levels, scales and indices of all weights, biases and norms are moved by gradient, to bring the
outputs of every layer, and of the model, to those of the float model on the calibration inputs. No
label is needed. What a weight of a recurrent layer changes adds up over time, so that some models
only gain where these learn slowly and keep their indices: both ways are gone, the better is kept.
Learning scales end to end is what AQLM (arXiv 2401.06118, 3.4) and EfficientQAT (arXiv 2407.11062)
do; places that learn straight through, and the sum of relative errors over all layers, are ours
[C].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.quantize.calibration.inputs import Inputs, Run, Say, evaluating
from gq_tvm.quantize.drop_in.recurrent import each_layer
from gq_tvm.quantize.losses import floats_of
from gq_tvm.quantize.quantisers.quantizer import Quantizer
from gq_tvm.quantize.quantisers.tuned import GENTLY, Tuned
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer, quantised_weights
from gq_tvm.quantize.training_layers.quant_recurrent import QuantRecurrent

_VECTOR = 1e-2  # Adam's rate for biases and norms, in units of their root mean square
_BETAS = (0.9, 0.99)
_WARM_UP = 5  # steps
_TOLD = 10  # of so many steps one is told of
# A step takes examples until their layers' outputs have so many elements.
_STEP_ELEMENTS = 2**18
# Of eight examples and more, one of eight is not learnt from: it says whether learning helped.
_HELD_OUT = 8


def tune(prepared: nn.Module, original: nn.Module, inputs: Inputs, steps: int, say: Say) -> None:
    """Let a compressed model learn from the float one.

    Args:
        prepared: with quantisers that are fitted; those, its biases and its norms are changed in
            place, unless the model's outputs came out no nearer to the float ones, or there is
            nothing to learn or no call to learn from.
        original: the float model it is a copy of.
        inputs: what it was calibrated with; of a function, the calls of the model that it makes.
        steps: of Adam.
        say: is told how far it is, and the noise of the model's outputs before and after.
    """
    if steps < 1:
        return
    runs = inputs.calls(original)
    if not runs or not _can_learn(prepared):
        return
    held_out = learnt = runs
    if len(runs) >= _HELD_OUT:
        held_out = runs[::_HELD_OUT]
        learnt = [run for number, run in enumerate(runs) if number % _HELD_OUT]
    kept: tuple[dict[Quantizer, Tuned], dict[nn.Parameter, Tensor]] | None = None
    with evaluating(original), evaluating(prepared):
        goals = [_floats(run(original)) for run in held_out]
        before = after = _noise(prepared, held_out, goals)
        for gently in (False, True) if _stacks(prepared) else (False,):
            tuned = _learning(prepared, gently)
            with _undone(prepared, tuned) as undo:
                _learn(_Pair(prepared, original), list(tuned.values()), learnt, steps, gently, say)
                noise = _noise(prepared, held_out, goals)
                if noise < after:
                    after, kept = noise, (tuned, {p: p.data for p in _vectors(prepared)})
                undo()
        if kept is not None:
            _swap(prepared, kept[0])
            for parameter, value in kept[1].items():
                parameter.data = value
    say(f"tuning: the outputs' noise was {before:.2%} of their power, and is {after:.2%}")


@contextmanager
def _undone(prepared: nn.Module, tuned: dict[Quantizer, Tuned]) -> Iterator[Callable[[], None]]:
    """With the learning quantisers in the place of the others; all comes back if it fails."""
    vectors = {p: p.data.clone() for p in _vectors(prepared)}
    before = _swap(prepared, tuned)

    def undo() -> None:
        for layer, attribute, quantizer in before:
            layer.quantizers[attribute] = quantizer
        for parameter, value in vectors.items():
            parameter.data = value

    try:
        yield undo
    except BaseException:
        undo()
        raise


def _can_learn(prepared: nn.Module) -> bool:
    return any(
        Tuned.takes(layer.hardened(attribute))
        for _, layer, attribute in quantised_weights(prepared)
    )


def _learning(prepared: nn.Module, gently: bool) -> dict[Quantizer, Tuned]:
    """For each quantiser of the model whose weight can learn on, the one that lets it."""
    found: dict[Quantizer, Tuned] = {}
    for _, layer, attribute in quantised_weights(prepared):
        quantizer = layer.quantizer(attribute)
        if quantizer in found:
            continue
        weight = layer.hardened(attribute)
        if Tuned.takes(weight):
            slow = gently and isinstance(layer, QuantRecurrent)
            found[quantizer] = Tuned(weight, quantizer.int8_grid, slow)
    return found


def _swap(
    prepared: nn.Module, tuned: dict[Quantizer, Tuned]
) -> list[tuple[QuantLayer, str, Quantizer]]:
    """Put the learning quantisers in the place of the others, which are given back."""
    before = []
    for _, layer, attribute in list(quantised_weights(prepared)):
        quantizer = layer.quantizer(attribute)
        if quantizer in tuned:
            before.append((layer, attribute, quantizer))
            layer.quantizers[attribute] = tuned[quantizer]
    return before


def _stacks(prepared: nn.Module) -> list[QuantRecurrent]:
    return [one for one in prepared.modules() if isinstance(one, QuantRecurrent)]


def _vectors(prepared: nn.Module) -> list[nn.Parameter]:
    """Biases and norms: what is no weight and belongs to no quantiser."""
    own = {p for m in prepared.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    return [p for p in prepared.parameters() if p.dim() == 1 and p not in own]


class _Pair:
    """Both models, run on the same examples, and what their layers give."""

    def __init__(self, prepared: nn.Module, original: nn.Module) -> None:
        self.prepared, self._original = prepared, original
        self._names = [n for n, one in prepared.named_modules() if isinstance(one, QuantLayer)]

    def outputs(self, run: Run) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Each layer's outputs with their names, and the model's: the learning one's, the goal."""
        with torch.no_grad():
            goals = self._of(self._original, run)
        found = self._of(self.prepared, run)
        for (name, goal), (other, tensor) in zip(goals, found, strict=False):
            if name == other and tensor.shape == goal.shape:
                yield name, tensor, goal

    def _of(self, model: nn.Module, run: Run) -> list[tuple[str, Tensor]]:
        found: list[tuple[str, Tensor]] = []

        def keep(name: str, output: Any) -> None:
            found.extend((f"{name} {n}", tensor) for n, tensor in enumerate(_floats(output)))

        with ExitStack() as hooks:
            for name in self._names:
                layer = model.get_submodule(name)
                hooks.enter_context(_heard(layer, partial(keep, name), partial(keep, name + ".y")))
            keep("", run(model))
        return found


@contextmanager
def _heard(
    layer: nn.Module, keep: Callable[[Any], None], between: Callable[[Any], None]
) -> Iterator[None]:
    """A layer whose outputs are kept; of a stack of recurrent ones what each of them gives, too."""

    def hook(module: nn.Module, args: Any, named: Any, output: Any) -> None:
        if isinstance(module, nn.RNNBase) and not isinstance(module, QuantLayer):
            each_layer(module, between, *args, **named)
        keep(output)

    if isinstance(layer, QuantRecurrent):
        layer.observer = between
    try:
        with layer.register_forward_hook(hook, with_kwargs=True):
            yield
    finally:
        if isinstance(layer, QuantRecurrent):
            layer.observer = None


def _learn(
    pair: _Pair,
    tuned: Sequence[Tuned],
    runs: Sequence[Run],
    steps: int,
    gently: bool,
    say: Say,
) -> None:
    groups = [group for one in tuned for group in one.rates()]
    slow = {p for one in _stacks(pair.prepared) for p in one.parameters(recurse=False) if gently}
    for vector in _vectors(pair.prepared):
        size = float(vector.detach().square().mean().sqrt())
        rate = _VECTOR * (GENTLY if vector in slow else 1.0)
        groups.append({"params": [vector], "lr": rate * max(size, 1e-3)})
    adam = torch.optim.Adam(groups, betas=_BETAS)
    rates = [group["lr"] for group in adam.param_groups]
    examples = cycle(runs)
    begun = time.monotonic()
    with _training(pair.prepared), _only(groups, pair.prepared), torch.enable_grad():
        for step in range(steps):
            share = min(1.0, (step + 1) / _WARM_UP) * (1 - step / steps)
            for group, rate in zip(adam.param_groups, rates, strict=True):
                group["lr"] = rate * share
            loss = _loss(pair, examples, len(runs))
            adam.zero_grad()
            if loss is None:
                return
            loss.backward()
            adam.step()
            left = (time.monotonic() - begun) / (step + 1) * (steps - step - 1)
            if (step + 1) % _TOLD == 0 or step + 1 == steps:
                say(f"tuning, step {step + 1} of {steps}: {loss.item():.4f}, {left:.0f} s left")


def _loss(pair: _Pair, examples: Iterator[Run], most: int) -> Tensor | None:
    """The mean over layers of noise over power, on some examples; None if nothing depends."""
    noise: dict[str, Tensor] = {}
    power: dict[str, Tensor] = {}
    elements = 0
    for run in islice(examples, most):
        for name, found, goal in pair.outputs(run):
            if found.requires_grad:
                noise[name] = noise.get(name, 0) + (found - goal).square().sum()
                power[name] = power.get(name, 0) + goal.square().sum()
                elements += goal.numel()
        if elements >= _STEP_ELEMENTS:
            break
    terms = [noise[name] / power[name] for name in noise if power[name] > 0]
    return torch.stack(terms).mean() if terms else None


def _noise(model: nn.Module, runs: Sequence[Run], goals: Sequence[list[Tensor]]) -> float:
    """The noise of a model's outputs over their power."""
    noise = power = 0.0
    for run, goal in zip(runs, goals, strict=True):
        for found, wanted in zip(_floats(run(model)), goal, strict=True):
            noise += float((found - wanted).double().square().sum())
            power += float(wanted.double().square().sum())
    return noise / power if power > 0 else noise


def _floats(output: Any) -> list[Tensor]:
    return [tensor for _, tensor in floats_of(output)]


@contextmanager
def _training(prepared: nn.Module) -> Iterator[None]:
    """Our layers compute differentiably; all others, and all dropout, as when deployed."""
    layers: list[Any] = [one for one in prepared.modules() if isinstance(one, QuantLayer)]
    dropouts = {one: one.dropout for one in layers if isinstance(getattr(one, "dropout", 0), float)}
    try:
        for one in layers:
            one.training = True
            if one in dropouts:
                one.dropout = 0.0
        yield
    finally:
        for one in layers:
            one.training = False
            if one in dropouts:
                one.dropout = dropouts[one]


@contextmanager
def _only(groups: Sequence[dict[str, Any]], prepared: nn.Module) -> Iterator[None]:
    """Gradients for what learns and nothing else."""
    learning = {p for group in groups for p in group["params"]}
    before = {p: p.requires_grad for p in [*prepared.parameters(), *learning]}
    try:
        for parameter in before:
            parameter.requires_grad_(parameter in learning)
        yield
    finally:
        for parameter, asked in before.items():
            parameter.requires_grad_(asked)
            parameter.grad = None
