"""Which subclasses of PyTorch's layers can be quantised: those that compute as their base does.

A subclass may do what it likes around ``super().forward``, which is ours once it is quantised. It
may not compute with the weight itself, as nothing would tell it that the weight is in a codebook.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import CodeType
from typing import Any

from torch import nn

from gq_tvm.quantize.drop_in.computed_weights import plain_class
from gq_tvm.quantize.drop_in.replacement import Replacement, joined

#: What PyTorch's layers call their weights.
WEIGHTS = re.compile(r"weight(_(ih|hh|hr)(_l\d+(_reverse)?)?)?|(in|q|k|v)_proj_weight")

# What may be asked of a weight without computing with it.
_ASKED = {"dtype", "device", "shape", "size", "ndim", "dim", "numel", "requires_grad", "is_cuda"}
# What gives the weights under other names.
_ALL_WEIGHTS = {"parameters", "named_parameters", "_parameters", "all_weights", "_flat_weights"}
# What a subclass may override: nothing is computed there, or it is looked into.
_FREE = {"forward", "extra_repr", "reset_parameters", "_reset_parameters", "flatten_parameters"}


def why_not(layer: nn.Module, ours: Sequence[type[Replacement]]) -> str | None:
    """Why our layers cannot take the place of a layer that is of their class or a subclass."""
    kind, base = plain_class(layer), ours[0].replaced
    if "forward" in vars(layer):
        return "its forward was set on the layer itself; give its class one that calls super()"
    for name in sorted({name for one in ours for name in _attributes(one)}):
        if hasattr(layer, name) and name not in layer._parameters:
            return f"it has {name}, which a quantised layer has too; rename it"
    above = kind.__mro__[: kind.__mro__.index(base)]
    overridden = next((name for name in _internals(base) for one in above if name in vars(one)), "")
    if overridden:
        return f"{kind.__name__} overrides {overridden} of {base.__name__}"
    try:
        for one in ours:
            joined(one, kind)
    except TypeError:
        return f"the bases of {kind.__name__} leave no place for a quantised {base.__name__}"
    for name, method in _reached(above):
        codes = list(_codes(method))
        if name == "forward" and not any({"super", "forward"} <= set(c.co_names) for c in codes):
            return f"{kind.__name__} computes without super().forward"
        for code in codes:
            if used := _weight_used(code):
                return f"{kind.__name__}.{name} computes with {used} itself"
    return None


def _attributes(ours: type[Replacement]) -> set[str]:
    """What a layer of ours has that PyTorch's has not."""
    base = ours.replaced
    own = ours.__mro__[: ours.__mro__.index(base)]
    names = {name for one in own for name in (*vars(one), *inspect.get_annotations(one))}
    return {name for name in names if not hasattr(base, name) and not WEIGHTS.fullmatch(name)}


def _internals(base: type[nn.Module]) -> list[str]:
    """The methods that compute, other than ``forward``."""
    own = base.__mro__[: base.__mro__.index(nn.Module)]
    names = [n for one in own for n in vars(one) if inspect.isfunction(vars(one)[n])]
    return ["__call__", "__getattr__"] + [n for n in names if n[:2] != "__" and n not in _FREE]


def _reached(above: Sequence[type]) -> Iterator[tuple[str, Any]]:
    """The methods of some classes that run when a layer is called or changes its mode."""
    seen: set[str] = set()
    waiting = ["forward", "train"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for method in [vars(one)[name] for one in above if name in vars(one)]:
            yield name, method
            waiting.extend(used for code in _codes(method) for used in code.co_names)


def _codes(method: Any) -> Iterator[CodeType]:
    """The code of a function, method or property, and of the functions inside."""
    method = getattr(method, "fget", None) or getattr(method, "__func__", method)
    waiting = [getattr(inspect.unwrap(method), "__code__", None)]
    while waiting:
        code = waiting.pop()
        if isinstance(code, CodeType):
            yield code
            waiting.extend(code.co_consts)


def _weight_used(code: CodeType) -> str | None:
    for one, after in pairwise(dis.get_instructions(code)):
        if not one.opname.endswith(("_ATTR", "_METHOD")) or not isinstance(one.argval, str):
            continue
        asked = one.opname.startswith("LOAD") and after.argval in _ASKED
        if one.argval in _ALL_WEIGHTS or (WEIGHTS.fullmatch(one.argval) and not asked):
            return one.argval
    return None
