"""The quantiser of a weight that ``compress`` fits, and the weight as it is at each stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gq_tvm.ops import torch_weight
from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.quantize.fitting import Fit, Form
from gq_tvm.quantize.quantisers.quantizer import Quantizer


@dataclass
class Shown:
    """A parameter with two values: the float model's, and the compressed one's."""

    parameter: nn.Parameter
    float: Tensor
    compressed: Tensor

    def show(self, floats: bool) -> None:
        """Let the parameter have one of them."""
        self.parameter.data = self.float if floats else self.compressed


class Fitted(Quantizer):
    """The quantiser of a weight that trains no further: float until it has its codebook.

    Args:
        weight: f32 [N, ...], the parameter itself.
        bits: 1 to 8.
        int8_grid: see ``Quantizer``.

    Attributes:
        form: what the codebook is to be; set by ``compress`` once the weight's name is known.
        lost: what ``Fit.lost`` says, once it is fitted.
    """

    form: Form

    def __init__(self, weight: Tensor, bits: int, int8_grid: bool) -> None:
        super().__init__(bits, int8_grid, False)
        assert isinstance(weight, nn.Parameter)
        # In a list, and so no parameter of this module's.
        self._shown = [Shown(weight, weight.data, weight.data)]
        self._fit: Fit | None = None
        self.lost = 0.0
        #: While a ``Tap`` watches: what each kind of activations multiplies by, to know it by.
        self.handles: dict[str, Tensor] = {}

    @property
    def shown(self) -> Shown:
        """The parameter and its values."""
        return self._shown[0]

    @property
    def done(self) -> bool:
        """Whether it has its codebook."""
        return self._fit is not None

    @property
    def rows(self) -> Tensor:
        """The float weight as f32 [N, K]."""
        return self.shown.float.flatten(1)

    @property
    def deployed(self) -> WeightTensors:
        """The weight in its codebook."""
        assert self._fit is not None
        return self._fit.weight

    def change(self, weight: Tensor) -> None:
        """Have another float weight, before it is fitted."""
        self.shown.float = self.shown.compressed = weight
        self.shown.show(floats=True)

    def keep_floats(self) -> None:
        """Meet rows of floats, before it is fitted."""
        self.int8_grid = False
        self.form = replace(self.form, int8_grid=False)

    def take(self, fit: Fit) -> None:
        """Be of a codebook from now on; the parameter holds what it stands for."""
        shape = self.shown.float.shape
        weight = fit.weight._replace(indices=fit.weight.indices.view(shape))
        self._fit = Fit(weight, fit.lost)
        self.lost = fit.lost
        self.shown.compressed = expand(weight).to(self.shown.float.device)
        self.shown.show(floats=False)

    def forget_floats(self) -> None:
        """Keep the float weight no longer."""
        self.shown.float = self.shown.compressed

    def forward(self, weight: Tensor) -> Tensor:
        """The deployed values; no gradient."""
        return expand(self.deployed)

    def harden(self, weight: Tensor) -> WeightTensors:
        """What was fitted to the weight this was made with."""
        return self.deployed

    def operand(self, weight: Tensor, activation: str) -> torch_weight.Operand:
        """As ``Quantizer.operand``; a handle of its own where a ``Tap`` watches."""
        if activation in self.handles:
            return self.handles[activation]
        return super().operand(weight, activation)


def correct_bias(bias: nn.Parameter, shown: list[Shown], by: Tensor) -> None:
    """Add to a bias, of which ``shown`` keeps both values."""
    one = next((one for one in shown if one.parameter is bias), None)
    if one is None:
        one = Shown(bias, bias.data, bias.data.clone())
        shown.append(one)
    with torch.no_grad():
        one.compressed = one.compressed + by.to(one.compressed)
    one.show(floats=False)
