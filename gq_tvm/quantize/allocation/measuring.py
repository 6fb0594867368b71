"""Measuring what each weight of a model loses at few bits, alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from gq_tvm import interrupts
from gq_tvm.errors import Error
from gq_tvm.quantize.allocation.outputs import FloatOutputs
from gq_tvm.quantize.allocation.progress import Say, minutes, say_to_stderr
from gq_tvm.quantize.allocation.sensitivity import FLOAT, OneWeight, Sensitivity, decibels
from gq_tvm.quantize.allocation.weights import FloatWeights
from gq_tvm.quantize.calibration.inputs import Inputs
from gq_tvm.quantize.drop_in.copying import check_is_model


def sensitivity(
    model: nn.Module,
    inputs: Any,
    choices: Sequence[int] = (2, 3, 4, 5, 6, 8),
    activation: str | Mapping[str, str] = "int8",
    *,
    scales: str | int | None = None,
    progress: Say | None = say_to_stderr,
) -> Sensitivity:
    """Measure what each weight of a float model loses at each number of bits, alone [C].

    One weight after another is put into its codebook of least error, as ``compress`` without
    inputs has it, while all others and all activations stay in float; the outputs of the model are
    compared with the float model's. Of each output the share of noise is taken, noise power over
    signal power, and of these the mean. So weights of unlike models and outputs compare, and the
    shares of small independent noises add up, which ``allocate`` relies on.

    Args:
        model: with trained float32 weights; it is left as it was.
        inputs: as in ``compress``. A function's calls of the model are compared one by one.
        choices: bits to measure, each 1 to 8.
        activation: what the codebooks are for, as in ``compress``: with integers their centroids
            lie on int8 grids.
        scales: as in ``compress``, for all weights.
        progress: told in lines how the work goes on; None: nobody.

    Returns:
        What was measured. Ctrl-C ends the work after the measurement under way: what was measured
        until then is returned, the other weights being ``unmeasured``; a second one raises
        KeyboardInterrupt.

    Raises:
        Error: inputs do not fit the model, are none, or hold NaN; the model has no weight to
            quantise or its outputs are not finite; an option is out of range.
    """
    try:
        return _measured(model, inputs, choices, activation, scales, progress or (lambda line: 0))
    except Error as refusal:
        raise Error(re.sub("^(prepare|fit|describe):", "sensitivity:", str(refusal))) from None


def _measured(
    model: nn.Module,
    inputs: Any,
    choices: Sequence[int],
    activation: str | Mapping[str, str],
    scales: str | int | None,
    say: Callable[[str], object],
) -> Sensitivity:
    check_is_model("sensitivity", model)
    widths = _widths(choices)
    examples = Inputs.of(inputs, "sensitivity")
    weights = FloatWeights(model, activation, "sensitivity")
    whole = weights.bytes()
    goal = FloatOutputs(weights.model, examples, "sensitivity")
    total = len(weights.places) * len(widths)
    say(f"sensitivity: {total} ways to quantise one of {len(weights.places)} weights")
    found: dict[str, OneWeight] = {}
    stopped: list[bool] = []
    begun, done = time.monotonic(), 0

    def stop() -> None:
        stopped.append(True)
        say("sensitivity: stopping after this measurement; Ctrl-C once more ends at once")

    with interrupts.noted(stop):
        for name, place in weights.places.items():
            sizes, lost = {FLOAT: weights.float_size(name)}, {}
            for bits in widths:
                if stopped:
                    break
                coded = weights.coded(name, bits, scales)
                with weights.having({name: weights.value(name, coded)}):
                    lost[bits] = goal.lost()
                sizes[bits] = weights.size(name, coded)
                done += 1
                left = minutes((time.monotonic() - begun) / done * (total - done))
                said = f"{decibels(lost[bits]):.1f} dB"
                say(f"{done}/{total}  {name} at {bits} bits: {said}; {left} left")
            if len(lost) == len(widths):
                shape = tuple(place.parameter.shape)
                found[name] = OneWeight(shape, weights.layer(name), sizes, lost)
    if not found:
        raise KeyboardInterrupt
    return _ranked(weights, found, whole, activation)


def _ranked(
    weights: FloatWeights,
    found: dict[str, OneWeight],
    whole: int,
    activation: str | Mapping[str, str],
) -> Sensitivity:
    """Of a layer of an LSTM or GRU both weights are kept, or none."""
    missing = {weights.layer(name) for name in weights.places if name not in found}
    kept = {name: one for name, one in found.items() if one.layer not in missing}
    fixed = whole - sum(one.bytes[FLOAT] for one in kept.values())
    ranked = dict(sorted(kept.items(), key=lambda entry: entry[1].mean))
    unmeasured = [name for name in weights.places if name not in kept]
    return Sensitivity(ranked, fixed, activation, unmeasured)


def _widths(choices: Sequence[int]) -> list[int]:
    try:
        given = sorted(set(choices))
    except TypeError:
        given = []
    if not given or any(type(bits) is not int or not 1 <= bits <= 8 for bits in given):
        raise Error(f"sensitivity: choices must be bits from 1 to 8, got {choices!r}.")
    return given
