"""Nodes that hold graphs: If, Loop and Scan.

What decides is a number while the graph is traced wherever it is a constant or a size; the other
branch is gone then, and a loop is its steps one after another. An If on data computes both
branches and takes one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.onnx_import.registry import Node, operator
from gq_tvm.onnx_import.values import Host, Value, host, tensor_of

MOST_STEPS = 1024  # of a loop
_MOST_NESTED = 1 << 14  # of loops within one another
_around: ContextVar[int] = ContextVar("around", default=1)  # steps of the loops around
Bodies = Mapping[str, Callable[..., tuple[Any, ...]]]


def run_if(node: Node, bodies: Bodies, condition: Value) -> tuple[Any, ...]:
    """One branch, or what data choose of both."""
    if isinstance(condition, Host):
        taken = "then_branch" if bool(condition.number()) else "else_branch"
        return bodies[taken]()
    found: list[tuple[Any, ...] | Error] = []
    for branch in ("then_branch", "else_branch"):
        try:
            found.append(bodies[branch]())
        except Error as failure:
            found.append(failure)
    first, second = found
    if isinstance(first, Error) and isinstance(second, Error):
        raise first
    if isinstance(first, Error) or isinstance(second, Error):
        return _the_one(node, condition.reshape(()), first, second)
    return tuple(_chosen(node, condition, *pair) for pair in zip(first, second, strict=True))


def _the_one(node: Node, condition: Tensor, first: Any, second: Any) -> tuple[Any, ...]:
    """The branch that runs at the sizes there are; NaN where data choose the other."""
    taken = second if isinstance(first, Error) else first
    which = "else" if isinstance(first, Error) else "then"
    warnings.warn(
        f"node {node.name} (If) chooses by {node.inputs[0]}, and only its {which} branch runs at "
        "these sizes: outputs are NaN where the other is chosen (--fix NAME=VALUE makes the input "
        "it asks for a constant)",
        stacklevel=2,
    )
    if isinstance(first, Error):
        condition = torch.logical_not(condition)
    tensors = [tensor_of(one) for one in taken]
    return tuple(
        torch.where(condition, one, torch.full((), torch.nan, dtype=one.dtype))
        if one.is_floating_point()
        else one
        for one in tensors
    )


def _chosen(node: Node, condition: Tensor, one: Value, other: Value) -> Tensor:
    first, second = tensor_of(one), tensor_of(other)
    if first.dim() != second.dim() or first.dtype != second.dtype:
        raise node.refuse(
            "chooses by data between tensors of different axes; make the input it asks for a "
            "constant (--fix NAME=VALUE)"
        )
    return torch.where(condition.reshape(()), first, second)


@contextmanager
def _walking(node: Node, steps: int) -> Iterator[None]:
    """Of loops within loops, all take a bounded number of steps.

    Raises:
        Error: they take more.
    """
    all_steps = _around.get() * max(1, steps)
    if all_steps > _MOST_NESTED:
        raise node.refuse(
            f"runs {all_steps:,} times within other loops, more than {_MOST_NESTED:,}; write it "
            "as an LSTM, GRU or RNN"
        )
    before = _around.set(all_steps)
    try:
        yield
    finally:
        _around.reset(before)


def run_loop(
    node: Node, bodies: Bodies, count: Value | None, go_on: Value | None, *carried: Any
) -> tuple[Any, ...]:
    """The steps of a loop whose count is known, one after another."""
    steps = count.number() if isinstance(count, Host) else None
    if not isinstance(steps, int) or not 0 <= steps <= MOST_STEPS:
        raise node.refuse(
            f"runs a number of times that is no constant up to {MOST_STEPS}; give the input that "
            "it walks over a fixed size (--size NAME=N), or write it as an LSTM, GRU or RNN"
        )
    state, listed = list(carried), list[list[Tensor]]()
    condition: Value = go_on if go_on is not None else host(True, torch.bool)
    for step in range(steps):
        if not isinstance(condition, Host):
            raise node.refuse("ends when data say so; only loops of a known length are taken")
        if not bool(condition.number()):
            break
        with _walking(node, steps):
            condition, *results = bodies["body"](host(step), condition, *state)
        state, rest = results[: len(state)], results[len(state) :]
        listed = listed or [[] for _ in rest]
        for its, one in zip(listed, rest, strict=True):
            its.append(tensor_of(one))
    wanted = len(node.outputs) - len(state)
    if wanted and not listed:
        raise node.refuse("takes no step, so its outputs have no known size")
    return (*state, *(torch.stack(one) for one in listed))


def run_scan(node: Node, bodies: Bodies, *given: Any) -> tuple[Any, ...]:
    """The steps of a Scan over an axis of known size, one after another."""
    count = int(node.get("num_scan_inputs"))
    state, scanned = list(given[: len(given) - count]), given[len(given) - count :]
    if node.version < 9:
        raise node.refuse("is of opset 8; convert the model to opset 9 or later")
    axes = node.get("scan_input_axes") or [0] * count
    backward = node.get("scan_input_directions") or [0] * count
    tensors = [tensor_of(one).movedim(axis, 0) for one, axis in zip(scanned, axes, strict=True)]
    steps: Any = tensors[0].shape[0]
    if not isinstance(steps, int) or steps > MOST_STEPS or not steps:
        raise node.refuse(
            f"walks over an axis whose size is no constant of 1 to {MOST_STEPS}; fix it (--size "
            "NAME=N), or write it as an LSTM, GRU or RNN"
        )
    listed: list[list[Tensor]] = []
    for step in range(steps):
        parts = [
            one[steps - 1 - step if turned else step]
            for one, turned in zip(tensors, backward, strict=True)
        ]
        with _walking(node, steps):
            results = bodies["body"](*state, *parts)
        state, rest = list(results[: len(state)]), results[len(state) :]
        listed = listed or [[] for _ in rest]
        for its, one in zip(listed, rest, strict=True):
            its.append(tensor_of(one))
    out_axes = node.get("scan_output_axes") or [0] * len(listed)
    turned = node.get("scan_output_directions") or [0] * len(listed)
    outputs: Sequence[Tensor] = [
        torch.stack(one[::-1] if back else one).movedim(0, axis)
        for one, axis, back in zip(listed, out_axes, turned, strict=True)
    ]
    return (*state, *outputs)


CONTROL: dict[str, Callable[..., tuple[Any, ...]]] = {
    "If": run_if,
    "Loop": run_loop,
    "Scan": run_scan,
}


@operator(*CONTROL)
def _held(node: Node, *_: Any) -> Any:
    raise node.refuse("has no graph")  # `module` runs these with theirs
