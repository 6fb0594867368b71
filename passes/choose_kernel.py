"""Decide which kernel family computes each product.

The first family that supports a product on the target is taken, in the order of
``schedules.FAMILIES``; a kernel asked for by name is taken everywhere or refused.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import IRModule

from gq_tvm.errors import Error
from gq_tvm.passes.operators import attributes, with_attrs
from gq_tvm.passes.products import product_of
from gq_tvm.passes.rewriter import CallRewriter, ModulePass
from gq_tvm.schedules import Family, Product, families_for, family
from gq_tvm.schedules.family import MOST_INT8_K
from gq_tvm.schedules.vector_family import VectorFamily
from gq_tvm.targets import Target


@tvm.transform.module_pass(opt_level=0)
class ChooseKernel(ModulePass):
    """Set the attribute ``kernel`` of every codebook_linear and codebook_recurrence.

    Raises:
        Error: no family, or not the one called `kernel`, supports a layer.
    """

    def __init__(self, target: Target, kernel: str = "auto") -> None:
        self.target = target
        self.forced = None if kernel == "auto" else family(kernel)

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return CallRewriter(module, self._choose).run()

    def _choose(self, _: CallRewriter, call: relax.Call) -> relax.Expr | None:
        product = product_of(call)
        if product is None:
            return None
        chosen = self._family(product, attributes(call)["layer"])
        # A vector family computes in one arithmetic whatever was trained: the baseline in fp32.
        activation = product.activation
        if isinstance(chosen, VectorFamily):
            activation = chosen.arithmetic(product)
        schedule = chosen.space(self.target, product)[0]
        return with_attrs(call, kernel=chosen.name, schedule=str(schedule), activation=activation)

    def _family(self, product: Product, layer: str) -> Family:
        what = (
            f"layer {layer} ({product.n} x {product.k}, {product.bits} bits, activation "
            f"{product.activation}) on {self.target.name}"
        )
        able = families_for(self.target, product)
        if self.forced is not None:
            if self.forced.supports(self.target, product):
                return self.forced
            names = ", ".join(one.name for one in able) or "none"
            raise Error(f"kernel {self.forced.name} cannot do {what}; these can: {names}")
        if not product.fits_int32:
            raise Error(
                f"{what} has rows longer than {MOST_INT8_K:,}, whose integer sums may overflow; "
                "compile with activation fp32"
            )
        return able[0]
