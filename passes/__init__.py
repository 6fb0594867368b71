"""The passes from imported Relax to kernels; `phases` has them in their order."""

from __future__ import annotations

from gq_tvm.passes.kernel_calls import kernel_calls
from gq_tvm.passes.parameters import Layer, Parameters
from gq_tvm.passes.phases import lower, products

__all__ = ["Layer", "Parameters", "kernel_calls", "lower", "products"]
