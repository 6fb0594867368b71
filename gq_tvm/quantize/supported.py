"""Which weights of a model can be quantised, and why the others cannot."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from gq_tvm.quantize.quant_layers import (
    QuantConv1d,
    QuantEmbedding,
    QuantLayer,
    QuantLinear,
    QuantLSTM,
)

QUANT_LAYERS: dict[type[nn.Module], type[QuantLayer]] = {
    nn.Linear: QuantLinear,
    nn.LSTM: QuantLSTM,
    nn.Conv1d: QuantConv1d,
    nn.Embedding: QuantEmbedding,
}

# Layers whose own forward reads the weights of the layers inside them.
_READS_INNER_WEIGHTS = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


@dataclass(frozen=True)
class Weight:
    """A parameter of two or more axes, where it sits, and what keeps it from being quantised."""

    module_name: str
    attribute: str
    module: nn.Module
    parameter: nn.Parameter
    obstacle: str | None

    @property
    def name(self) -> str:
        """The parameter's name as in ``state_dict``."""
        return f"{self.module_name}.{self.attribute}" if self.module_name else self.attribute

    @property
    def names(self) -> list[str]:
        """The parameter's name and those of all modules around it, innermost first."""
        parts = self.name.split(".")
        return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def find_weights(model: nn.Module) -> list[Weight]:
    """Every float parameter of two or more axes, in the order of ``model.named_modules()``.

    A parameter that several modules share appears once for each; if one of them cannot be
    quantised, none is.
    """
    readers: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, _READS_INNER_WEIGHTS):
            readers.update(dict.fromkeys(module.modules(), module))
    found = []
    for module_name, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.dim() >= 2:
                obstacle = _obstacle(module, parameter, readers.get(module))
                found.append(Weight(module_name, attribute, module, parameter, obstacle))
    return _spread_obstacles(found)


def _obstacle(module: nn.Module, parameter: nn.Parameter, reader: nn.Module | None) -> str | None:
    kind = type(module).__name__
    if isinstance(module, QuantLayer):
        return None
    if reader is not None and reader is not module:
        return f"nn.{type(reader).__name__} reads the weights inside it directly"
    if type(module) not in QUANT_LAYERS:
        return f"{kind} is not one of the supported layers (Linear, LSTM, Conv1d, Embedding)"
    if parameter.dtype != torch.float32:
        return f"its dtype is {str(parameter.dtype).removeprefix('torch.')}, not float32"
    if isinstance(module, nn.LSTM) and module.bidirectional:
        return "a bidirectional LSTM is not supported"
    if isinstance(module, nn.LSTM) and module.proj_size:
        return "an LSTM with proj_size is not supported"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "an Embedding with max_norm rewrites its weight"
    if isinstance(module, nn.Embedding) and (module.sparse or module.scale_grad_by_freq):
        return "an Embedding with sparse or scale_grad_by_freq is not supported"
    return None


def _spread_obstacles(weights: list[Weight]) -> list[Weight]:
    """Obstacles reach all holders of a shared parameter, and all weights of one LSTM."""
    holders = defaultdict(list)
    for w in weights:
        holders[id(w.parameter)].append(w)
        if isinstance(w.module, nn.LSTM):
            holders[id(w.module)].append(w)
    reasons = {id(w): w.obstacle for w in weights}
    changed = True
    while changed:
        changed = False
        for group in holders.values():
            blocked = next((w for w in group if reasons[id(w)]), None)
            for w in group:
                if blocked is not None and reasons[id(w)] is None:
                    reasons[id(w)] = f"it goes with {blocked.name}: {reasons[id(blocked)]}"
                    changed = True
    return [
        Weight(w.module_name, w.attribute, w.module, w.parameter, reasons[id(w)]) for w in weights
    ]
