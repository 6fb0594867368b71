"""From a model in training to the model that is deployed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.quantize.drop_in.computed_weights import fold
from gq_tvm.quantize.drop_in.copying import check_is_model, copied
from gq_tvm.quantize.quantisers.quantizer import check_finite
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer


def convert(model: nn.Module) -> nn.Module:
    """Replace the quantised layers of a prepared model by codebook layers.

    Args:
        model: what ``prepare`` returned, trained; it is left as it was and can train on.

    Returns:
        A copy in ``eval`` mode that computes what ``model.eval()`` computes. Each quantised
        weight is kept as indices, a codebook and scales, no longer as floats; a weight that layers
        shared is one set of buffers that they share.

    Raises:
        Error: the model is not prepared or cannot be copied, or a weight is NaN, infinite or no
            longer float32.
    """
    check_is_model("convert", model)
    if not any(isinstance(m, QuantLayer) for m in model.modules()):
        raise Error("convert: the model has no quantised layer; call quantize.prepare first.")
    model = copied(model, "convert")
    weights: dict[Tensor, WeightTensors] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantLayer):
            fold(module)  # what was pruned in training
            module.deploy(_weights_of(module, name, weights))
    return model.eval()


def _weights_of(
    module: QuantLayer, name: str, done: dict[Tensor, WeightTensors]
) -> dict[str, WeightTensors]:
    """The module's weights by attribute; one that another layer holds too is taken from there."""
    found = {}
    for attribute in module.quantizers:
        parameter = getattr(module, attribute)
        if parameter not in done:
            full = f"{name}.{attribute}" if name else attribute
            if parameter.dtype != torch.float32:
                kind = str(parameter.dtype).removeprefix("torch.")
                raise Error(f"convert: {full} is {kind}; call model.float() first.")
            check_finite(full, parameter)
            done[parameter] = module.hardened(attribute)
        found[attribute] = done[parameter]
    return found
