"""Engine ``dense_int8``: int8 weights a byte each in memory, the honest baseline of `lookup`."""

from __future__ import annotations

from dataclasses import replace

from gq_tvm.schedules.cpu.engines.lookup import LookupEngine
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.schedule import Schedule


class DenseInt8Engine(LookupEngine):
    """What `LookupEngine` does at 8 bits, whatever the bits: the centroids lie in memory."""

    def __init__(self, isa: InstructionSet, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, replace(product, bits=8), schedule)
