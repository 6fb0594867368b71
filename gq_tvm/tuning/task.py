"""What is tuned: a product, computed by a kernel family on a target."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache

from tvm import tirx

from gq_tvm import targets
from gq_tvm.schedules import Product, Schedule, family


@dataclass(frozen=True)
class Task:
    """A product and what computes it.

    Attributes:
        target: Name of the target.
        family: Name of the kernel family.
        product: The product.
        threads: Threads the kernel runs on.
    """

    target: str
    family: str
    product: Product
    threads: int = 1
    space: tuple[Schedule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        space = family(self.family).space(targets.get(self.target), self.product)
        object.__setattr__(self, "space", tuple(space))

    @property
    def default(self) -> Schedule:
        """The schedule that is taken untuned."""
        return self.space[0]

    @property
    def key(self) -> str:
        """The task as JSON, which `parse` reads."""
        fields = {"target": self.target, "family": self.family, "threads": self.threads}
        return json.dumps({**fields, "product": asdict(self.product)}, sort_keys=True)

    @staticmethod
    @lru_cache
    def parse(key: str) -> Task:
        """The inverse of `key`."""
        fields = json.loads(key)
        return Task(**{**fields, "product": Product(**fields["product"])})

    def __str__(self) -> str:
        text = f"{self.family} {self.product.sizes}, {self.product.bits} bits"
        return text + (f", {self.threads} threads" if self.threads > 1 else "")

    def kernel(self, schedule: Schedule) -> tirx.PrimFunc:
        """The kernel of the product with a schedule."""
        where, parallel = targets.get(self.target), self.threads > 1
        return family(self.family).linear(where, self.product, schedule, None, parallel)
