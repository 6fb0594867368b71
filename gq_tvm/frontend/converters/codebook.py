"""The ``gq::`` operators of an exported program in Relax, with the names users know layers by."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from torch import fx
from torch.export import ExportedProgram
from tvm import relax

from gq_tvm.frontend.importer import Converter, Importer
from gq_tvm.frontend.places import module_of
from gq_tvm.ops.checks_recurrent import LAYERS
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
            "codebook_conv2d.default": self._dense,
            **{f"codebook_{name}.default": self._recurrent for name in LAYERS},
            "codebook_embedding.default": self._embedding,
            "recurrent.default": self._float_recurrent,
        }

    def _dense(self, node: fx.Node, importer: Importer) -> relax.Expr:
        """A linear layer or a convolution."""
        given = _arguments(node, importer)
        weight, bias, activation = _weight(given), given["bias"], given["activation"]
        names = ("stride", "padding", "dilation", "groups")
        options = {name: given[name] for name in names if name in given}
        make: Any = getattr(operators, str(node.target).split(".")[1])
        one_channel = options.get("groups", 1) > 1 == operators.shape_of(weight[0])[1]
        if not one_channel:
            activation = self.activation or activation
        layer = self._layer(node, 1)
        bias = _bias(bias, weight)
        call = make(given["x"], weight, bias, activation=activation, layer=layer, **options)
        return importer.block_builder.emit(call)

    def _recurrent(self, node: fx.Node, importer: Importer) -> relax.Expr:
        operator = "relax.gq." + str(node.target).split(".")[1]
        given, kind = _arguments(node, importer), operators.RECURRENT_LAYERS[operator]
        weights = [_weight(given, part) for part in kind.parts]
        biases = [_bias(given[f"bias{end}"], weights[0]) for end in kind.biases]
        state = [given[f"{name}0"] for name in kind.states]
        call = operators.codebook_recurrent(
            operator,
            [given["x"], *state, *(array for weight in weights for array in weight), *biases],
            given["lengths"],
            reverse=bool(given["reverse"]),
            activation=self.activation or given["activation"],
            layer=self._layer(node, operators.WEIGHTS[operator]["_ih"]),
        )
        return importer.block_builder.emit(call)

    def _float_recurrent(self, node: fx.Node, importer: Importer) -> relax.Expr:
        given = _arguments(node, importer)
        weights = [given["weight_ih"], given["weight_hh"]]
        biases = [_bias(given[name], weights) for name in ("bias_ih", "bias_hh")]
        call = operators.recurrent(
            given["cell"],
            [given["x"], *given["state"], *weights, *biases],
            given["weight_hr"],
            given["lengths"],
            reverse=given["reverse"],
            clip=given["clip"],
            functions=given["functions"],
            layer=self.prefix + self._float_layer(node),
        )
        return importer.block_builder.emit(call)

    def _float_layer(self, node: fx.Node) -> str:
        """The name of a recurrent layer in float: the module's, and which of its layers it is."""
        weight = node.args[2]
        target = str(self.targets.get(weight.name) or "") if isinstance(weight, fx.Node) else ""
        path, _, leaf = target.rpartition(".")
        number = leaf.removeprefix("weight_ih_")
        parts = [path or module_of(node), number if number not in ("l0", leaf) else ""]
        return ".".join(filter(None, parts)) or node.name

    def _embedding(self, node: fx.Node, importer: Importer) -> relax.Expr:
        given = _arguments(node, importer)
        weight = _weight(given)
        call = operators.codebook_embedding(given["ids"], weight, layer=self._layer(node, 1))
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
            numbered = layer.removeprefix(target.rpartition(".")[0])  # of a stack, or ""
            layer = module_of(node) + numbered
        return self.prefix + layer


def layer_of(buffer: str, buffers: Collection[str]) -> str:
    """The layer a buffer belongs to.

    ``linear.indices`` is of ``linear``; ``lstm.indices_ih_l1`` is of ``lstm.1``, and
    ``lstm.indices_ih_l0`` of ``lstm.0``, or of ``lstm`` if `buffers` has no second layer of it.
    ``lstm.indices_ih_l1_reverse`` is of ``lstm.1_reverse``.
    """
    *path, leaf = buffer.split(".")
    numbered = re.search(r"^(.*_l)(\d+(_reverse)?)$", leaf)
    if numbered:
        others = (f"{numbered[1]}{other}" for other in ("1", "0_reverse"))
        if any(".".join([*path, other]) in buffers for other in others):
            path.append(numbered[2])
    return ".".join(path) or leaf


def is_layer(node: fx.Node) -> bool:
    """Whether the module a node was traced in is one of ``quantize``'s, in a model around it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return len(stack) > 1 and str(stack[-1][1]).startswith(_LAYERS)


def _arguments(node: fx.Node, importer: Importer) -> dict[str, Any]:
    """What a node is called with, by name and in the operator's order; None for what is left out.

    A program exported before an operator had its last arguments does not name them.
    """
    target: Any = node.target
    names = [one.name for one in target._schema.arguments]
    by_name = importer._retrieve_args(dict(node.kwargs))
    return dict(zip_longest(names, importer.retrieve_args(node))) | by_name


def _weight(given: Mapping[str, Any], part: str = "") -> list[relax.Expr]:
    """A weight's arguments, those that were left out as constants."""
    arrays = [given[f"{name}{part}"] for name in ("indices", "codebook", "scale", "zero")]
    arrays += [given[f"outlier_{name}{part}"] for name in ("positions", "values")]
    instead = (None, None, np.ones(1, np.float32), *operators.NO_ZERO_OR_OUTLIERS)
    return [
        relax.const(constant) if one is None else one
        for one, constant in zip(arrays, instead, strict=True)
    ]


def _bias(bias: relax.Expr | None, weight: Sequence[relax.Expr]) -> relax.Expr:
    if bias is not None:
        return bias
    return relax.const(np.zeros(operators.shape_of(weight[0])[0], np.float32))
