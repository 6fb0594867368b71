"""What a compressed model loses against the float one, on inputs [C].

A loss is the power of the noise over the power of the signal: ``sum (y - y')^2 / sum y^2``, of
each output of the model, and of what each layer gives.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.columns import columns
from gq_tvm.errors import Error
from gq_tvm.quantize.calibration.inputs import Inputs, evaluating
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer

#: A model whose outputs lose more than this, 10 dB, may be of no use: a warning says so.
MUCH_OF_OUTPUTS = 0.1
#: Of a layer's outputs, 3 dB.
MUCH_OF_LAYER = 0.5

# Of a layer's outputs, so many numbers are compared at most, from calls of at most so many each.
_KEPT, _KEPT_OF_CALL = 2**18, 2**12
_MOST_NAMED = 4


@dataclass(frozen=True)
class Loss:
    """What an output loses.

    Attributes:
        name: of the layer or output.
        lost: the power of the noise over that of the signal; infinite where only the compressed
            model's holds NaN.
        correlation: of both models' numbers, Pearson's; NaN where one is constant.
    """

    name: str
    lost: float
    correlation: float

    @property
    def sqnr(self) -> float:
        """Signal to quantisation noise in dB."""
        return -10 * math.log10(self.lost) if self.lost > 0 else math.inf


@dataclass(frozen=True)
class Losses:
    """What a model loses: ``str`` gives a table.

    Attributes:
        outputs: of each float output of the model.
        layers: of each layer in a codebook, in the order of execution; empty where layers have
            other names in the float model.
    """

    outputs: list[Loss]
    layers: list[Loss]

    def warnings(self) -> list[str]:
        """A sentence on what loses more than the bounds; empty if nothing does."""
        sentences = []
        for what, found, bound in (
            ("outputs of the model", self.outputs, MUCH_OF_OUTPUTS),
            ("outputs of layers", self.layers, MUCH_OF_LAYER),
        ):
            much = sorted((one for one in found if not one.lost <= bound), key=lambda o: -o.lost)
            if much:
                named = ", ".join(f"{one.name} {one.lost:.0%}" for one in much[:_MOST_NAMED])
                more = ", ..." * (len(much) > _MOST_NAMED)
                sentences.append(
                    f"{len(much)} of {len(found)} {what} lose more than {bound:.0%} of their "
                    f"signal against the float model: {named}{more}; give more bits, or leave "
                    "what loses most in float (quantize.sensitivity says what that is)."
                )
        return sentences

    def __str__(self) -> str:
        rows = [["", "SQNR dB", "lost", "correlation"]]
        for one in [*self.layers, *self.outputs]:
            rows.append([one.name, f"{one.sqnr:.1f}", f"{one.lost:.2%}", f"{one.correlation:.4f}"])
        return columns(rows, right={1, 2, 3})

    def to_json(self) -> str:
        """The same as JSON: ``{"outputs": [...], "layers": [...]}``."""
        return json.dumps(asdict(self), indent=1)


def losses(float_model: nn.Module, model: nn.Module, inputs: Any) -> Losses:
    """Compare a compressed model with the float one it was made of.

    Args:
        float_model: the float model, or the module of an exported program.
        model: what ``compress`` or ``convert`` gave, or the module of its exported program.
        inputs: as ``compress`` takes them; both models run with them in eval mode.

    Returns:
        What is lost.

    Raises:
        Error: inputs do not fit, or the models give unlike outputs.
    """
    examples = inputs if isinstance(inputs, Inputs) else Inputs.of(inputs, "losses")
    layers = [name for name, one in model.named_modules() if isinstance(one, CodebookLayer)]
    floats, compressed = (_record(one, layers, examples) for one in (float_model, model))
    if not floats.outputs:
        raise Error("losses: the float model gives no float output on these inputs.")
    return Losses(
        [_loss(name, kept, compressed.outputs.get(name)) for name, kept in floats.outputs.items()],
        [
            _loss(name, kept, compressed.layers[name])
            for name, kept in floats.layers.items()
            if name in compressed.layers
        ],
    )


class _Kept:
    """Numbers of one output, from all calls."""

    def __init__(self, sampled: bool) -> None:
        self._parts: list[Tensor] = []
        self._sampled = sampled
        self._count = 0

    def add(self, tensor: Tensor) -> None:
        flat = tensor.detach().reshape(-1)
        if self._sampled:
            if self._count >= _KEPT:
                return
            # Evenly, but in no step with the last axis.
            step = max(1, -(-len(flat) // _KEPT_OF_CALL)) | 1
            flat = flat[::step]
        self._parts.append(flat.double().cpu() if not self._sampled else flat.cpu().clone())
        self._count += len(flat)

    def numbers(self) -> Tensor:
        return torch.cat(self._parts).double()


@dataclass
class _Recorded:
    outputs: dict[str, _Kept]
    layers: dict[str, _Kept]


def _record(model: nn.Module, layers: list[str], inputs: Inputs) -> _Recorded:
    recorded = _Recorded(defaultdict(lambda: _Kept(False)), defaultdict(lambda: _Kept(True)))
    known = dict(model.named_modules())
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for name in layers:
            if name in known and known[name] is not model:
                hook = partial(_keep_layer, recorded.layers, name)
                stack.enter_context(known[name].register_forward_hook(hook))
        hook = partial(_keep_outputs, recorded.outputs)
        stack.enter_context(model.register_forward_hook(hook))
        for run in inputs.runs():
            run(model)
    return recorded


def _keep_outputs(kept: dict[str, _Kept], module: nn.Module, args: Any, output: Any) -> None:
    for path, tensor in floats_of(output):
        kept[f"output{path}"].add(tensor)


def _keep_layer(
    kept: dict[str, _Kept], name: str, module: nn.Module, args: Any, output: Any
) -> None:
    """The first tensor: what a recurrent layer gives beside y is its state."""
    for _, tensor in islice(floats_of(output), 1):
        kept[name].add(tensor)


def floats_of(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Each float tensor of what a model gives, with where it is: ``""``, ``[0]``, ``.logits``."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from floats_of(value, f"{path}.{key}")
    elif isinstance(output, tuple | list):
        for number, value in enumerate(output):
            yield from floats_of(value, f"{path}[{number}]")


def _loss(name: str, kept: _Kept, other: _Kept | None) -> Loss:
    signal = kept.numbers()
    values = None if other is None else other.numbers()
    if values is None or len(values) != len(signal):
        raise Error(f"losses: {name} is not of one shape in both models; give both one input.")
    fine = signal.isfinite()  # a mask's infinities say nothing
    if not values[fine].isfinite().all():
        return Loss(name, math.inf, math.nan)
    signal, values = signal[fine], values[fine]
    power, noise = float(signal.square().sum()), float((values - signal).square().sum())
    both = torch.stack([signal, values])
    correlation = float(torch.corrcoef(both)[0, 1]) if len(signal) > 1 else math.nan
    lost = noise / power if power > 0 else math.inf if noise > 0 else 0.0
    return Loss(name, lost, correlation)
