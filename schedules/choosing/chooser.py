"""Which kernel family computes a product, and with which schedule.

By the times of tuning where the product or one near it was tuned (``database``), by a model of the
counts in their TIR elsewhere (``cost``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from itertools import product as every

from gq_tvm.schedules.choosing.cost import modelled
from gq_tvm.schedules.choosing.database import Database, Found
from gq_tvm.schedules.family import Choice, Family, Product
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import Target

#: A family for each product of a kernel.
Option = tuple[Family, ...]


class Chooser:
    """Chooses families and schedules for a target, by what a database knows."""

    def __init__(self, target: Target, database: Database, threads: int = 1) -> None:
        """Choose kernels that run on `threads` threads."""
        self.target = target
        self.database = database
        self.threads = threads
        self._sources = database.sources()

    def find(self, family: Family, product: Product, only: Schedule | None = None) -> Found | None:
        """See `Database.find`."""
        return self.database.find(family, self.target, product, self.threads, only)

    def choice(self, family: Family, product: Product, otherwise: str = "model") -> Choice:
        """A family's kernel with the schedule tuned for it, or for the nearest; or its first."""
        found = self.find(family, product)
        if found is None:
            first = family.space(self.target, product)[0]
            return Choice(self.target, product, family, first, otherwise)
        return Choice(self.target, product, family, found.schedule, origin(found))

    def best(
        self,
        products: Sequence[Product],
        able: Sequence[Sequence[Family]],
        calls: Sequence[int] = (1,),
        otherwise: str = "model",
    ) -> list[Choice]:
        """The families that compute the products of a kernel in the least time.

        The model's favourites, unless all of them were tuned and others that were are faster.

        Args:
            products: One, or the two of a recurrent layer, whose families must share a kernel.
            able: For each, the families to choose among.
            calls: How often each is computed while the kernel runs.
            otherwise: The origin of what was not tuned.
        """
        options = [one for one in every(*able) if all(a.loops == b.loops for a, b in pairwise(one))]
        winner = options[0]
        if len(options) > 1:
            costs = self._modelled(products, able, calls)
            winner = min(options, key=lambda one: _sum(costs, one))
            if all(map(self.find, winner, products)):
                winner = self._fastest(products, options, calls, winner)
        return list(map(self.choice, winner, products, [otherwise] * len(products)))

    def _modelled(
        self, products: Sequence[Product], able: Sequence[Sequence[Family]], calls: Sequence[int]
    ) -> dict[tuple[int, Family], float]:
        """Microseconds of each family's part, by the number of the product."""
        found = {}
        for i, product in enumerate(products):
            for one in able[i]:
                first = one.space(self.target, product)[0]
                found[i, one] = calls[i] * modelled(Choice(self.target, product, one, first))
        return found

    def _fastest(
        self,
        products: Sequence[Product],
        options: Sequence[Option],
        calls: Sequence[int],
        favourite: Option,
    ) -> Option:
        """The fastest of the tuned options, by times of one source; the favourite if none has any.

        Times of one machine, or model, say nothing beside those of another. Of the sources that
        know the favourite that with most options decides; of several the one that knows these very
        products, by measuring, and the first.
        """
        best, rank = favourite, (0, False, False)
        for source in self._sources:
            hits = {
                (i, one): hit
                for i, product in enumerate(products)
                for one in {option[i] for option in options}
                if (hit := source.find(one, self.target, product, self.threads))
            }
            known = [one for one in options if all(pair in hits for pair in enumerate(one))]
            exact = all(hit.exact for hit in hits.values())
            measured = not any(hit.modelled for hit in hits.values())
            if favourite in known and (len(known), exact, measured) > rank:
                costs = {pair: calls[pair[0]] * hit.microseconds for pair, hit in hits.items()}
                rank = (len(known), exact, measured)
                best = min(known, key=lambda one: _sum(costs, one))
        return best


def origin(found: Found) -> str:
    """Whence a schedule is known, in words."""
    if found.exact:
        return "modelled" if found.modelled else "measured"
    return f"nearest{' modelled' if found.modelled else ''}: {found.of.sizes}"


def _sum(costs: Mapping[tuple[int, Family], float], option: Option) -> float:
    return sum(costs[pair] for pair in enumerate(option))
