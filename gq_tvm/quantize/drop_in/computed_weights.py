"""Weights that are computed from other tensors: weight_norm, spectral_norm, pruning and the like.

A quantiser wants a weight that is a parameter, so such a weight is folded: what is computed at
present becomes the parameter, and what it was computed from goes. So is a weight that lies the
other way round (``turned.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from gq_tvm.quantize.drop_in.turned import turning

# The hooks of the old kind: the weight they set, what it is, and how they are taken away.
_HOOKS: dict[type, tuple[str, Callable[[Any, nn.Module], Tensor], Callable[..., object]]] = {
    WeightNorm: ("name", WeightNorm.compute_weight, remove_weight_norm),
    SpectralNorm: (
        "name", lambda hook, layer: hook.compute_weight(layer, False), remove_spectral_norm
    ),
    prune.BasePruningMethod: (
        "_tensor_name", prune.BasePruningMethod.apply_mask, prune.remove
    ),
}  # fmt: skip


def plain_class(layer: nn.Module) -> type[nn.Module]:
    """The class of a layer as it was before it had parametrisations."""
    kind = type(layer)
    return kind.__bases__[0] if parametrize.is_parametrized(layer) else kind


def computed(layer: nn.Module) -> dict[str, tuple[nn.Parameter, str]]:
    """What is computed: by attribute, its value at present and what computes it.

    The layer stays as it is; in particular no norm takes a step of its power iteration.
    """
    found = {}
    for hook, (name, value, _) in _hooks(layer):
        found[getattr(hook, name)] = _parameter(value(hook, layer)), type(hook).__name__
    for attribute, parts in parametrizations(layer).items():
        assert isinstance(parts, parametrize.ParametrizationList)
        modes = {module: module.training for module in parts.modules()}
        parts.eval()
        found[attribute] = _parameter(parts()), type(parts[0]).__name__.strip("_")
        for module, training in modes.items():
            module.training = training
    if (turns := turning(layer, plain_class(layer))) is not None:
        by = f"{plain_class(layer).__name__}'s layout"
        if "weight" not in found:
            found["weight"] = layer.get_parameter("weight"), by
        weight, maker = found["weight"]
        for attribute, value in turns.values(layer, weight.detach()).items():
            found[attribute] = _parameter(value), maker if attribute == "weight" else by
            found[attribute][0].requires_grad_(getattr(layer, attribute).requires_grad)
    # What another is computed from is none of its own: the direction of a norm may be pruned.
    inner = [name for name in found if any(name.startswith(f"{other}_") for other in found)]
    return {name: one for name, one in found.items() if name not in inner}


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), value.requires_grad)


def fold(layer: nn.Module) -> dict[str, str]:
    """Make all that is computed parameters of the layer; gives what computed it, by attribute."""
    values, turns = computed(layer), turning(layer, plain_class(layer))
    for hook, (name, _, remove) in reversed(_hooks(layer)):
        remove(layer, getattr(hook, name))
    if parametrize.is_parametrized(layer):
        # PyTorch's own way changes the class, which copies of the layer share.
        layer.__class__ = plain_class(layer)
        del layer.parametrizations
        loading = layer._load_state_dict_pre_hooks
        for key, wrapped in list(loading.items()):
            if getattr(wrapped, "hook", wrapped).__module__ == "torch.nn.utils.parametrizations":
                del loading[key]  # it renames what is loaded, and cannot be pickled
    for attribute, (value, _) in values.items():
        setattr(layer, attribute, value)
    if turns is not None:
        turns.become(layer)
    return {attribute: by for attribute, (_, by) in values.items()}


def _hooks(layer: nn.Module) -> list[tuple[Any, Any]]:
    return [
        (hook, entry)
        for hook in layer._forward_pre_hooks.values()
        for kind, entry in _HOOKS.items()
        if isinstance(hook, kind)
    ]


def parametrizations(layer: nn.Module) -> nn.ModuleDict:
    """What computes the weights of a layer in PyTorch's present way, by attribute."""
    if not parametrize.is_parametrized(layer):
        return nn.ModuleDict()
    return cast(nn.ModuleDict, layer.parametrizations)
