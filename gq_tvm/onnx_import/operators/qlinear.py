"""com.microsoft's operators on quantised tensors: what they are of floats, rounded again.

"Contrib operators" in ONNX Runtime's documentation defines them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gq_tvm.onnx_import.operators.pooling import average_pool
from gq_tvm.onnx_import.operators.quantised import requantised
from gq_tvm.onnx_import.registry import MICROSOFT, Node, operator


def _floats(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    centred = x.float() if zero is None else x.float() - zero.reshape(()).float()
    return centred * scale.reshape(())


def _again(y: Tensor, scale: Tensor, zero: Tensor | None, like: Tensor) -> Tensor:
    """Floats as integers; of the dtype of another where there is no zero point."""
    zero = torch.zeros((), dtype=like.dtype) if zero is None else zero
    return requantised(y / scale.reshape(()), zero.reshape(()))


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(node: Node, *given: Any) -> Tensor:
        scale, zero = [*given[6:], None][:2]
        y = function(_floats(*given[:3]), _floats(*given[3:6]))
        return _again(y, scale, zero, given[0])

    return run


operator("QLinearAdd", domain=MICROSOFT)(_of_two(torch.add))
operator("QLinearMul", domain=MICROSOFT)(_of_two(torch.mul))


def _of_one(function: Callable[[Node, Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(
        node: Node,
        x: Tensor,
        x_scale: Tensor,
        x_zero: Tensor | None,
        y_scale: Tensor,
        y_zero: Tensor | None = None,
    ) -> Tensor:
        return _again(function(node, _floats(x, x_scale, x_zero)), y_scale, y_zero, x)

    return run


def _last_channels(pool: Callable[[Node, Tensor], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    """A pool that may be given its channels last."""

    def run(node: Node, x: Tensor) -> Tensor:
        if not node.get("channels_last", 0):
            return pool(node, x)
        return pool(node, x.movedim(-1, 1)).movedim(1, -1)

    return run


def _mean(node: Node, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


def _leaky(node: Node, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, float(node.get("alpha", 0.01)))


for _name, _function in (
    ("QLinearSigmoid", lambda node, x: torch.sigmoid(x)),
    ("QLinearLeakyRelu", _leaky),
    ("QLinearAveragePool", _last_channels(average_pool)),
    ("QLinearGlobalAveragePool", _last_channels(_mean)),
):
    operator(_name, domain=MICROSOFT)(_of_one(_function))


@operator("QLinearConcat", domain=MICROSOFT)
def _concat(node: Node, y_scale: Tensor, y_zero: Tensor, *given: Any) -> Tensor:
    parts = [_floats(*given[at : at + 3]) for at in range(0, len(given), 3)]
    return _again(torch.cat(parts, int(node.get("axis"))), y_scale, y_zero, given[0])
