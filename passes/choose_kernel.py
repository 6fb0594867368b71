"""Decide which kernel family computes each product, with which schedule (``schedules.choosing``).

Baselines and approximate families are only taken by name; a kernel asked for by name is taken
everywhere or refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.errors import Error
from gq_tvm.passes.operators import WEIGHTS, attributes, part_name, with_attrs
from gq_tvm.passes.parameters import Parameters, digest
from gq_tvm.passes.products import products_of
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass, calls_of
from gq_tvm.schedules import Choice, Family, Product, families_for, family
from gq_tvm.schedules.choosing.chooser import Chooser, origin
from gq_tvm.schedules.choosing.database import Database
from gq_tvm.schedules.family import MOST_INT8_K
from gq_tvm.targets import Target


@tvm.transform.module_pass(opt_level=0)
class ChooseKernel(ModulePass):
    """Choose for every linear and recurrent layer, into ``Parameters.choices``.

    The products of a recurrent layer are in one kernel, so their families are chosen together.
    Layers that share a weight share its layout too, so that it is packed once: the one with the
    fewest rows, which has the least time to spare, decides.

    Raises:
        Error: no family, or not the one called `kernel`, supports a layer.
    """

    def __init__(
        self,
        target: Target,
        parameters: Parameters,
        kernel: str = "auto",
        database: Database | None = None,
        threads: int = 1,
    ) -> None:
        self.target = target
        self.parameters = parameters
        self.forced = None if kernel == "auto" else family(kernel)
        self.chooser = Chooser(target, database or Database(), threads)
        self._leaders: dict[str, Product] = {}
        self._decisions: dict[tuple[tuple[Product, Product], ...], list[Choice]] = {}

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        self._leaders = _leaders(module)
        return CallRewriter(module, self._rewrite).run()

    def _rewrite(self, _: CallRewriter, call: relax.Call) -> relax.Expr | None:
        products = products_of(call)
        if not products:
            return None
        leaders = [
            self._leaders.get(_weight(call, part), product) if self._leaders else product
            for part, product in products.items()
        ]
        key = tuple(zip(products.values(), leaders, strict=True))
        if key not in self._decisions:
            names = [part_name(attributes(call)["layer"], part) for part in products]
            self._decisions[key] = self._decide(list(products.values()), leaders, names)
        made = dict(zip(products, self._decisions[key], strict=True))
        return with_attrs(call, choice=self.parameters.choose(attributes(call)["layer"], made))

    def _decide(
        self, products: list[Product], leaders: list[Product], names: list[str]
    ) -> list[Choice]:
        """Choose for the products of a call, called `names`, as their leaders want it."""
        able = list(map(self._able, products, names))
        # A recurrent layer computes its others, of one row, for each row of its first product.
        calls = [1, *[max(1, leaders[0].usual_rows)] * (len(products) - 1)]
        otherwise = "model" if self.forced is None else "asked for"
        best = self.chooser.best(leaders, able, calls, otherwise)
        return list(map(self._follow, products, leaders, best))

    def _follow(self, product: Product, leader: Product, best: Choice) -> Choice:
        """What computes `product` with a weight that is packed as is best for `leader`."""
        if product == leader:
            return best
        family = best.family
        found = self.chooser.find(family, product, only=best.schedule)
        if found is not None:
            return Choice(self.target, product, family, found.schedule, origin(found))
        alike = (
            one
            for one in family.space(self.target, product)
            if family.layout(one) == family.layout(best.schedule)
        )
        reason = f"packed as for {leader.sizes}"
        return Choice(self.target, product, family, next(alike, best.schedule), reason)

    def _able(self, product: Product, layer: str) -> list[Family]:
        """The families to choose among."""
        what = (
            f"layer {layer} ({product.n} x {product.k}, {product.bits} bits, activation "
            f"{product.activation}) on {self.target.name}"
        )
        able = families_for(self.target, product)
        if self.forced is not None:
            if self.forced.supports(self.target, product):
                return [self.forced]
            names = ", ".join(one.name for one in able) or "none"
            raise Error(f"kernel {self.forced.name} cannot do {what}; these can: {names}")
        if not product.fits_int32:
            raise Error(
                f"{what} has rows longer than {MOST_INT8_K:,}, whose integer sums may overflow; "
                "compile with activation fp32"
            )
        return [one for one in able if not one.only_by_name]


def _weight(call: relax.Call, part: str) -> str:
    indices = call.args[WEIGHTS[call.op.name][part]]
    return digest(indices.value.numpy()) if isinstance(indices, GenericConst) else ""


def _leaders(module: IRModule) -> dict[str, Product]:
    """For each weight that different products use: that with the fewest rows."""
    by_shape: dict[Product, list[tuple[Product, relax.Call, str]]] = defaultdict(list)
    for product, call, part in _products(module):
        by_shape[replace(product, rows=None)].append((product, call, part))
    leaders: dict[str, Product] = {}
    for uses in by_shape.values():
        if len({product for product, *_ in uses}) == 1:
            continue  # whatever they share, they agree
        for product, call, part in uses:
            weight = _weight(call, part)
            leaders[weight] = min(
                leaders.get(weight, product), product, key=lambda one: one.usual_rows
            )
    return leaders


def _products(module: IRModule) -> Iterator[tuple[Product, relax.Call, str]]:
    for call in calls_of(module):
        for part, product in products_of(call).items():
            yield product, call, part
