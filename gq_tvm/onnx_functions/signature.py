"""What a function is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
