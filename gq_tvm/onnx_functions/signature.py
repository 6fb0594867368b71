"""What a function is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The attribute of a node of ours that names what its inputs are, until it is a call, and again
#: once that is read.
INPUTS = "inputs"
#: The inputs that are the parts of a recurrent layer's state.
STATE = ("h0", "c0")


@dataclass(frozen=True)
class Signature:
    """An operator of ``torch.ops.gq`` as one node calls it.

    Attributes:
        operator: Its name.
        inputs: Those of its tensors that are given, by the names of its arguments.
        attributes: Its other arguments, and the shapes of the tensors a weight is made of:
            ``indices_shape`` and so on.
    """

    operator: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
