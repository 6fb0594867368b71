"""Weights from a file into a PyTorch model, those in codebooks as codebook layers."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.ops.checks import check_activation
from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.ops.weight import Weight
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer, OneWeight
from gq_tvm.quantize.drop_in.copying import check_is_model
from gq_tvm.quantize.drop_in.replacement import become
from gq_tvm.quantize.drop_in.supported import KINDS, WeightPlace, find_weights, layer_kind
from gq_tvm.weight_files import Weights, read_weights

_MOST_NAMED = 5


def load_weights(
    model: nn.Module,
    file: Path | str,
    activation: str = "fp32",
    names: Mapping[str, str] | None = None,
) -> nn.Module:
    """Put the weights of a file into a model, by their names.

    A linear layer, a convolution or an embedding whose weight is a codebook becomes a codebook
    layer; any other weight is copied, from a codebook the values it stands for. What the file
    lacks of the model, and the model of the file, is warned of in a sentence each.

    Args:
        model: A float model; it is changed, once all has been checked.
        file: A ``.gguf`` or ``.safetensors`` file, or what ``gq-tvm import`` wrote.
        activation: What codebook layers make of their inputs, one of ``ops.checks.ACTIVATIONS``.
        names: What the model calls tensors of the file that have other names there.

    Returns:
        The model, in ``eval`` mode.

    Raises:
        Error: the file cannot be read, a shape is another than the model's, or no name is the
            model's.
    """
    check_is_model("load_weights", model)
    check_activation("load_weights", activation)
    weights = _renamed(read_weights(file, _warn), names or {}, file)
    state = dict(model.state_dict(keep_vars=True))
    found = [name for name in state if name in weights]
    if not found:
        raise Error(
            f"load_weights: none of the {len(weights)} tensors of {file} has a name of the "
            f"model's, as {next(iter(state), 'none')}; say what they are called by names={{...}}"
        )
    for name in found:
        _check_shape(name, weights[name], state[name])
    loaded = {id(state[name]) for name in found}
    _warn_of("lacks", [name for name, one in state.items() if id(one) not in loaded], file)
    _warn_of("has beside the model's", [name for name in weights if name not in state], file)
    places = defaultdict(list)
    for place in find_weights(model):
        places[id(place.parameter)].append(place)
    later: list[tuple[list[WeightPlace], Weight]] = []
    for name in found:
        weight, held = weights[name], places[id(state[name])]
        if isinstance(weight, Weight) and held and all(map(_becomes_codebook, held)):
            later.append((held, weight))
        else:
            _copy(state[name], weight)
    for held, weight in later:
        tensors = WeightTensors.of(weight)  # once, for layers that share it
        for place in held:
            _hold(place.module, tensors, activation)
    return model.eval()


def _renamed(weights: Weights, names: Mapping[str, str], file: Path | str) -> Weights:
    for name in names:
        if name not in weights:
            raise Error(f"load_weights: names has {name}, which is no tensor of {file}")
    renamed = {names.get(name, name): one for name, one in weights.items()}
    if len(renamed) < len(weights):
        raise Error("load_weights: names gives two tensors one name; give each its own")
    return renamed


def _check_shape(name: str, weight: Weight | Tensor, held: Tensor) -> None:
    shape = list(weight.shape if isinstance(weight, Tensor) else weight.indices.shape)
    if shape != list(held.shape):
        raise Error(
            f"load_weights: {name} has the shape {shape} in the file and {list(held.shape)} in "
            "the model; make the model as the file's was"
        )


def _becomes_codebook(place: WeightPlace) -> bool:
    kind = layer_kind(place.module)
    one = kind is not None and issubclass(KINDS[kind].deployed, OneWeight)
    return one and place.whole is None and place.obstacle is None


def _copy(held: Tensor, weight: Weight | Tensor) -> None:
    values = weight if isinstance(weight, Tensor) else torch.from_numpy(weight.expand())
    with torch.no_grad():
        held.copy_(values)


def _hold(module: nn.Module, weight: WeightTensors, activation: str) -> None:
    kind = KINDS[layer_kind(module) or type(module)]
    kept = "fp32" if kind.meets_floats(module) else activation
    biases = {}
    if hasattr(module, "bias"):
        biases["bias"] = module.bias.detach() if isinstance(module.bias, Tensor) else None
    become(module, kind.deployed)
    assert isinstance(module, CodebookLayer)
    module.hold({"weight": weight}, biases, kept)


def _warn_of(what: str, names: list[str], file: Path | str) -> None:
    if names:
        more = len(names) - _MOST_NAMED
        shown = [*names[:_MOST_NAMED], *([f"{more} more"] if more > 0 else [])]
        _warn(f"load_weights: {file} {what} {', '.join(shown)}")


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=3)
