"""The ``gq::`` operators of an exported program in Relax, with the names users know layers by."""

from __future__ import annotations

import re
from collections.abc import Collection

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
            "codebook_linear.default": self._linear,
            "codebook_lstm.default": self._lstm,
            "codebook_gru.default": self._gru,
            "codebook_conv1d.default": self._conv1d,
            "codebook_embedding.default": self._embedding,
        }

    def _linear(self, node: fx.Node, importer: Importer) -> relax.Expr:
        x, indices, codebook, bias, bits, activation = importer.retrieve_args(node)
        call = operators.codebook_linear(
            x,
            indices,
            codebook,
            _bias(bias, indices),
            bits=bits,
            activation=self.activation or activation,
            layer=self._layer(node, 1),
        )
        return importer.block_builder.emit(call)

    def _lstm(self, node: fx.Node, importer: Importer) -> relax.Expr:
        *inputs, bias, bits_ih, bits_hh, activation = importer.retrieve_args(node)
        call = operators.codebook_recurrent(
            operators.LSTM,
            [*inputs, _bias(bias, inputs[3])],
            bits_ih=bits_ih,
            bits_hh=bits_hh,
            activation=self.activation or activation,
            layer=self._layer(node, 3),
        )
        return importer.block_builder.emit(call)

    def _gru(self, node: fx.Node, importer: Importer) -> relax.Expr:
        *inputs, bias_ih, bias_hh, bits_ih, bits_hh, activation = importer.retrieve_args(node)
        call = operators.codebook_recurrent(
            operators.GRU,
            [*inputs, _bias(bias_ih, inputs[2]), _bias(bias_hh, inputs[4])],
            bits_ih=bits_ih,
            bits_hh=bits_hh,
            activation=self.activation or activation,
            layer=self._layer(node, 2),
        )
        return importer.block_builder.emit(call)

    def _conv1d(self, node: fx.Node, importer: Importer) -> relax.Expr:
        x, indices, codebook, bias, bits, stride, padding, dilation, groups, activation = (
            importer.retrieve_args(node)
        )
        call = operators.codebook_conv1d(
            x,
            indices,
            codebook,
            _bias(bias, indices),
            bits=bits,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            activation=(self.activation or activation) if groups == 1 else "fp32",
            layer=self._layer(node, 1),
        )
        return importer.block_builder.emit(call)

    def _embedding(self, node: fx.Node, importer: Importer) -> relax.Expr:
        ids, indices, codebook, bits = importer.retrieve_args(node)
        call = operators.codebook_embedding(
            ids, indices, codebook, bits=bits, layer=self._layer(node, 1)
        )
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


def _bias(bias: relax.Expr | None, indices: relax.Expr) -> relax.Expr:
    if bias is not None:
        return bias
    return relax.const(np.zeros(operators.shape_of(indices)[0], np.float32))
