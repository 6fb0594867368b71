"""Which weights of a model can be quantised, and why the others cannot."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer
from gq_tvm.quantize.drop_in.computed_weights import computed, parametrizations, plain_class
from gq_tvm.quantize.drop_in.recurrent import Recurrent
from gq_tvm.quantize.drop_in.subclasses import WEIGHTS, why_not
from gq_tvm.quantize.drop_in.turned import turning
from gq_tvm.quantize.drop_in.turned import why_not as why_not_turned
from gq_tvm.quantize.training_layers import quant_recurrent
from gq_tvm.quantize.training_layers.quant_attention import QuantMultiheadAttention
from gq_tvm.quantize.training_layers.quant_layers import (
    QuantConv1d,
    QuantConv2d,
    QuantEmbedding,
    QuantEmbeddingBag,
    QuantLayer,
    QuantLinear,
)

#: By PyTorch's layer, ours in training; that knows the rest.
KINDS: dict[type[nn.Module], type[QuantLayer]] = {
    ours.replaced: ours
    for ours in (
        QuantLinear,
        quant_recurrent.QuantLSTM,
        quant_recurrent.QuantGRU,
        quant_recurrent.QuantRNN,
        quant_recurrent.QuantLSTMCell,
        quant_recurrent.QuantGRUCell,
        quant_recurrent.QuantRNNCell,
        QuantConv1d,
        QuantConv2d,
        QuantEmbedding,
        QuantEmbeddingBag,
        QuantMultiheadAttention,
    )
}
#: The remark on weights that nothing but their user keeps in float.
LEFT_IN_FLOAT = "left in float as asked"
_SUPPORTED = ", ".join(kind.__name__ for kind in KINDS)


@dataclass(frozen=True)
class WeightPlace:
    """A parameter of two or more axes, where it sits, and what keeps it from being quantised.

    ``whole`` is the layer whose weights can be quantised all or none: a recurrent one, or the
    attention around its projections. Where a weight is computed, by a weight norm say,
    ``parameter`` is what it is at present, and no parameter of the model.
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
    def layer(self) -> str | None:
        """The ending of the layer of a recurrent stack, all weights of which are in float or none.

        "" of a cell; None of a weight of any other layer.
        """
        found = re.fullmatch(r"weight_(?:ih|hh|hr)((?:_l\d+(?:_reverse)?)?)", self.attribute)
        return found[1] if found and isinstance(self.module, Recurrent) else None

    @property
    def names(self) -> list[str]:
        """The parameter's name and those of all modules around it, innermost first."""
        parts = self.name.split(".")
        return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def layer_kind(module: nn.Module) -> type[nn.Module] | None:
    """The one of PyTorch's layers in ``KINDS`` that a module is, or is a subclass of."""
    kind = plain_class(module)
    turns = turning(module, kind)
    kind = turns.kind if turns else kind
    return next((one for one in kind.__mro__ if one in KINDS), None)


def find_weights(model: nn.Module) -> list[WeightPlace]:
    """Every float parameter of two or more axes, in the order of ``model.named_modules()``.

    A parameter that several modules share appears once for each; if one of them cannot be
    quantised, none is. A weight that is computed from others stands for those.
    """
    around = {
        inner: module
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for inner in module.modules()
    }
    # What computes a weight of ours goes with it.
    inside = {
        part
        for module in model.modules()
        if layer_kind(module)
        for part in parametrizations(module).modules()
    }
    found = []
    for module_name, module in model.named_modules():
        if module in inside:
            continue
        whole = module if isinstance(module, Recurrent) else around.get(module)
        for attribute, parameter in _parameters_of(module):
            is_weight = WEIGHTS.fullmatch(attribute) is not None
            if is_weight if is_lazy(parameter) else parameter.dim() >= 2:
                obstacle = _obstacle(module, attribute, parameter)
                own = whole if is_weight else None
                found.append(WeightPlace(module_name, attribute, module, parameter, obstacle, own))
    return _spread_obstacles(found)


def why_none(model: nn.Module, weights: list[WeightPlace]) -> str:
    """The commonest reason why no weight is quantised, and a weight it stands for."""
    if any(isinstance(m, CodebookLayer) for m in model.modules()):
        return "it is converted already; start from the float model"
    obstacles = Counter(w.obstacle for w in weights if w.obstacle)
    if not obstacles:
        left = "bits and overrides leave them all in float; give one bits"
        return left if weights else "it has none of two or more axes"
    ((reason, count),) = obstacles.most_common(1)
    first = next(w.name for w in weights if w.obstacle == reason)
    return f"{first}{f' and {count - 1} more' * (count > 1)} ({reason})"


def _parameters_of(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a module, what is computed in the place of what it is computed from."""
    values = computed(module) if layer_kind(module) else {}
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        if name not in values and not any(name.startswith(f"{one}_") for one in values):
            yield name, parameter
    for name, (value, _) in values.items():
        yield name, value


def _obstacle(module: nn.Module, attribute: str, parameter: nn.Parameter) -> str | None:
    base, kind = layer_kind(module), plain_class(module).__name__
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        return "it is in a traced program, whose layers are fixed; start from the Python model"
    if isinstance(module, parametrize.ParametrizationList):
        return f"what it parametrises is not one of the supported layers ({_SUPPORTED})"
    if base is None and (reason := why_not_turned(module, plain_class(module))):
        return reason
    if base is None:
        return f"{kind} is not one of the supported layers ({_SUPPORTED})"
    if WEIGHTS.fullmatch(attribute) is None:
        return f"it is no weight of {base.__name__}"
    if isinstance(module, QuantLayer):
        return None
    if isinstance(module, CodebookLayer):
        return LEFT_IN_FLOAT
    if is_lazy(parameter):
        return "it has no values yet; call the model once first"
    if parameter.is_meta:
        return "it is on the meta device, without values; load them first"
    if parameter.dtype != torch.float32:
        dtype = str(parameter.dtype).removeprefix("torch.")
        return f"its dtype is {dtype}, not float32; call model.float() first"
    if not parameter.numel():
        return "it has no elements"
    ours = KINDS[base]
    turned = turning(module, plain_class(module)) is not None
    return ours.obstacle(module) or (None if turned else why_not(module, [ours, ours.deployed]))


def _spread_obstacles(weights: list[WeightPlace]) -> list[WeightPlace]:
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
