"""A model of how long a kernel takes, for machines on which nothing was measured.

The kernel's instructions are counted in its TIR (``counts.py``) and divided by what a core issues
in a cycle; its weights are divided by what the cache delivers. Only ratios between kernels for
one target matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gq_tvm.schedules.counts import Counts, count
from gq_tvm.schedules.family import Family, Product
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import Target


@dataclass(frozen=True)
class Core:
    """What a core does in a cycle, at best.

    Attributes:
        vectors: Vector instructions.
        loads: Reads of any size.
        scalars: Instructions on scalars.
        bytes: Read from the second-level cache.
        hertz: Cycles a second.
    """

    vectors: float
    loads: float
    scalars: float
    bytes: float
    hertz: float


# By instruction set, from the makers' optimisation guides: Zen 4, Haswell, Cortex-A72 (neon),
# Cortex-A76 (neon-dot); of cores that share an instruction set the ratios are alike.
_CORES = {
    "avx512": Core(vectors=2, loads=2, scalars=4, bytes=32, hertz=3.5e9),
    "avx2": Core(vectors=3, loads=2, scalars=4, bytes=32, hertz=3.5e9),
    "neon": Core(vectors=2, loads=1, scalars=2, bytes=16, hertz=1.5e9),
    "neon-dot": Core(vectors=2, loads=2, scalars=3, bytes=16, hertz=2.4e9),
}
_OTHER = Core(vectors=1, loads=1, scalars=2, bytes=8, hertz=2e9)

#: Rows to expect where they are only known at run time.
USUAL_ROWS = 16


def modelled(family: Family, target: Target, product: Product, schedule: Schedule) -> float:
    """Return the microseconds a call of a family's kernel should take on one core."""
    core = _CORES.get(target.instruction_set, _OTHER)
    return 1e6 * cycles(core, kernel_counts(family, target, product, schedule)) / core.hertz


def cycles(core: Core, counts: Counts) -> float:
    """The cycles in which a core can issue what was counted."""
    vectors = counts.permutes + counts.dots + counts.arithmetic
    busiest = max(
        vectors / core.vectors,
        (counts.loads + counts.scalar_loads) / core.loads,
        counts.bytes / core.bytes,
    )
    return busiest + counts.scalar / core.scalars


def kernel_counts(family: Family, target: Target, product: Product, schedule: Schedule) -> Counts:
    """Count what the kernel of `product` executes.

    Of more rows than are staged at once, a block is counted: its loops are known.
    """
    rows = USUAL_ROWS if product.rows is None else product.rows
    block = min(rows, schedule.block)
    kernel = family.linear(target, replace(product, rows=block, gates=False), schedule, None)
    return count(kernel).times(rows / max(block, 1))
