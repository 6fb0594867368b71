"""One node, computed: by Python numbers where all is known while tracing, else by PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.onnx_import.limits import TooLarge
from gq_tvm.onnx_import.registry import ON_HOST, STANDARD, Node, find
from gq_tvm.onnx_import.values import Host, Value, tensor_of

# What is raised where a node does not fit its inputs, or lacks one, or an attribute.
_REFUSALS = (
    *(RuntimeError, LookupError, TypeError, ValueError, AssertionError, AttributeError),
    *(ArithmeticError, MemoryError),
)


def compute(node: Node, values: Sequence[Value | None]) -> tuple[Any, ...]:
    """The outputs of a node.

    Args:
        node: It; its operator is known.
        values: Its inputs, None for those left out.

    Raises:
        Error: a size, an axis or the like is computed from data, or the node asks for what is not
            known here.
    """
    known = find(node)
    assert known is not None
    all_known = all(one is None or isinstance(one, Host) for one in values)
    if all_known and node.domain == STANDARD and node.operator in ON_HOST:
        result = guarded(node, ON_HOST[node.operator], node, *values)
        if result is not NotImplemented:
            return result if isinstance(result, tuple) else (result,)
    given: list[Any] = []
    for place, value in enumerate(values):
        if value is None or (known.either and place not in known.host):
            given.append(value)
        elif place in known.host:
            if not isinstance(value, Host):
                raise node.refuse(
                    f"takes input {place} ({node.inputs[place]}) as computed from data, and sizes "
                    "must be known before a model runs; export it with constants there"
                )
            given.append(value)
        else:
            given.append(tensor_of(value))
    result = guarded(node, known.function, node, *given)
    return result if isinstance(result, tuple) else (result,)


def guarded(node: Node, function: Callable[..., Any], *given: Any) -> Any:
    """Call a function; what PyTorch refuses is said to be this node.

    Raises:
        Error: it refused.
    """
    with refusing(node):
        return function(*given)


@contextmanager
def refusing(node: Node) -> Iterator[None]:
    """Say of what is raised inside that it is this node.

    Raises:
        Error: something was.
    """
    try:
        yield
    except TooLarge as refusal:
        raise refusal.of(node) from None
    except Error:
        raise
    except _REFUSALS as failure:
        first = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
        raise node.refuse(f"cannot be computed: {first[:200]}") from failure
