"""The passes from imported Relax to kernels; `phases` has them in their order."""

from __future__ import annotations

from gq_tvm.passes.parameters import Parameters
from gq_tvm.passes.phases import lower, products

__all__ = ["Parameters", "lower", "products"]
