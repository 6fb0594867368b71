"""Quantise a trained model without training it further."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from gq_tvm.errors import Error
from gq_tvm.ops.checks import SHARED_SCALES
from gq_tvm.quantize.calibration.calibrate import Calibration
from gq_tvm.quantize.calibration.fitted import Fitted
from gq_tvm.quantize.calibration.inputs import Inputs, Say
from gq_tvm.quantize.calibration.tuning import tune as tuned
from gq_tvm.quantize.convert import convert
from gq_tvm.quantize.drop_in.arguments import check_numbers, check_patterns
from gq_tvm.quantize.drop_in.copying import copied
from gq_tvm.quantize.drop_in.supported import find_weights
from gq_tvm.quantize.fitting import Form, fit
from gq_tvm.quantize.losses import losses
from gq_tvm.quantize.prepare import attach, listed, matched_weights
from gq_tvm.quantize.training_layers.quant_layers import quantised_weights

_MUCH = 0.1  # of a weight's norm, that its codebook loses
_DEFAULT_GROUP = 32
# Left open, a model that has weights of so few bits is tuned for so many steps.
_TUNED_BITS, _STEPS = 4, 100


def say_to_stderr(line: str) -> None:
    """The default of ``progress``."""
    print(line, file=sys.stderr, flush=True)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a model was compressed with inputs: what was computed is kept.

    Attributes:
        done: weights that have their codebooks.
        total: weights to be compressed.
    """

    def __init__(self, prepared: nn.Module, names: Mapping[Fitted, str]) -> None:
        self.done = sum(one.done for one in names)
        self.total = len(names)
        self._prepared, self._names = prepared, names
        super().__init__(f"compress: interrupted with {self.done} of {self.total} weights done")

    def model(self) -> nn.Module:
        """The compressed model; the weights not reached are compressed without inputs."""
        _fit_weights([one for one in self._names if not one.done])
        return _deployed(self._prepared, self._names)


def compress(
    model: nn.Module,
    bits: int | None = 4,
    overrides: Mapping[str, int | None] | None = None,
    activation: str | Mapping[str, str] = "int8",
    *,
    inputs: Any = None,
    scales: str | int | Mapping[str, str | int] | None = None,
    outliers: float | None = None,
    tune: int | None = None,
    progress: Say | None = say_to_stderr,
) -> nn.Module:
    """Put each weight in the codebook that errs least, as it is deployed [C].

    With ``inputs`` the errors that count are those of the layers' outputs: each weight is fitted
    to the inputs it meets behind the layers compressed before it, and the bias behind it makes up
    for the mean of what is changed; then the whole learns from the float model (see ``tune``). What
    is lost is said at the end, and a warning says where it
    is much (see ``losses``). Without, weights that lose more than a tenth of their norm are named
    in a warning.

    Args:
        model: with trained float32 weights; it is left as it was.
        bits: see ``prepare``.
        overrides: see ``prepare``.
        activation: see ``prepare``. With ``inputs``, rows stay floats (``"fp32"``, which
            ``describe`` shows) before a layer where int8 alone would cost the model too much, and
            ``progress`` is told; not where a pattern says what they are (``{"*": "int8"}``).
        inputs: an iterable of examples, each a tuple of the model's arguments (or a tensor, or a
            dictionary of keyword arguments); or a function that is given the model and runs it.
            Some thousand rows should reach each layer. The model runs several times with them, in
            eval mode.
        scales: ``"tensor"``, ``"row"``, or how many inputs of a row share one: 16, 32, 64 or 128;
            or these by pattern, as in ``overrides``; None: 32, but a row where weights have 1 bit
            or activations 1 or 2.
        outliers: the largest share of weights kept apart at 16 bits, 0 to 0.005; None: 0.002, and
            only in weights that lose half as much for it.
        tune: steps of gradient descent that move levels, scales, indices, biases and norms to
            where the layers' outputs are nearest to the float model's, with ``inputs``. They need
            several times the model's memory. None: 100 where a weight has 4 bits or fewer, else 0.
        progress: told in lines how the work goes on and what is lost; None: nobody.

    Returns:
        A copy with codebook layers, as ``convert`` gives it.

    Raises:
        Error: as ``prepare``; or inputs that do not fit the model, are none, or hold NaN; or
            ``tune`` is below 0, or is asked for without inputs.
        Interrupted: on Ctrl-C, once a weight is compressed with inputs; it holds the rest.
    """
    say = progress or (lambda line: None)
    if tune is not None and (type(tune) is not int or tune < 0):
        raise Error(f"compress: tune must be a number of steps, 0 or more, got {tune!r}.")
    if tune and inputs is None:
        raise Error("compress: tune needs inputs to learn from; give some, or leave tune out.")
    prepared = copied(model, "compress")
    try:
        attach(prepared, bits, overrides, activation, Fitted)
        names = names_of(prepared)
        choose_forms(prepared, names, scales, outliers)
        if inputs is None:
            _fit_weights(list(names))
            _say_what_is_lost(names)
            return _deployed(prepared, names)
        examples = Inputs.of(inputs, "compress")
        _calibrate(prepared, names, examples, say, undecided(prepared, names, activation))
        if tune is None:
            tune = _STEPS if any(one.bits <= _TUNED_BITS for one in names) else 0
        try:
            tuned(prepared, model, examples, tune, say)
        except KeyboardInterrupt:
            raise Interrupted(prepared, names) from None
        compressed = _deployed(prepared, names)
    except Error as refusal:
        raise Error(re.sub("^(prepare|convert|fit):", "compress:", str(refusal))) from None
    lost = losses(model, compressed, examples)
    say(str(lost))
    for sentence in lost.warnings():
        warnings.warn(f"compress: {sentence}", stacklevel=2)
    return compressed


def names_of(prepared: nn.Module) -> dict[Fitted, str]:
    """Each weight with the first of its names."""
    names: dict[Fitted, str] = {}
    for name, layer, attribute in quantised_weights(prepared):
        quantizer = layer.quantizer(attribute)
        assert isinstance(quantizer, Fitted)
        names.setdefault(quantizer, name)
    return names


def choose_forms(
    prepared: nn.Module, names: Mapping[Fitted, str], scales: Any, outliers: float | None
) -> None:
    """Set the form of each weight by its bits and what ``compress`` was told."""
    if outliers is not None:
        check_numbers("compress", outliers=outliers)
    default, patterns = (None, scales) if isinstance(scales, Mapping) else (scales, {})
    check_patterns("compress", scales=patterns)
    for value in (default, *patterns.values()):
        if value is not None and value not in SHARED_SCALES:
            raise Error(
                'compress: scales must be "tensor", "row", or one for 16, 32, 64 or 128 inputs, '
                f"got {value!r}."
            )
    weights = find_weights(prepared)
    explicit = {
        id(w.parameter): v for p, v in patterns.items() for w in matched_weights(p, weights)
    }
    few_bits = {
        layer.quantizer(attribute)
        for _, layer, attribute in quantised_weights(prepared)
        if layer.activation_of(attribute) in ("int1", "int2")
    }
    for quantizer in names:
        chosen = explicit.get(id(quantizer.shown.parameter), default)
        if chosen is None:
            chosen = "row" if quantizer in few_bits or quantizer.bits == 1 else _DEFAULT_GROUP
        if isinstance(chosen, int) and chosen >= quantizer.rows.shape[1]:
            chosen = "row"
        quantizer.form = Form(quantizer.bits, quantizer.int8_grid, chosen, outliers)


def _fit_weights(quantizers: list[Fitted]) -> None:
    for quantizer in quantizers:
        quantizer.take(fit(quantizer.rows, quantizer.form))


def undecided(
    prepared: nn.Module, names: Mapping[Fitted, str], activation: str | Mapping[str, str]
) -> list[Fitted]:
    """The weights of which no pattern says how rows before them are rounded."""
    weights = find_weights(prepared)
    patterns = activation if isinstance(activation, Mapping) else {}
    said = {id(w.parameter) for p in patterns for w in matched_weights(p, weights)}
    return [one for one in names if id(one.shown.parameter) not in said]


def _calibrate(
    prepared: nn.Module, names: dict[Fitted, str], inputs: Inputs, say: Say, open: list[Fitted]
) -> None:
    calibration = Calibration(prepared, names, inputs, "compress", say, open)
    try:
        calibration.run()
    except KeyboardInterrupt:
        if any(one.done for one in names):
            raise Interrupted(prepared, names) from None
        raise
    _fit_weights(calibration.untouched)
    if calibration.untouched:
        warnings.warn(
            f"compress: no input reaches {listed([names[q] for q in calibration.untouched])}; "
            "compressed without inputs: give inputs that run them.",
            stacklevel=3,
        )
    if calibration.starved:
        few = [
            f"{name} ({rows} rows, {width} inputs)"
            for name, (rows, width) in calibration.starved.items()
        ]
        warnings.warn(
            f"compress: fewer rows than inputs reach {listed(few)}; give more inputs.",
            stacklevel=3,
        )


def _deployed(prepared: nn.Module, names: Mapping[Fitted, str]) -> nn.Module:
    for quantizer in names:
        quantizer.forget_floats()
    return convert(prepared)


def _say_what_is_lost(names: Mapping[Fitted, str]) -> None:
    """One warning of all weights that lose much, the worst first."""
    much = sorted((q for q in names if q.lost > _MUCH), key=lambda q: -q.lost)
    if not much:
        return
    named = listed([f"{names[q]} {q.lost:.0%} ({_bits(q)})" for q in much])
    warnings.warn(
        f"compress: {len(much)} of {len(names)} weights lose more than {_MUCH:.0%} of their norm: "
        f"{named}; {_cure(much)}.",
        stacklevel=3,
    )


def _bits(quantizer: Fitted) -> str:
    return f"{quantizer.bits} bit{'s' * (quantizer.bits > 1)}"


def _cure(much: list[Fitted]) -> str:
    cures = ["give inputs"]
    cures += ["more bits"] * any(q.bits < 8 for q in much)
    cures += ["scales=32"] * any(isinstance(q.form.scales, str) for q in much)
    cures += ['activation "fp32"'] * any(q.int8_grid and q.bits > 4 for q in much)
    last = "training (quantize.prepare) or bits of None, which leaves them in float"
    return ", ".join([*cures, last])
