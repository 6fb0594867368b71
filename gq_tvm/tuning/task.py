"""What is tuned: a product, computed by a kernel family on a target."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache

from tvm import tirx
from tvm_ffi import structural_hash

from gq_tvm import targets
from gq_tvm.schedules import Choice, Product, Schedule, family
from gq_tvm.schedules.choosing.threads import worth_threads
from gq_tvm.schedules.family import written

_KINDS = {1: ", RNN", 3: ", GRU", 4: ", LSTM"}  # by gates


@dataclass(frozen=True)
class Task:
    """A product and what computes it.

    Attributes:
        target: Name of the target.
        family: Name of the kernel family.
        product: The product, in whatever kind of layer: what is run is the linear one.
        threads: Threads the kernel runs on.
        untuned: The schedule that is taken without tuning; None is the family's first.
        space: The schedules the layer's kernel may have.
    """

    target: str
    family: str
    product: Product
    threads: int = 1
    untuned: Schedule | None = field(default=None, repr=False, compare=False)
    space: tuple[Schedule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        space = family(self.family).space(targets.get(self.target), self.product)
        object.__setattr__(self, "space", tuple(space))

    @property
    def default(self) -> Schedule:
        """The schedule that is taken untuned, with which every other is compared."""
        return self.untuned or self.space[0]

    @property
    def linear(self) -> Product:
        """The product as a linear layer with nothing behind it."""
        return replace(self.product, gates=0, glu=False)

    @property
    def key(self) -> str:
        """The task as JSON, which `parse` reads: all but what is taken untuned."""
        fields = {"target": self.target, "family": self.family, "threads": self.threads}
        return json.dumps({**fields, "product": written(asdict(self.product))}, sort_keys=True)

    @staticmethod
    @lru_cache
    def parse(key: str) -> Task:
        """The inverse of `key`."""
        fields = json.loads(key)
        return Task(**{**fields, "product": Product(**fields["product"])})

    def __str__(self) -> str:
        text = f"{self.family} {self.product.sizes}, {self.product.bits} bits"
        text += _KINDS.get(self.product.gates, ", GLU" if self.product.glu else "")
        text += f", groups of {self.product.group}" * (self.product.group > 0)
        return text + (f", {self.threads} threads" if self.threads > 1 else "")

    def choice(self, schedule: Schedule) -> Choice:
        """What computes the product, with a schedule."""
        return Choice(targets.get(self.target), self.product, family(self.family), schedule)

    def run(self, schedule: Schedule) -> Choice:
        """What is run in its place: see `linear`."""
        return replace(self.choice(schedule), product=self.linear)

    def kernel(self, schedule: Schedule) -> tirx.PrimFunc:
        """The kernel that is run, with a schedule."""
        parallel = self.threads > 1 and worth_threads(self.choice(schedule))
        return family(self.family).linear(self.run(schedule), parallel=parallel)


@lru_cache(maxsize=20_000)
def fingerprint(task: Task, schedule: Schedule) -> str:
    """A hash of the kernel, in every process the same: of what it does, however it is written.

    It is equal for schedules that differ in what the product does not need.
    """
    return f"{structural_hash(task.kernel(schedule)) % 2**64:016x}"
