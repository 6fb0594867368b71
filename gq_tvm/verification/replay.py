"""An exported program run in PyTorch, as it is or moved a little: what rounding may do to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree

from gq_tvm.exported.operators import argument_names, overridden

# Operators that sum, in an order of their own: where compiled code differs from PyTorch.
_SUMS = {
    *(
        "linear",
        "matmul",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "einsum",
        "scaled_dot_product_attention",
    ),
    *("conv1d", "conv2d", "conv_transpose1d", "lstm", "gru", "rnn_tanh", "rnn_relu"),
    *("layer_norm", "group_norm", "softmax"),
}


class Replay:
    """A program to run again and again.

    Args:
        program: What ``torch.export.export`` returned.
        activation: One of ``ops.checks.ACTIVATIONS`` for every layer, as ``build`` takes it; None
            as each was trained.
    """

    def __init__(self, program: ExportedProgram, activation: str | None = None) -> None:
        self._module = program.module()
        self._activation = activation

    def __call__(
        self, arrays: Sequence[NDArray], noise: float = 0.0, seed: int = 0
    ) -> list[NDArray]:
        """Run it.

        Args:
            arrays: The inputs, in order.
            noise: By how much at most to move what goes into each sum, in last bits of a number as
                large as its row is on the whole. Zeros, integers and what is not finite stay.
            seed: Of the noise.

        Returns:
            The outputs, in order.
        """
        tensors = [torch.from_numpy(array.copy()) for array in arrays]
        with torch.no_grad():
            outputs = _Run(self._module, self._activation, noise, seed).run(*tensors)
        return [one.numpy() for one in _pytree.tree_leaves(outputs)]


def activations(program: ExportedProgram, override: str | None = None) -> Counter[str]:
    """How many weights in codebooks meet activations of each kind.

    Look-ups spelled in plain PyTorch are not counted: they do not say it.
    """
    found: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "call_function" and str(node.target).startswith("gq."):
            names = argument_names(node.target)
            if "activation" in names:
                weights = sum(name.startswith("indices") for name in names)
                at = names.index("activation")
                found[overridden(node.target, node.args, override)[at]] += weights
    return found


class _Run(fx.Interpreter):
    """One run of the graph."""

    def __init__(
        self, module: fx.GraphModule, activation: str | None, noise: float, seed: int
    ) -> None:
        super().__init__(module)
        self._activation = activation
        self._noise = noise
        self._generator = torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        """Run one operator, on what it is given or on that moved a little."""
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        space, _, name = str(n.target).partition(".")
        if space == "gq":
            args = overridden(n.target, args, self._activation)
        if self._noise and (space == "gq" or name.partition(".")[0] in _SUMS):
            axis = 1 if "conv" in name else -1
            args = tuple(
                self._moved(value, axis) if _is_computed(given) else value
                for given, value in zip(n.args, args, strict=True)
            )
        return self.call_function(n.target, args, kwargs)

    def _moved(self, x: Any, axis: int) -> Any:
        """A tensor with noise on its elements, by the size of the row along `axis` they are in."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.dim():
            return x
        size = x.square().mean(axis if x.dim() > 2 else -1, keepdim=True).sqrt()
        noise = 2 * torch.rand(x.shape, generator=self._generator, dtype=x.dtype) - 1
        moved = x + noise * size * (self._noise * torch.finfo(x.dtype).eps)
        return torch.where((x != 0) & torch.isfinite(size), moved, x)


def _is_computed(argument: Any) -> bool:
    """Whether a node's argument depends on the inputs: weights are the same on both sides."""
    return isinstance(argument, fx.Node) and argument.op != "get_attr"
