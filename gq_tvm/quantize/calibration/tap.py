"""Watches the products of a prepared model: what reaches each weight, layer or not [C].

All products of our layers, recurrent ones step by step, and those of code that reads a layer's
weight itself, are ``F.linear``, ``F.conv1d``, ``F.conv2d`` or ``F.embedding`` with a weight that is
known here by identity. A ``TorchFunctionMode`` sees them all, computes them as they will be
deployed, rows rounded, or in float, and says what was multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gq_tvm.ops.torch_ops import unfold
from gq_tvm.ops.torch_rounding import quantize_activations
from gq_tvm.quantize.calibration.fitted import Fitted
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer, quantised_weights

_TRANSPOSED = (Tensor.t, torch.t, Tensor.T.__get__, Tensor.mT.__get__)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Use:
    """A weight where it is multiplied by.

    Attributes:
        quantizer: the weight's.
        activation: how the rows it meets are rounded.
        first: the first of its rows that are used.
        count: how many are used, of an attention's joint projection a third.
        transposed: whether the tensor is [K, N].
    """

    quantizer: Fitted
    activation: str
    first: int
    count: int
    transposed: bool = False

    def weight(self) -> Tensor:
        """The rows as they are shown now, f32 [count, ...]."""
        whole = self.quantizer.shown.parameter.detach()
        return whole[self.first : self.first + self.count]


#: Told of each product: the weight, its rows [..., K] as multiplied (of an embedding ids), and the
#: tensor they are of, to see which weights have one input.
Watcher = Callable[[Use, Tensor, Tensor], None]


class Tap(TorchFunctionMode):
    """Sees each product with a weight of the quantizers in a prepared model.

    Args:
        model: prepared, its quantizers ``Fitted``.

    Attributes:
        floats: whether rows stay as they are, in a run of the float model.
        rounded: weights before which rows are rounded all the same.
        watch: told of each product.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.floats = False
        self.rounded: Collection[Fitted] = ()
        self.watch: Watcher | None = None
        self._model = model
        self._uses: dict[Tensor, Use] = {}
        self._views: dict[Tensor, Use] = {}

    def begin(
        self, floats: bool, watch: Watcher | None = None, rounded: Collection[Fitted] = ()
    ) -> None:
        """Before each run of the model: what it is (see the attributes), and who is told."""
        self.floats, self.watch, self.rounded = floats, watch, rounded
        self._views.clear()

    def __enter__(self) -> Tap:
        for _, layer, attribute in quantised_weights(self._model):
            self._know(layer, attribute)
        self._model.eval()  # which forgets the operands that layers keep
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for use in self._uses.values():
            use.quantizer.handles.clear()
        self._uses.clear()
        self._views.clear()
        self._model.eval()

    def know_again(self, module: QuantLayer, name: str) -> None:
        """Rows before a weight of one layer are of another kind from now on."""
        quantizer = module.quantizer(name)
        assert isinstance(quantizer, Fitted)
        for handle in quantizer.handles.values():
            del self._uses[handle]
        quantizer.handles.clear()
        module.eval()  # which forgets the operands it keeps
        self._know(module, name)

    def _know(self, module: QuantLayer, name: str) -> None:
        quantizer = module.quantizer(name)
        assert isinstance(quantizer, Fitted)
        parameter = quantizer.shown.parameter
        self._uses[parameter] = Use(quantizer, "fp32", 0, len(parameter))
        activation = module.activation_of(name)
        if activation not in quantizer.handles:
            handle = parameter.detach()
            quantizer.handles[activation] = handle
            self._uses[handle] = Use(quantizer, activation, 0, len(parameter))

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        place = _PLACES.get(func)
        weight = None if place is None else _argument(args, kwargs, *place)
        use = self._use(weight) if isinstance(weight, Tensor) else None
        if use is None or use.transposed != (func in _MATMULS):
            return func(*args, **kwargs)
        if func is F.linear:
            return self._linear(use, *args, **kwargs)
        if func in (F.conv1d, F.conv2d):
            return self._convolution(use, *args, **kwargs)
        if func is F.embedding:
            return self._embedding(use, args, kwargs)
        if func in _MATMULS:
            return self._linear(use, args[0])
        result = func(*args, **kwargs)
        if func in _TRANSPOSED:
            self._views[result] = replace(use, transposed=True)
        else:  # chunk
            first = use.first
            for part in result:
                self._views[part] = replace(use, first=first, count=len(part))
                first += len(part)
        return result

    def _use(self, weight: Tensor) -> Use | None:
        return self._uses.get(weight) or self._views.get(weight)

    def _rounded(self, use: Use, x: Tensor) -> Tensor:
        stays = self.floats and use.quantizer not in self.rounded
        if stays or use.activation == "fp32":
            return x
        q, scale = quantize_activations(x, use.activation)
        return q * scale

    def _said(self, use: Use, rows: Tensor, source: Tensor) -> None:
        if self.watch is not None:
            self.watch(use, rows, source)

    def _linear(self, use: Use, input: Tensor, weight: Any = None, bias: Any = None) -> Tensor:
        rows = self._rounded(use, input)
        self._said(use, rows, input)
        return F.linear(rows, use.weight(), bias)

    def _convolution(
        self,
        use: Use,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        axes = weight.dim() - 2
        stride, padding, dilation = (
            [one] * axes if isinstance(one, int) else list(one)
            for one in (stride, padding, dilation)
        )
        rows = unfold(input, weight.shape[2:], stride, padding, dilation)
        if groups > 1:
            parted = self._rounded(use, rows.unflatten(-1, (groups, -1)))
            self._said(use, parted, parted)
            parts = use.weight().flatten(1).chunk(groups)
            y = torch.cat(list(map(F.linear, parted.unbind(-2), parts)), -1)
            return (y if bias is None else y + bias).movedim(-1, 1)
        rows = self._rounded(use, rows)
        self._said(use, rows, rows)
        return F.linear(rows, use.weight().flatten(1), bias).movedim(-1, 1)

    def _embedding(self, use: Use, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        ids = _argument(args, kwargs, 0, "input")
        self._said(use, ids, ids)
        return F.embedding(ids, use.weight())


_MATMULS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
# Where functions have the weight, by position and name.
_PLACES: dict[Any, tuple[int, str]] = {
    F.linear: (1, "weight"),
    F.conv1d: (1, "weight"),
    F.conv2d: (1, "weight"),
    F.embedding: (1, "weight"),
    Tensor.chunk: (0, "self"),
    **dict.fromkeys(_TRANSPOSED, (0, "self")),
    **dict.fromkeys(_MATMULS, (1, "other")),
}


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)
