"""Where the rows before a weight stay floats, because integers would cost the model too much [C].

A layer is suspect if rounding its rows to int8 loses more than some ten times the usual share of
what it gives, factors in front or not (``smoothing``). Whether that matters is for the model to
say: it runs with all weights in float and the rows of that layer alone rounded. The rows stay
floats if an output loses more than ``most_lost`` of its power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gq_tvm.quantize.calibration.fitted import Fitted
from gq_tvm.quantize.calibration.inputs import Inputs, Run, Say
from gq_tvm.quantize.calibration.smoothing import USUAL
from gq_tvm.quantize.calibration.tap import Tap
from gq_tvm.quantize.drop_in.recurrent import weights_of
from gq_tvm.quantize.drop_in.replacement import factors_of
from gq_tvm.quantize.losses import floats_of
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer
from gq_tvm.quantize.training_layers.quant_recurrent import QuantRecurrent

_SHARE = 1 / 8  # of what the weight's own bits cost
_MOST_CALLS = 256  # of the model, that are compared


def most_lost(bits: int) -> float:
    """The share of an output's power that int8 rows before a weight of so many bits may cost.

    An eighth of the noise of the best codebook for normally distributed weights, ``sqrt(3) pi / 2
    4^-bits`` (Panter and Dite 1951), but ``USUAL`` at least.
    """
    return max(USUAL, _SHARE * math.sqrt(3) * math.pi / 2 * 4.0**-bits)


class Rounding:
    """What rounding the rows before some weights costs a model.

    Args:
        model: prepared, its weights as yet in float.
        tap: that sees its products.
        inputs: what it is run with.
    """

    def __init__(self, model: nn.Module, tap: Tap, inputs: Inputs) -> None:
        self._model, self._tap = model, tap
        tap.begin(floats=True)
        calls = inputs.calls(model)
        self._calls: Sequence[Run] = calls[:: -(-len(calls) // _MOST_CALLS) or 1]
        self._goals = self._outputs()

    def lost(self, weights: Sequence[Fitted]) -> float:
        """The largest share of noise in an output if rows before these are rounded."""
        self._tap.begin(floats=True, rounded=weights)
        noise: dict[str, float] = {}
        power: dict[str, float] = {}
        for found, goal in zip(self._outputs(), self._goals, strict=True):
            for name, wanted in goal.items():
                if name in found and found[name].shape == wanted.shape:
                    off = (found[name] - wanted).double().square().sum()
                    noise[name] = noise.get(name, 0.0) + float(off)
                    power[name] = power.get(name, 0.0) + float(wanted.double().square().sum())
        self._tap.begin(floats=True)
        return max((noise[name] / power[name] for name in noise if power[name] > 0), default=0.0)

    def _outputs(self) -> list[dict[str, Tensor]]:
        return [
            {name: one.clone() for name, one in floats_of(call(self._model))}
            for call in self._calls
        ]


@dataclass
class Suspect:
    """A layer whose rows int8 may hold badly.

    Attributes:
        layer: it, or the stack it is of.
        attribute: the weight that meets those rows.
        weight: that in float, f32 [N, ...], without factors in front.
    """

    layer: QuantLayer
    attribute: str
    weight: Tensor

    def attributes(self) -> list[str]:
        """All weights that meet rows of one kind: those of one layer of a recurrent stack."""
        if not isinstance(self.layer, QuantRecurrent):
            return [self.attribute]
        return weights_of(self.layer, self.attribute.removeprefix("weight_ih"))

    def weights(self) -> list[Fitted]:
        """Their quantisers."""
        found = [self.layer.quantizer(name) for name in self.attributes()]
        return [one for one in found if isinstance(one, Fitted)]

    def keep_floats(self, tap: Tap) -> None:
        """Meet rows of floats, and need no factors."""
        factors = factors_of(self.attribute)
        if getattr(self.layer, factors, None) is not None:
            delattr(self.layer, factors)
            self.weights()[0].change(self.weight)
        kept = self.attributes()
        self.layer.meet(
            {
                name: "fp32" if name in kept else self.layer.activation_of(name)
                for name in self.layer.quantizers
            }
        )
        for name, weight in zip(kept, self.weights(), strict=True):
            weight.keep_floats()
            tap.know_again(self.layer, name)


def keep_floats(
    model: nn.Module,
    tap: Tap,
    inputs: Inputs,
    suspects: Sequence[Suspect],
    names: dict[Fitted, str],
    say: Say,
) -> list[Fitted]:
    """Let rows stay floats where the model needs it.

    Args:
        model: see ``Rounding``, as the next two.
        tap: that sees its products.
        inputs: what it is run with.
        suspects: the layers to ask about.
        names: of the weights.
        say: is told of each.

    Returns:
        The weights that meet floats now.
    """
    if not suspects:
        return []
    rounding = Rounding(model, tap, inputs)
    costs = [rounding.lost(one.weights()) for one in suspects]
    kept: list[Fitted] = []
    for one, lost in zip(suspects, costs, strict=True):
        weights = one.weights()
        most = most_lost(max(weight.bits for weight in weights))
        if lost > most:
            one.keep_floats(tap)
            kept += weights
            named = ", ".join(names[weight] for weight in weights)
            say(
                f"{named}: activations stay fp32, as int8 alone would cost {lost:.2%} of an "
                f"output's power, more than {most:.2%}"
            )
    return kept
