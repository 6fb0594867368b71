"""Operators that compute element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gq_tvm.onnx_import.registry import MICROSOFT, Node, operator
from gq_tvm.onnx_import.values import Host, Value, tensor_of, torch_dtype


def operands(*values: Value) -> tuple[Any, ...]:
    """Tensors, and Python numbers for single numbers that are known and add no axis."""
    ranks = [one.dim() for one in values if isinstance(one, Tensor)]

    def plain(one: Value) -> Any:
        known = isinstance(one, Host) and one.array.size == 1 and ranks
        if isinstance(one, Host) and known and one.array.ndim <= max(ranks):
            return one.number()
        return tensor_of(one)

    return tuple(map(plain, values))


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": lambda x: functional.softplus(x, threshold=1e30),
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Any, Any], Tensor]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Equal": lambda a, b: a == b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
}
_TENSORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


@operator(*_UNARY)
def _unary(node: Node, x: Tensor) -> Tensor:
    return _UNARY[node.operator](x)


@operator(*_BINARY, either=True)
def _binary(node: Node, a: Value, b: Value) -> Tensor:
    if node.version < 7 and node.get("broadcast"):
        return _BINARY[node.operator](*_as_before_7(node, tensor_of(a), tensor_of(b)))
    return _BINARY[node.operator](*operands(a, b))


@operator(*_TENSORS)
def _tensors(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return _TENSORS[node.operator](a, b)


def _as_before_7(node: Node, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Operands of opsets up to 6, where the second lies at an axis of the first."""
    axis = int(node.get("axis", a.dim() - b.dim()))
    axis += a.dim() if axis < 0 else 0
    return a, b.reshape([*b.shape, *[1] * (a.dim() - axis - b.dim())])


@operator("Div", either=True)
def _div(node: Node, a: Value, b: Value) -> Tensor:
    if node.version < 7 and node.get("broadcast"):
        a, b = _as_before_7(node, tensor_of(a), tensor_of(b))
    dtype = a.dtype if isinstance(a, Tensor) else b.dtype
    rounding = None if dtype.is_floating_point else "trunc"
    first, second = operands(a, b)
    if rounding is None:
        return first / second
    return torch.div(torch.as_tensor(first, dtype=dtype), second, rounding_mode=rounding)


@operator("Pow", either=True)
def _pow(node: Node, a: Value, b: Value) -> Tensor:
    dtype = a.dtype
    first, second = operands(a, b)
    if isinstance(first, Tensor) and not isinstance(second, Tensor):
        if not dtype.is_floating_point and isinstance(second, float):
            return torch.pow(first.double(), second).to(dtype)
        second = int(second) if isinstance(second, float) and second.is_integer() else second
    result = torch.pow(first, second)
    return result if result.dtype == dtype else result.to(dtype)


@operator("Mod", either=True)
def _mod(node: Node, a: Value, b: Value) -> Tensor:
    first, second = operands(a, b)
    if node.get("fmod"):
        return torch.fmod(tensor_of(a), second)
    return torch.remainder(first, second)


@operator("Min", "Max", "Sum", "Mean", either=True)
def _fold(node: Node, *values: Value) -> Tensor:
    first = next((at for at, one in enumerate(values) if isinstance(one, Tensor)), 0)
    result = tensor_of(values[first])
    for one in (*values[:first], *values[first + 1 :]):
        _, other = operands(result, one)
        if node.operator in ("Min", "Max"):
            if isinstance(other, Tensor):
                result = (torch.minimum if node.operator == "Min" else torch.maximum)(result, other)
            else:
                name = "max" if node.operator == "Min" else "min"
                result = torch.clamp(result, **{name: other})
        else:
            result = result + other
    return result / len(values) if node.operator == "Mean" else result


@operator("Where", either=True)
def _where(node: Node, condition: Value, a: Value, b: Value) -> Tensor:
    return torch.where(tensor_of(condition), tensor_of(a), tensor_of(b))


@operator("Cast")
def _cast(node: Node, x: Tensor) -> Tensor:
    dtype = torch_dtype(int(node.get("to")))
    return x if x.dtype == dtype else x.to(dtype)


@operator("CastLike")
def _cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    return x if x.dtype == like.dtype else x.to(like.dtype)


@operator("Clip", host=(1, 2))
def _clip(node: Node, x: Tensor, least: Host | None = None, most: Host | None = None) -> Tensor:
    low = node.get("min") if least is None else least.number()
    high = node.get("max") if most is None else most.number()
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Dropout")
def _dropout(node: Node, x: Tensor, ratio: Any = None, training: Any = None) -> Any:
    if len(node.outputs) > 1 and node.outputs[1]:
        return x, torch.ones_like(x, dtype=torch.bool)
    return x


@operator("IsInf")
def _is_inf(node: Node, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if node.get("detect_positive", 1):
        found = found | (x == math.inf)
    return found | (x == -math.inf) if node.get("detect_negative", 1) else found


@operator("BitShift")
def _bit_shift(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return a << b if node.get("direction") == "LEFT" else a >> b


@operator("HardSigmoid")
def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(x * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1)


@operator("LeakyRelu")
def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, node.get("alpha", 0.01))


@operator("Elu")
def _elu(node: Node, x: Tensor) -> Tensor:
    return functional.elu(x, node.get("alpha", 1.0))


@operator("Celu")
def _celu(node: Node, x: Tensor) -> Tensor:
    return functional.celu(x, node.get("alpha", 1.0))


@operator("Selu")
def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813)
    return gamma * functional.elu(x, alpha)


@operator("PRelu")
def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    if node.version < 7 and slope.dim() == 1 and slope.shape[0] > 1:
        slope = slope.reshape([-1, *[1] * (x.dim() - 2)])
    return torch.where(x < 0, x * slope, x)


@operator("ThresholdedRelu")
def _thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("Shrink")
def _shrink(node: Node, x: Tensor) -> Tensor:
    bias, edge = node.get("bias", 0.0), node.get("lambd", 0.5)
    nothing = torch.zeros_like(x)
    return torch.where(x > edge, x - bias, torch.where(x < -edge, x + bias, nothing))


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """The Gaussian error linear unit (Hendrycks and Gimpel, arXiv 1606.08415)."""
    return functional.gelu(x, approximate=approximate)


@operator("Gelu")
def _gelu(node: Node, x: Tensor) -> Tensor:
    return gelu(x, node.get("approximate", "none"))


@operator("Gelu", domain=MICROSOFT)
def _gelu_of_microsoft(node: Node, x: Tensor) -> Tensor:
    return gelu(x)


@operator("BiasGelu", domain=MICROSOFT)
def _bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    return gelu(x + bias)


@operator("FastGelu", domain=MICROSOFT)
def _fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return gelu(x if bias is None else x + bias, "tanh")


@operator("QuickGelu", domain=MICROSOFT)
def _quick_gelu(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.702) * x)
