"""Decide which kernel family computes each product, with which schedule.

By the times of tuning where the product or one near it was tuned (``schedules.database``), by a
model of the counts in their TIR elsewhere (``schedules.cost``). Baselines and approximate families
are only taken by name; a kernel asked for by name is taken everywhere or refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.errors import Error
from gq_tvm.passes.operators import WEIGHTS, attributes, part_name, with_attrs
from gq_tvm.passes.parameters import digest
from gq_tvm.passes.products import products_of
from gq_tvm.passes.rewriter import CallRewriter, ModulePass, calls_of
from gq_tvm.schedules import Family, Product, Schedule, families_for, family
from gq_tvm.schedules.cost import USUAL_ROWS, modelled
from gq_tvm.schedules.database import Database, Found
from gq_tvm.schedules.family import MOST_INT8_K
from gq_tvm.schedules.vector_family import VectorFamily
from gq_tvm.targets import Target


@dataclass(frozen=True)
class Decision:
    """What computes a product, and whence that is known."""

    family: Family
    schedule: Schedule
    origin: str


@tvm.transform.module_pass(opt_level=0)
class ChooseKernel(ModulePass):
    """Set ``kernel``, ``schedule`` and ``origin`` of every codebook_linear and codebook_lstm.

    Layers that share a weight share its layout too, so that it is packed once: the one with the
    fewest rows, which has the least time to spare, decides.

    Raises:
        Error: no family, or not the one called `kernel`, supports a layer.
    """

    def __init__(
        self,
        target: Target,
        kernel: str = "auto",
        database: Database | None = None,
        threads: int = 1,
    ) -> None:
        self.target = target
        self.forced = None if kernel == "auto" else family(kernel)
        self.database = database or Database()
        self.threads = threads
        self._leaders: dict[str, Product] = {}
        self._decisions: dict[tuple[Product, Product], Decision] = {}

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        self._leaders = _leaders(module)
        return CallRewriter(module, self._rewrite).run()

    def _rewrite(self, _: CallRewriter, call: relax.Call) -> relax.Expr | None:
        changes = dict[str, str]()
        for part, product in products_of(call).items():
            leader = self._leaders.get(_weight(call, part), product) if self._leaders else product
            if (product, leader) not in self._decisions:
                layer = part_name(attributes(call)["layer"], part)
                self._decisions[product, leader] = self._decide(product, leader, layer)
            made = self._decisions[product, leader]
            changes[f"kernel{part}"] = made.family.name
            changes[f"schedule{part}"] = str(made.schedule)
            changes[f"origin{part}"] = made.origin
            # A vector family computes in one arithmetic whatever was trained: the baseline in fp32.
            if isinstance(made.family, VectorFamily):
                changes["activation"] = made.family.arithmetic(product)
        return with_attrs(call, **changes) if changes else None

    def _decide(self, product: Product, leader: Product, layer: str) -> Decision:
        able = self._able(product, layer)
        best = self._best(leader, able)
        if product == leader:
            return best
        found = self._find(best.family, product, only=best.schedule)
        if found is not None:
            return Decision(best.family, found.schedule, _origin(found))
        alike = (
            one
            for one in best.family.space(self.target, product)
            if one.layout == best.schedule.layout
        )
        origin = f"packed as for {leader.sizes}"
        return Decision(best.family, next(alike, best.schedule), origin)

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
        return [one for one in able if not (one.baseline or one.approximate)]

    def _best(self, product: Product, able: list[Family]) -> Decision:
        """The fastest of the families `able`.

        The tuned ones are compared by their times, measured and modelled ones never with one
        another, unless the model puts one first that was never tuned.
        """
        found = {one.name: self._find(one, product) for one in able}
        first = able[0]
        if len(able) > 1:
            defaults = {one.name: one.space(self.target, product)[0] for one in able}
            first = min(
                able, key=lambda one: modelled(one, self.target, product, defaults[one.name])
            )
        if found[first.name] is None:
            origin = "model" if self.forced is None else "asked for"
            return Decision(first, first.space(self.target, product)[0], origin)
        times = [(one, hit) for one in able if (hit := found[one.name]) is not None]
        if any(not hit.modelled for _, hit in times):
            times = [(one, hit) for one, hit in times if not hit.modelled]
        winner, hit = min(times, key=lambda pair: pair[1].microseconds)
        return Decision(winner, hit.schedule, _origin(hit))

    def _find(self, family: Family, product: Product, only: Schedule | None = None) -> Found | None:
        return self.database.find(family, self.target, product, self.threads, only)


def _origin(found: Found) -> str:
    if found.exact:
        return "modelled" if found.modelled else "measured"
    return f"nearest{' modelled' if found.modelled else ''}: {found.of.sizes}"


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
            leaders[weight] = min(leaders.get(weight, product), product, key=_rows)
    return leaders


def _rows(product: Product) -> int:
    return USUAL_ROWS if product.rows is None else product.rows


def _products(module: IRModule) -> Iterator[tuple[Product, relax.Call, str]]:
    for call in calls_of(module):
        for part, product in products_of(call).items():
            yield product, call, part
