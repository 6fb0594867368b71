"""What a compressed model loses against the float one it was made of.

That an artefact computes what its model does says nothing of whether the model is of any use: that
only the float model tells.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from gq_tvm.errors import Error
from gq_tvm.exported import as_module, read_inputs
from gq_tvm.exported.inputs import inputs_of
from gq_tvm.exported.operators import OperatorLayer, is_codebook
from gq_tvm.plan.plan import Plan
from gq_tvm.quantize import Losses, losses
from gq_tvm.quantize.losses import MUCH_OF_OUTPUTS
from gq_tvm.runtime.model import Model
from gq_tvm.verification.drawn_inputs import draw


@dataclass(frozen=True)
class AgainstFloat:
    """What is lost, and with what it was tried.

    Attributes:
        losses: Of outputs and layers, behind the names of their programs where there are several.
        inputs: What was tried, in words.
    """

    losses: Losses
    inputs: str

    def failure(self) -> str:
        """What is wrong if an output loses more than its bound; else empty."""
        much = [one for one in self.losses.outputs if not one.lost <= MUCH_OF_OUTPUTS]
        named = ", ".join(f"{one.name} {one.lost:.0%}" for one in much)
        return (
            f"the model loses more than {MUCH_OF_OUTPUTS:.0%} of its outputs' signal against the "
            f"float model: {named}"
            if much
            else ""
        )

    def __str__(self) -> str:
        return f"against the float model, {self.inputs}:\n{self.losses}"


def against_float(
    floats: Mapping[str, ExportedProgram],
    programs: Mapping[str, ExportedProgram],
    plan: Plan,
    file: str | os.PathLike[str] | None = None,
    activation: str | None = None,
    compiled: Model | None = None,
) -> AgainstFloat:
    """Run the float programs and the compressed ones on the same inputs.

    Args:
        floats: The programs exported in float, by name.
        programs: Those with codebooks.
        plan: What these were compiled to.
        file: Inputs, as ``exported.read_inputs`` takes them; None draws some.
        activation: What ``build`` was told.
        compiled: The outputs are this model's; None: what PyTorch makes of the programs.

    Raises:
        Error: the programs take other inputs, or those given do not fit.
    """
    _check_alike(floats, programs)
    if file is None:
        examples = {name: _drawn(name, program, plan) for name, program in programs.items()}
        words = "on random inputs (what counts are recorded ones: --inputs)"
    else:
        examples = {name: [] for name in programs}
        for one in read_inputs([file], floats):
            name, tensors = (one[0], one[1:]) if len(floats) > 1 else (next(iter(floats)), one)
            examples[name].append(tensors)
        words = f"on {sum(map(len, examples.values()))} given inputs"
    found = Losses([], [])
    for name, tried in examples.items():
        if not tried:
            continue
        before, after = (
            as_module({name: programs_[name]}, kind)
            for programs_, kind in ((floats, None), (programs, activation))
        )
        _align(before, after)
        lost = losses(before, after, tried)
        outputs = lost.outputs
        if compiled is not None:
            outputs = losses(before, _Compiled(compiled, name), tried).outputs
        prefix = f"{name}." if len(programs) > 1 else ""
        found.outputs.extend(replace(one, name=f"{prefix}{one.name}") for one in outputs)
        found.layers.extend(replace(one, name=f"{prefix}{one.name}") for one in lost.layers)
    return AgainstFloat(found, words)


class _Compiled(nn.Module):
    """A compiled function as PyTorch calls modules."""

    def __init__(self, model: Model, name: str) -> None:
        super().__init__()
        self._function = model[name]

    def forward(self, *inputs: Tensor) -> Any:
        results = self._function(*(one.numpy() for one in inputs))
        if isinstance(results, tuple):
            return tuple(map(torch.from_numpy, results))
        return torch.from_numpy(results)


def _check_alike(
    floats: Mapping[str, ExportedProgram], programs: Mapping[str, ExportedProgram]
) -> None:
    if set(floats) != set(programs):
        raise Error(
            f"the float model has the programs {', '.join(floats)}, the compressed one "
            f"{', '.join(programs)}; give the one that it was made of"
        )
    for name, program in floats.items():
        if any(is_codebook(node.target) for node in program.graph.nodes):
            raise Error(
                f"program {name} of the float model has weights in codebooks; give the model as "
                "it was exported before it was compressed"
            )
        own, other = (
            [(one.dtype, len(one.shape)) for one in inputs_of(p)] for p in (program, programs[name])
        )
        if own != other:
            raise Error(
                f"program {name} of the float model takes other inputs than the compressed one; "
                "give the one that it was made of"
            )


def _drawn(name: str, program: ExportedProgram, plan: Plan) -> list[tuple[Tensor, ...]]:
    calls = draw(plan.functions[name], program)
    if not calls:
        raise Error(f"cannot draw inputs for function {name}; give some with --inputs")
    return [tuple(map(torch.from_numpy, arrays)) for arrays in calls]


def _align(before: nn.Module, after: nn.Module) -> None:
    """Lay what recurrent layers give as the float model's do."""
    known = dict(before.named_modules())
    for name, layer in after.named_modules():
        other = known.get(name)
        if isinstance(layer, OperatorLayer) and isinstance(other, nn.RNNBase):
            layer.time_first = not other.batch_first
