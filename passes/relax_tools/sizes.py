"""How sizes are written in a manifest."""

from __future__ import annotations

import re
from typing import Any

import tvm


def spelled(size: Any) -> int | str:
    """A size as the manifest has it: a number, or an expression of named sizes."""
    size = size if isinstance(size, int) else tvm.sym.Analyzer().simplify(size)
    if isinstance(size, int | tvm.tirx.IntImm):
        return int(size)
    return re.sub(r"T\.int64\((-?\d+)\)", r"\1", str(size))
