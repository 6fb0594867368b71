"""From ``torch.export`` to Relax, with codebook operators and names users know.

TVM translates the plain operators; the converters below do the ``gq::`` ones. Everything TVM lacks
is collected before translation, so that one refusal names it all.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram, default_decompositions
from torch.export.graph_signature import InputKind, TensorArgument
from tvm import relax
from tvm.ir import IRModule

import gq_tvm.ops.torch_gru  # noqa: F401  (registers torch.ops.gq, which programs call)
from gq_tvm.errors import Error
from gq_tvm.frontend import arithmetic, complex_numbers, reductions
from gq_tvm.frontend.attention import ATTENTION, convert_attention, is_kept
from gq_tvm.frontend.decompositions import DECOMPOSITIONS
from gq_tvm.frontend.importer import Converter, Importer
from gq_tvm.frontend.joins import convert_cat
from gq_tvm.frontend.places import line_of, module_named, module_of
from gq_tvm.frontend.sequences import MAKERS, convert_sequence
from gq_tvm.frontend.slices import convert_slice
from gq_tvm.passes import operators
from gq_tvm.passes.parameters import digest

_MOST_MODULES = 4  # named in a refusal
_LAYERS = "gq_tvm.quantize.codebook_"  # by name: the compile side does not import them


def translate(
    program: ExportedProgram, name: str, prefix: str, activation: str | None
) -> tuple[IRModule, dict[str, str]]:
    """Translate one program.

    Args:
        program: What ``torch.export.export`` returned.
        name: What refusals call the program.
        prefix: What layer names begin with, "" or e.g. ``"encoder."``.
        activation: one of ``ops.checks.ACTIVATIONS`` for all layers, None as each was trained.

    Returns:
        A module with the function ``main``, and the names of its constants by
        ``parameters.digest``.

    Raises:
        Error: an input is no tensor, the program changes a buffer or an input in place, or
            operators cannot be translated.
    """
    _check_inputs(program, name)
    with warnings.catch_warnings():  # PyTorch deprecates what its own copying of programs uses
        warnings.simplefilter("ignore", FutureWarning)
        program = program.run_decompositions(_decompositions(program))
    _check_state(program, name)
    importer = Importer(_Converters(program, prefix, activation).table())
    _check_operators(program, name, importer.convert_map)
    _check_indexing(program, name)
    module = importer.translate(program)
    return module, _names_of_constants(program, prefix)


def _decompositions(program: ExportedProgram) -> Any:
    table = default_decompositions()
    table.update(DECOMPOSITIONS)
    if is_kept(program):
        table.pop(ATTENTION, None)
    return table


class _Converters:
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
            "scaled_dot_product_attention.default": convert_attention,
            "slice.Tensor": convert_slice,
            "cat.default": convert_cat,
            **dict.fromkeys(MAKERS, convert_sequence),
            **reductions.CONVERTERS,
            **arithmetic.CONVERTERS,
            **complex_numbers.CONVERTERS,
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


def _check_inputs(program: ExportedProgram, name: str) -> None:
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, TensorArgument):
            raise Error(
                f"input {spec.arg.name!r} of program {name} is not a tensor; export the model with "
                "tensor inputs only"
            )


def _check_state(program: ExportedProgram, name: str) -> None:
    """Refuse programs that change what they are given: a compiled function only returns."""
    signature = program.graph_signature
    for what, changed in (
        ("buffer", signature.buffers_to_mutate),
        ("input", signature.user_inputs_to_mutate),
    ):
        for target in changed.values():
            raise Error(
                f"program {name} changes its {what} {target!r} in place, which a compiled function "
                "cannot; take the state as an input and return it as an output"
            )


def _check_operators(program: ExportedProgram, name: str, known: Collection[str]) -> None:
    """Refuse the operators that have no converter, all of them at once."""
    missing: dict[str, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target.__name__ not in known:
            missing.setdefault(str(node.target), []).append(node)
    if missing:
        listed = "; ".join(f"{op} {_places(nodes)}" for op, nodes in missing.items())
        raise Error(
            f"program {name} uses operators that cannot be translated: {listed}; replace them by "
            "supported ones"
        )


def _places(nodes: list[fx.Node]) -> str:
    """How often an operator is called, in which modules, and the first line that does."""
    modules = list(dict.fromkeys(map(module_named, nodes)))
    more = f" and {len(modules) - _MOST_MODULES} more" if len(modules) > _MOST_MODULES else ""
    line = line_of(nodes[0])
    return (
        f"({f'{len(nodes)} times ' if len(nodes) > 1 else ''}"
        f"in {', '.join(modules[:_MOST_MODULES])}{more}{f': {line}' if line else ''})"
    )


def _check_indexing(program: ExportedProgram, name: str) -> None:
    """Refuse ``x[:, i, j]``, which TVM takes for an outer product unless it is one."""
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target is not torch.ops.aten.index.Tensor:
            continue
        used = [(axis, one.meta["val"]) for axis, one in enumerate(node.args[1]) if one is not None]
        if 1 < len(used) < len(node.args[1]) and not _is_outer(used):
            raise Error(
                f"program {name} indexes a tensor by {len(used)} tensors and a slice (in "
                f"{module_named(node)}: {line_of(node)}), which cannot be translated; index by one "
                "tensor after the other, or use torch.gather"
            )


def _is_outer(used: list[tuple[int, torch.Tensor]]) -> bool:
    """Whether indices are ``i[:, None], j`` into neighbouring axes."""
    if len(used) != 2:
        return False
    (first, rows), (second, columns) = used
    flat = columns.ndim == 1 or (columns.ndim == 2 and columns.shape[0] == 1)
    column = rows.ndim == 2 and rows.shape[1] == 1 and rows.shape[0] != 1
    return second == first + 1 and flat and columns.shape[-1] != 1 and column


def _names_of_constants(program: ExportedProgram, prefix: str) -> dict[str, str]:
    tensors: dict[str, Any] = {**program.state_dict, **program.constants}
    return {
        digest(tensor.detach().cpu().numpy()): prefix + target
        for target, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor) and tensor.dtype != torch.bfloat16
    }
