"""Which weights of a model can be quantised, and why the others cannot."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from gq_tvm.quantize.quant_attention import QuantMultiheadAttention
from gq_tvm.quantize.quant_layers import QuantConv1d, QuantEmbedding, QuantLayer, QuantLinear
from gq_tvm.quantize.quant_recurrent import QuantGRU, QuantLSTM

QUANT_LAYERS: dict[type[nn.Module], type[QuantLayer]] = {
    nn.Linear: QuantLinear,
    NonDynamicallyQuantizableLinear: QuantLinear,  # out_proj of nn.MultiheadAttention
    nn.LSTM: QuantLSTM,
    nn.GRU: QuantGRU,
    nn.Conv1d: QuantConv1d,
    nn.Embedding: QuantEmbedding,
    nn.MultiheadAttention: QuantMultiheadAttention,
}
_SUPPORTED = "Linear, LSTM, GRU, Conv1d, Embedding, MultiheadAttention"


@dataclass(frozen=True)
class Weight:
    """A parameter of two or more axes, where it sits, and what keeps it from being quantised.

    ``whole`` is the layer whose weights are quantised together or not at all: an LSTM, a GRU, or
    the attention around its projections.
    """

    module_name: str
    attribute: str
    module: nn.Module
    parameter: nn.Parameter
    obstacle: str | None
    whole: nn.Module | None = None

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
    around = {
        inner: module
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for inner in module.modules()
    }
    found = []
    for module_name, module in model.named_modules():
        whole = module if isinstance(module, nn.LSTM | nn.GRU) else around.get(module)
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.dim() >= 2:
                obstacle = _obstacle(module, parameter)
                found.append(Weight(module_name, attribute, module, parameter, obstacle, whole))
    return _spread_obstacles(found)


def _obstacle(module: nn.Module, parameter: nn.Parameter) -> str | None:
    kind = type(module).__name__
    if isinstance(module, QuantLayer):
        return None
    if type(module) not in QUANT_LAYERS:
        return f"{kind} is not one of the supported layers ({_SUPPORTED})"
    if parameter.dtype != torch.float32:
        return f"its dtype is {str(parameter.dtype).removeprefix('torch.')}, not float32"
    if isinstance(module, nn.LSTM | nn.GRU) and module.bidirectional:
        return f"a bidirectional {kind} is not supported"
    if isinstance(module, nn.LSTM) and module.proj_size:
        return "an LSTM with proj_size is not supported"
    if isinstance(module, nn.MultiheadAttention) and module.bias_k is not None:
        return "MultiheadAttention with add_bias_kv is not supported"
    if isinstance(module, nn.MultiheadAttention) and module.add_zero_attn:
        return "MultiheadAttention with add_zero_attn is not supported"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "an Embedding with max_norm rewrites its weight"
    if isinstance(module, nn.Embedding) and (module.sparse or module.scale_grad_by_freq):
        return "an Embedding with sparse or scale_grad_by_freq is not supported"
    return None


def _spread_obstacles(weights: list[Weight]) -> list[Weight]:
    """Obstacles reach all holders of a shared parameter, and all weights of one whole layer."""
    holders = defaultdict(list)
    for w in weights:
        holders[id(w.parameter)].append(w)
        if w.whole is not None:
            holders[id(w.whole)].append(w)
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
    return [replace(w, obstacle=reasons[id(w)]) for w in weights]
