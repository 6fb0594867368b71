"""A model of how long a kernel takes, for machines on which nothing was measured.

The kernel's instructions are counted in its TIR (``counts.py``) and divided by what a core issues
in a cycle; its weights are divided by what the cache delivers. Only ratios between kernels for
one target matter.
"""

from __future__ import annotations

from dataclasses import replace

from gq_tvm.schedules.choosing.counts import Counts, count
from gq_tvm.schedules.family import Choice
from gq_tvm.targets.core import KIB, Cache, Core

# Of machines nothing is known of.
_OTHER = Core(
    width=2,
    vectors=1,
    loads=1,
    scalars=2,
    caches=(Cache(32 * KIB, 16), Cache(256 * KIB, 8)),
    memory=2,
    hertz=2e9,
    mca=(),
    source="none",
)


def modelled(choice: Choice) -> float:
    """Return the microseconds a call of a kernel should take on one core."""
    core = choice.target.core or _OTHER
    return 1e6 * cycles(core, kernel_counts(choice)) / core.hertz


def cycles(core: Core, counts: Counts) -> float:
    """The cycles in which a core can issue what was counted."""
    vectors = counts.permutes + counts.dots + counts.arithmetic
    busiest = max(
        vectors / core.vectors,
        (counts.loads + counts.scalar_loads) / core.loads,
        counts.bytes / core.caches[1].bandwidth,
    )
    return busiest + counts.scalar / core.scalars


def kernel_counts(choice: Choice) -> Counts:
    """Count what a kernel executes; of a product of a recurrent layer, what a linear one does.

    Of more rows than are staged at once, a block is counted: its loops are known.
    """
    rows = choice.product.usual_rows
    block = min(rows, choice.schedule.get("block", rows))
    product = replace(choice.product, rows=block, gates=0, outliers="")  # they cost all alike
    kernel = choice.family.linear(replace(choice, product=product))
    return count(kernel).times(rows / max(block, 1))
