"""The families whose kernels are an engine on a vector instruction set."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.ops.reference import expand
from gq_tvm.schedules.dense_f32 import DenseFloatEngine
from gq_tvm.schedules.engine import Engine
from gq_tvm.schedules.family import Family, Product, shared_codebook
from gq_tvm.schedules.instruction_sets import INSTRUCTION_SETS, InstructionSet
from gq_tvm.schedules.linear import linear
from gq_tvm.schedules.lookup import LookupEngine
from gq_tvm.schedules.lookup_f32 import LookupFloatEngine
from gq_tvm.schedules.recurrence import gate_order, recurrence
from gq_tvm.targets import Target


class VectorFamily(Family):
    """An engine for each instruction set, with the loops of ``linear`` and ``recurrence``."""

    activation: str

    def supports(self, target: Target, product: Product) -> bool:
        able = target.instruction_set in INSTRUCTION_SETS and product.fits_int32
        return able and product.activation == self.activation

    def pack(
        self,
        target: Target,
        product: Product,
        indices: NDArray[np.uint8],
        codebook: NDArray[np.float32],
    ) -> dict[str, NDArray]:
        table, scale = self.split(product, codebook)
        if product.recurrent:
            order = gate_order(product.k, INSTRUCTION_SETS[target.instruction_set].lanes)
            padding = order < 0
            indices, scale = indices[order], np.where(padding, np.float32(0), scale[order])
        return self.operands(self._engine(target, product), indices, table, scale)

    def linear(self, target: Target, product: Product, epilogue: str | None) -> tirx.PrimFunc:
        return linear(self._engine(target, product), product.rows, epilogue)

    def recurrence(self, target: Target, product: Product) -> tirx.PrimFunc:
        return recurrence(self._engine(target, product), product.k)

    def _engine(self, target: Target, product: Product) -> Engine:
        isa = INSTRUCTION_SETS[target.instruction_set]
        n = len(gate_order(product.k, isa.lanes)) if product.recurrent else product.n
        return self.engine(isa, n, product.k, product.bits)

    def split(
        self, product: Product, codebook: NDArray[np.float32]
    ) -> tuple[NDArray, NDArray[np.float32]]:
        """Return the table of centroids and the scale of each row."""
        return shared_codebook(product, codebook)

    @abstractmethod
    def engine(self, isa: InstructionSet, n: int, k: int, bits: int) -> Engine:
        """Return a fresh engine: it holds the buffers of one function under construction."""

    @abstractmethod
    def operands(
        self, engine: Engine, indices: NDArray, table: NDArray, scale: NDArray
    ) -> dict[str, NDArray]:
        """Lay the (permuted) indices out for the engine."""


class Lookup(VectorFamily):
    """int8 activations, int8 centroids in a register table, integer dot products."""

    name = "lookup"
    activation = "int8"

    def engine(self, isa: InstructionSet, n: int, k: int, bits: int) -> LookupEngine:
        return LookupEngine(isa, n, k, bits)

    def operands(
        self, engine: Engine, indices: NDArray, table: NDArray, scale: NDArray
    ) -> dict[str, NDArray]:
        assert isinstance(engine, LookupEngine)
        return engine.operands(indices, table, scale)


class LookupFloat(VectorFamily):
    """fp32 activations, fp32 centroids in a register table."""

    name = "lookup_f32"
    activation = "fp32"

    def engine(self, isa: InstructionSet, n: int, k: int, bits: int) -> LookupFloatEngine:
        return LookupFloatEngine(isa, n, k, bits)

    def operands(
        self, engine: Engine, indices: NDArray, table: NDArray, scale: NDArray
    ) -> dict[str, NDArray]:
        assert isinstance(engine, LookupFloatEngine)
        return engine.operands(indices, table, scale)


class DenseFloat(VectorFamily):
    """fp32 weights, expanded at compile time: the baseline codebook kernels are compared with."""

    name = "dense_f32"
    activation = "fp32"

    def supports(self, target: Target, product: Product) -> bool:
        """Any product: activations trained in int8 are computed in fp32 too."""
        return target.instruction_set in INSTRUCTION_SETS

    def split(
        self, product: Product, codebook: NDArray[np.float32]
    ) -> tuple[NDArray, NDArray[np.float32]]:
        return shared_codebook(replace(product, activation="fp32"), codebook)

    def engine(self, isa: InstructionSet, n: int, k: int, bits: int) -> DenseFloatEngine:
        return DenseFloatEngine(isa, n, k)

    def operands(
        self, engine: Engine, indices: NDArray, table: NDArray, scale: NDArray
    ) -> dict[str, NDArray]:
        assert isinstance(engine, DenseFloatEngine)
        return engine.operands(expand(indices, table[None, :]), scale)
