"""What became of each weight of a model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gq_tvm.columns import columns
from gq_tvm.ops.weight import packed_bytes
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer
from gq_tvm.quantize.drop_in.copying import check_is_model
from gq_tvm.quantize.drop_in.replacement import factors_of
from gq_tvm.quantize.drop_in.supported import LEFT_IN_FLOAT, WeightPlace, find_weights
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer

_LARGE_BUFFER = 2**16  # bytes


@dataclass(frozen=True)
class WeightReport:
    """One weight: its name, shape, bits (32: float), activations, bytes packed, and a remark.

    ``remark`` says why a weight is in float, or with which weight it is shared.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    activation: str
    bytes: int
    remark: str = ""
    shared: bool = False

    @property
    def size(self) -> int:
        """Bytes when deployed (see ``ops.weight.packed_bytes``); 0 if counted elsewhere."""
        return 0 if self.shared else self.bytes

    @property
    def float_size(self) -> int:
        """Bytes as float32; 0 if counted elsewhere."""
        return 0 if self.shared else 4 * prod(self.shape)


class Report(list[WeightReport]):
    """The weights of a model; ``str`` gives a table."""

    def __str__(self) -> str:
        rows = [["weight", "shape", "bits", "activation", "remark"]]
        for w in self:
            rows.append([w.name, "x".join(map(str, w.shape)), str(w.bits), w.activation, w.remark])
        size, floats = sum(w.size for w in self), sum(w.float_size for w in self)
        ratio = floats / size if size else 1.0
        total = f"{floats / 1024:.1f} KiB in float32, {size / 1024:.1f} KiB ({ratio:.1f}x)"
        return f"{columns(rows, right={1, 2})}\n{total}"


def describe(model: nn.Module) -> Report:
    """List each weight of a float, prepared or converted model.

    Parameters of fewer than two axes (biases, norms) always stay in float and are not listed, nor
    are float buffers of less than 64 KiB.

    Args:
        model: any module.

    Returns:
        A list of ``WeightReport`` that prints as a table.
    """
    check_is_model("describe", model)
    quantised = any(isinstance(m, (QuantLayer, CodebookLayer)) for m in model.modules())
    names: dict[int, str] = {}
    held: dict[nn.Module, list[WeightPlace]] = defaultdict(list)
    for w in find_weights(model):
        held[w.module].append(w)
    report = Report()

    def add(key: object, name: str, shape: torch.Size, entry: tuple[int, str, int, str]) -> None:
        first = names.setdefault(id(key), name)
        shared = first != name
        bits, activation, size, remark = entry
        remark = f"shared with {first}" if shared else remark
        report.append(WeightReport(name, tuple(shape), bits, activation, size, remark, shared))

    for module_name, module in model.named_modules():
        for w in held[module]:
            shape = torch.Size() if is_lazy(w.parameter) else w.parameter.shape
            if isinstance(module, QuantLayer) and w.attribute in module.quantizers:
                quantizer = module.quantizer(w.attribute)
                form = quantizer.bits, module.activation_of(w.attribute)
                size = packed_bytes(shape[0], prod(shape[1:]), *form)
                add(w.parameter, w.name, shape, (*form, size, ""))
            else:
                asked = LEFT_IN_FLOAT if quantised else "not prepared"
                add(w.parameter, w.name, shape, (32, "fp32", 4 * prod(shape), w.obstacle or asked))
        if isinstance(module, CodebookLayer):
            for attribute, cw in module.codebook_weights():
                name = f"{module_name}.{attribute}" if module_name else attribute
                activation = module.activation_of(attribute)
                form, size = (cw.bits, activation), cw.packed_bytes(activation)
                factors = getattr(module, factors_of(attribute), None)
                size += 0 if factors is None else factors.nbytes
                add(cw.indices, name, cw.indices.shape, (*form, size, ""))
            continue
        for attribute, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and buffer.dim() >= 2 and buffer.nbytes >= _LARGE_BUFFER:
                name = f"{module_name}.{attribute}" if module_name else attribute
                add(
                    buffer, name, buffer.shape, (32, "fp32", buffer.nbytes, "a buffer is no weight")
                )
    return report
