"""Cells of recurrent layers, one step each, as the products and gates they are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.nn import functional
from torch.utils import _pytree

from gq_tvm.exported.inlining import copied, inline, rebuilt, replace

_aten = torch.ops.aten


def lstm_cell(
    x: Tensor,
    state: list[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``aten.lstm_cell``: x [B, I], (h, c) [B, H] each -> h, c."""
    h, c = state
    gates = functional.linear(h, w_hh, b_hh) + functional.linear(x, w_ih, b_ih)
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """``aten.gru_cell``: x [B, I], h [B, H] -> h."""
    r, z, n = functional.linear(x, w_ih, b_ih).chunk(3, 1)
    r_h, z_h, n_h = functional.linear(h, w_hh, b_hh).chunk(3, 1)
    n = (n + (r + r_h).sigmoid() * n_h).tanh()
    return (h - n) * (z + z_h).sigmoid() + n


def rnn_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    function: Callable[[Tensor], Tensor],
) -> Tensor:
    """``aten.rnn_tanh_cell`` and ``rnn_relu_cell``: x [B, I], h [B, H] -> h."""
    return function(functional.linear(x, w_ih, b_ih) + functional.linear(h, w_hh, b_hh))


_CELLS: dict[Any, Callable[..., Any]] = {
    _aten.lstm_cell.default: lstm_cell,
    _aten.gru_cell.default: gru_cell,
    _aten.rnn_tanh_cell.default: partial(rnn_cell, function=torch.tanh),
    _aten.rnn_relu_cell.default: partial(rnn_cell, function=torch.relu),
}


def with_cells_apart(program: ExportedProgram) -> ExportedProgram:
    """The program, its cells taken apart; what was given stays as it was."""
    graph = copied(program)
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _CELLS:
            continue
        cell = _CELLS[node.target]
        leaves, tree = _pytree.tree_flatten(node.args)
        tensors = [one for one in leaves if isinstance(one, fx.Node)]

        def function(
            *given: Tensor, cell: Any = cell, leaves: Any = leaves, tree: Any = tree
        ) -> Any:
            values = iter(given)
            full = [next(values) if isinstance(one, fx.Node) else one for one in leaves]
            return cell(*_pytree.tree_unflatten(full, tree))

        replace(graph, node, inline(graph, node, function, tensors))
    return rebuilt(program, graph)
