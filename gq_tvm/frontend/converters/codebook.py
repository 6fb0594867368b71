"""The ``gq::`` operators of an exported program in Relax, with the names users know layers by."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from torch import fx
from torch.export import ExportedProgram
from tvm import relax

from gq_tvm.frontend.importer import Converter, Importer
from gq_tvm.frontend.places import module_of
from gq_tvm.passes import operators

# By name, as the compile side does not import them; the second of programs exported before.
_LAYERS = ("gq_tvm.quantize.deployed.codebook_", "gq_tvm.quantize.codebook_")


class Converters:
    """The converters of the ``gq::`` operators of one program."""

    def __init__(self, program: ExportedProgram, prefix: str, activation: str | None) -> None:
        self.prefix = prefix
        self.activation = activation
        self.targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}

    def table(self) -> dict[str, Converter]:
        """The converters, by the names TVM knows operators by."""
        return {
            "codebook_linear.default": self._dense,
            "codebook_conv1d.default": self._dense,
            "codebook_lstm.default": self._recurrent,
            "codebook_gru.default": self._recurrent,
            "codebook_embedding.default": self._embedding,
        }

    def _dense(self, node: fx.Node, importer: Importer) -> relax.Expr:
        """A linear layer or, with numbers behind its bias, a convolution."""
        x, *rest = importer.retrieve_args(node)
        weight, (bias, *numbers, activation) = _weight(rest[:4]), rest[4:]
        options = dict(zip(("stride", "padding", "dilation", "groups"), numbers, strict=False))
        make: Any = operators.codebook_conv1d if options else operators.codebook_linear
        if options.get("groups", 1) == 1:
            activation = self.activation or activation
        layer = self._layer(node, 1)
        call = make(x, weight, _bias(bias, weight), activation=activation, layer=layer, **options)
        return importer.block_builder.emit(call)

    def _recurrent(self, node: fx.Node, importer: Importer) -> relax.Expr:
        operator = "relax.gq." + str(node.target).split(".")[1]
        *inputs, activation = importer.retrieve_args(node)
        at = operators.WEIGHTS[operator]["_ih"]
        weights = [_weight(inputs[first : first + 4]) for first in (at, at + 4)]
        # An LSTM's one bias is behind both weights.
        biases = [_bias(*both) for both in zip(inputs[at + 8 :], weights, strict=False)]
        call = operators.codebook_recurrent(
            operator,
            [*inputs[:at], *weights[0], *weights[1], *biases],
            activation=self.activation or activation,
            layer=self._layer(node, at),
        )
        return importer.block_builder.emit(call)

    def _embedding(self, node: fx.Node, importer: Importer) -> relax.Expr:
        ids, *weight = importer.retrieve_args(node)
        call = operators.codebook_embedding(ids, _weight(weight), layer=self._layer(node, 1))
        return importer.block_builder.emit(call)

    def _layer(self, node: fx.Node, indices: int) -> str:
        """The layer's name: that of its buffer `indices`, or of the module that calls it.

        Tied modules share a buffer that has the name of one of them, so the name of a module known
        to be a layer goes first.
        """
        argument = node.args[indices]
        target = self.targets.get(argument.name) if isinstance(argument, fx.Node) else None
        if target is None:
            return self.prefix + (module_of(node) or node.name)
        layer = layer_of(target, set(self.targets.values()))
        if is_layer(node):
            numbered = layer.removeprefix(target.rpartition(".")[0])  # of an LSTM, or ""
            layer = module_of(node) + numbered
        return self.prefix + layer


def layer_of(buffer: str, buffers: Collection[str]) -> str:
    """The layer a buffer belongs to.

    ``linear.indices`` is of ``linear``; ``lstm.indices_ih_l1`` is of ``lstm.1``, and
    ``lstm.indices_ih_l0`` of ``lstm.0``, or of ``lstm`` if `buffers` has no second layer of it.
    """
    *path, leaf = buffer.split(".")
    numbered = re.search(r"^(.*_l)(\d+)$", leaf)
    if numbered and ".".join([*path, numbered[1] + "1"]) in buffers:
        path.append(numbered[2])
    return ".".join(path) or leaf


def is_layer(node: fx.Node) -> bool:
    """Whether the module a node was traced in is one of ``quantize``'s, in a model around it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return len(stack) > 1 and str(stack[-1][1]).startswith(_LAYERS)


def _weight(arrays: Sequence[relax.Expr | None]) -> list[relax.Expr]:
    """A weight's arguments, those that were left out as constants."""
    indices, codebook, scale, zero = arrays
    scale = relax.const(np.ones(1, np.float32)) if scale is None else scale
    return [
        indices,
        codebook,
        scale,
        relax.const(np.zeros(0, np.float32)) if zero is None else zero,
    ]


def _bias(bias: relax.Expr | None, weight: Sequence[relax.Expr]) -> relax.Expr:
    if bias is not None:
        return bias
    return relax.const(np.zeros(operators.shape_of(weight[0])[0], np.float32))
