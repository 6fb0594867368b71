"""What a core can do in a cycle and how fast its memory is: facts for models of time."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True)
class Cache:
    """A level of cache as one core sees it.

    Attributes:
        size: Bytes.
        bandwidth: Bytes a cycle it delivers to a stream of reads.
    """

    size: int
    bandwidth: float


@dataclass(frozen=True)
class Core:
    """A core, as its manuals and measurements of usual boards describe it.

    Attributes:
        width: Instructions it issues in a cycle, at best.
        vectors: Instructions on whole vector registers in a cycle.
        loads: Reads of whole vector registers from the first-level cache in a cycle.
        scalars: Instructions on scalars in a cycle.
        caches: From the first level up; the last may be shared with other cores.
        memory: Bytes a cycle one core reads from DRAM.
        hertz: Cycles a second of a usual board; with the two before it an assumption.
        mca: The options by which llvm-mca models its pipelines; what it lacks a model for is
            modelled by the nearest core that has one.
        source: Where the figures come from.
        in_order: Whether it waits for what is not there instead of going on with what is.
    """

    width: float
    vectors: float
    loads: float
    scalars: float
    caches: tuple[Cache, ...]
    memory: float
    hertz: float
    mca: tuple[str, ...]
    source: str
    in_order: bool = False

    def bandwidth(self, size: int) -> float:
        """Bytes a cycle at which a stream of `size` bytes is read again and again."""
        fitting = (cache.bandwidth for cache in self.caches if size <= cache.size)
        return next(fitting, self.memory)
