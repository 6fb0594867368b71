"""Measuring what each weight of a model loses at few bits, alone."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from torch import nn

from gq_tvm import interrupts
from gq_tvm.errors import Error
from gq_tvm.quantize.allocation.outputs import FloatOutputs
from gq_tvm.quantize.allocation.progress import minutes
from gq_tvm.quantize.allocation.sensitivity import FLOAT, OneWeight, Sensitivity, decibels
from gq_tvm.quantize.allocation.weights import FloatWeights
from gq_tvm.quantize.calibration.calibrate import Calibration
from gq_tvm.quantize.calibration.fitted import Fitted
from gq_tvm.quantize.calibration.inputs import Inputs
from gq_tvm.quantize.compress import Say, choose_forms, names_of, say_to_stderr, undecided
from gq_tvm.quantize.drop_in.copying import copied
from gq_tvm.quantize.fitting import Form, fit
from gq_tvm.quantize.prepare import attach


def sensitivity(
    model: nn.Module,
    inputs: Any,
    choices: Sequence[int] = (2, 3, 4, 5, 6, 8),
    activation: str | Mapping[str, str] = "int8",
    *,
    scales: str | int | Mapping[str, str | int] | None = None,
    outliers: float | None = None,
    progress: Say | None = say_to_stderr,
) -> Sensitivity:
    """Measure what each weight of a float model loses at each number of bits, alone [C].

    One weight after another is put into its codebook of least error for these inputs, while all
    others and all activations stay in float; the outputs of the model are compared with the float
    model's. What integer activations cost is not in it (``losses`` of the compressed model says
    that). Of each output the share of noise is taken, noise power over
    signal power, and of these the mean. So weights of unlike models and outputs compare, and the
    shares of small independent noises add up, which ``allocate`` relies on.

    Args:
        model: with trained float32 weights; it is left as it was.
        inputs: as in ``compress``. A function's calls of the model are compared one by one.
        choices: bits to measure, each 1 to 8.
        activation: what the codebooks are for, as in ``compress``: with integers their centroids
            lie on int8 grids.
        scales: as in ``compress``.
        outliers: as in ``compress``.
        progress: told in lines how the work goes on; None: nobody.

    Returns:
        What was measured. Ctrl-C ends the work after the measurement under way: what was measured
        until then is returned, the other weights being ``unmeasured``; a second one raises
        KeyboardInterrupt.

    Raises:
        Error: inputs do not fit the model, are none, or hold NaN; the model has no weight to
            quantise or its outputs are not finite; an option is out of range.
    """
    widths = _widths(choices)
    say = progress or (lambda line: None)
    prepared = copied(model, "sensitivity")
    try:
        examples = Inputs.of(inputs, "sensitivity")
        attach(prepared, widths[-1], None, activation, Fitted)
        names = names_of(prepared)
        forms: dict[int, dict[Fitted, Form]] = {}
        for bits in widths:
            for quantizer in names:
                quantizer.bits = bits
            choose_forms(prepared, names, scales, outliers)
            forms[bits] = {quantizer: quantizer.form for quantizer in names}
        weights = FloatWeights(model, "sensitivity")
        whole = weights.bytes()
        open = undecided(prepared, names, activation)
        calibration = Calibration(prepared, names, examples, "sensitivity", say, open)
        found, interrupted = _measured(weights, calibration, examples, forms, say)
    except Error as refusal:
        raise Error(re.sub("^(prepare|compress|fit):", "sensitivity:", str(refusal))) from None
    if interrupted and not found:
        raise KeyboardInterrupt
    return _ranked(weights, found, whole, activation, interrupted)


def _measured(
    weights: FloatWeights,
    calibration: Calibration,
    inputs: Inputs,
    forms: Mapping[int, Mapping[Fitted, Form]],
    say: Callable[[str], object],
) -> tuple[dict[str, OneWeight], bool]:
    """Each weight that was measured at all widths, by name; and whether an interrupt came."""
    goal = FloatOutputs(weights.model, inputs, "sensitivity")
    found: dict[str, OneWeight] = {}
    stopped: list[bool] = []
    begun, done, total = time.monotonic(), 0, sum(map(len, forms.values()))

    def stop() -> None:
        stopped.append(True)
        say("sensitivity: stopping after this measurement; Ctrl-C once more ends at once")

    say(f"sensitivity: {total} ways to quantise one of {total // len(forms)} weights")
    with interrupts.noted(stop), closing(calibration.each(floats=True)) as every:
        for met in every:
            quantizer, name = met.reached.quantizer, met.reached.name
            sizes, lost = {FLOAT: weights.float_size(name)}, {}
            for bits in forms:
                if stopped:
                    return found, True
                form = replace(forms[bits][quantizer], int8_grid=quantizer.int8_grid)
                coded = fit(quantizer.rows, form, met.moments, met.rows).weight
                with weights.having({name: weights.value(name, coded, met.factors)}):
                    lost[bits] = goal.lost()
                sizes[bits] = coded.packed_bytes("int8" if quantizer.int8_grid else "fp32")
                done += 1
                left = minutes((time.monotonic() - begun) / done * (total - done))
                said = f"{name} at {bits} bits: {decibels(lost[bits]):.1f} dB"
                say(f"{done}/{total}  {said}; {left} left")
            shape = tuple(weights.places[name].parameter.shape)
            found[name] = OneWeight(shape, weights.layer(name), sizes, lost)
    if calibration.untouched:
        missed = ", ".join(calibration.names[one] for one in calibration.untouched)
        warnings.warn(
            f"sensitivity: no input reaches {missed}; not measured: give inputs that run them.",
            stacklevel=3,
        )
    return found, False


def _ranked(
    weights: FloatWeights,
    found: dict[str, OneWeight],
    whole: int,
    activation: str | Mapping[str, str],
    interrupted: bool,
) -> Sensitivity:
    """Of a layer of an LSTM or GRU both weights are kept, or none."""
    missing = {weights.layer(name) for name in weights.places if name not in found}
    kept = {name: one for name, one in found.items() if one.layer not in missing}
    fixed = whole - sum(one.bytes[FLOAT] for one in kept.values())
    ranked = dict(sorted(kept.items(), key=lambda entry: entry[1].mean))
    unmeasured = [name for name in weights.places if name not in kept]
    return Sensitivity(ranked, fixed, activation, unmeasured, interrupted)


def _widths(choices: Sequence[int]) -> list[int]:
    try:
        given = sorted(set(choices))
    except TypeError:
        given = []
    if not given or any(type(bits) is not int or not 1 <= bits <= 8 for bits in given):
        raise Error(f"sensitivity: choices must be bits from 1 to 8, got {choices!r}.")
    return given
