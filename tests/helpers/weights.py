"""Weights in codebooks of every form there is, made up."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gq_tvm.ops.checks import GROUPS
from gq_tvm.ops.weight import Outliers, Weight


def weight(
    rows: int = 12, width: int = 70, bits: int = 4, scale: str = "tensor", group: int = 32,
    zero: bool = False, tables: str = "one", outliers: int = 0, stored: str = "float32",
    seed: int = 0,
) -> Weight:  # fmt: skip
    """Any weight there is; `scale` is of the tensor, row or group, `tables` one, block, ..."""
    rng = np.random.default_rng(seed)
    groups = -(-width // group)
    shapes: dict[str, Any] = {"tensor": (1,), "row": (rows,), "group": (rows, groups)}
    counts = {"one": (1,), "block": (rows // 3,), "row": (rows,), "group": (1, groups)}
    values = (
        rng.uniform(1, 100, (2, *shapes[scale]))
        if stored == "uint8"
        else rng.standard_normal((2, *shapes[scale]))
    )
    positions = np.sort(rng.choice(rows * width, outliers, replace=False))
    return Weight(
        rng.integers(0, 2**bits, (rows, width), dtype=np.uint8, endpoint=False),
        rng.standard_normal((*counts[tables], 2**bits)).astype(np.float32),
        values[0].astype(stored),
        values[1].astype(stored) if zero else None,
        Outliers(positions, rng.standard_normal(outliers).astype(np.float16)) if outliers else None,
    )


FORMS = st.builds(
    weight,
    rows=st.sampled_from([3, 12]),
    width=st.integers(129, 300),
    bits=st.integers(1, 8),
    scale=st.sampled_from(["tensor", "row", "group"]),
    group=st.sampled_from(GROUPS),
    zero=st.booleans(),
    tables=st.sampled_from(["one", "block", "row", "group"]),
    outliers=st.sampled_from([0, 5]),
    stored=st.sampled_from(["float32", "float16", "uint8"]),
    seed=st.integers(0, 2**31),
)
