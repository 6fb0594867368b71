"""What a kernel executes, counted in its TIR: vector instructions by kind, bytes, registers.

TVM's own feature extractors look for loads and arithmetic of scalars; kernels written in vector
expressions and intrinsics look empty to them. These counts see them. They feed the model of a
kernel's time (``cost.py``) and the features a tuner learns from.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Op, TensorLoad, prim
from tvm.target import codegen

from gq_tvm.targets.instruction_sets import ISAS

#: How often a loop runs whose extent is only known at run time.
UNKNOWN_TRIPS = 4

_REGISTER_BYTES = 64  # of the widest vectors; a buffer this small is kept in a register

# Parts of the names of LLVM's intrinsics.
_PERMUTES = {part for isa in ISAS.values() for part in isa.permutes}
_DOTS = {part for isa in ISAS.values() for part in isa.dots}

_BINARY = (
    *(prim.Add, prim.Sub, prim.Mul, prim.Div, prim.FloorDiv, prim.FloorMod, prim.Min, prim.Max),
    *(prim.LShift, prim.RShift, prim.BitwiseAnd, prim.BitwiseOr, prim.BitwiseXor),
    *(prim.EQ, prim.NE, prim.LT, prim.LE, prim.GT, prim.GE, prim.Select),
)


@dataclass(frozen=True)
class Counts:
    """How often each kind of instruction runs in a call of a kernel.

    Attributes:
        permutes: Vector look-ups and blends.
        dots: Instructions of integer dot products.
        arithmetic: Every other instruction on vectors.
        scalar: Instructions on scalars, those of addresses left out.
        loads: Vectors read from memory.
        scalar_loads: Scalars read from memory, broadcasts among them.
        stores: Vectors and scalars written to memory.
        bytes: Bytes read from the arguments.
        body: Vector instructions in the largest loop without a loop inside, once around.
        registers: Vectors kept in registers around it: accumulators.
    """

    permutes: float = 0
    dots: float = 0
    arithmetic: float = 0
    scalar: float = 0
    loads: float = 0
    scalar_loads: float = 0
    stores: float = 0
    bytes: float = 0
    body: float = 0
    registers: float = 0

    def times(self, calls: float) -> Counts:
        """The counts of several calls; the loop's size and its registers stay."""
        once = {"body": self.body, "registers": self.registers}
        return Counts(
            **{field.name: calls * getattr(self, field.name) for field in fields(self)} | once
        )

    @property
    def values(self) -> list[float]:
        """The counts in the order of the attributes."""
        return [float(getattr(self, field.name)) for field in fields(self)]


def count(kernel: tirx.PrimFunc) -> Counts:
    """Count what a kernel executes; loops of unknown length run `UNKNOWN_TRIPS` times."""
    counter = _Counter(kernel)
    tvm_ffi.structural_visit(kernel.body, counter.callbacks())
    return Counts(**counter.found, body=counter.largest, registers=counter.registers)


class _Counter:
    """Walks statements with the number of times they run."""

    def __init__(self, kernel: tirx.PrimFunc) -> None:
        self.found: dict[str, float] = defaultdict(float)
        self.largest = 0.0
        self.registers = 0
        # Buffers by their hash, which is their address: `==` of expressions is an expression.
        self._arguments = {hash(argument) for argument in kernel.params}
        self._in_registers: set[int] = set()
        self._trips = 1.0
        self._vectors = 0.0  # run so far, weighted like `found`
        self._loops = 0

    def callbacks(self) -> list[Any]:
        """What `tvm_ffi.structural_visit` calls for each kind of node."""
        return [
            (tirx.For, self._loop),
            (tirx.AllocBuffer, self._allocation),
            (tirx.BufferStore, self._store),
            (TensorLoad, self._load),
            (Call, self._call),
            *((kind, self._operation) for kind in _BINARY),
            (prim.Cast, self._operation),
            (prim.Ramp, lambda node, visitor: None),  # an address
        ]

    def _add(self, kind: str, vector: bool, amount: float = 1.0) -> None:
        self.found[kind] += self._trips * amount
        if vector:
            self._vectors += 1

    def _loop(self, node: Any, visitor: Any) -> None:
        trips = int(node.extent) if isinstance(node.extent, prim.IntImm) else UNKNOWN_TRIPS
        loops, vectors, outer = self._loops, self._vectors, self._trips
        self._trips *= trips
        visitor.visit(node.body)
        self._trips = outer
        if self._loops == loops:
            self.largest = max(self.largest, self._vectors - vectors)
        self._loops += 1

    def _allocation(self, node: Any, visitor: Any) -> None:
        buffer = node.buffer
        lanes = int(buffer.shape[0]) if len(buffer.shape) == 1 else 0
        if lanes > 1 and lanes * buffer.dtype.itemsize <= _REGISTER_BYTES:
            self._in_registers.add(hash(buffer))
            self.registers += 1
        visitor.default_visit(node)

    def _store(self, node: Any, visitor: Any) -> None:
        if hash(node.buffer) not in self._in_registers:
            self._add("stores", vector=False)
        visitor.visit(node.value)

    def _load(self, node: Any, visitor: Any) -> None:
        source = hash(node.source)
        if source in self._in_registers:
            return
        lanes = node.ty.dtype.lanes
        self._add("loads" if lanes > 1 else "scalar_loads", vector=lanes > 1)
        if source in self._arguments:
            self._add("bytes", False, node.ty.dtype.itemsize)

    def _call(self, node: Any, visitor: Any) -> None:
        name = node.op.name if isinstance(node.op, Op) else ""
        arguments = list(node.args)
        if name.endswith("address_of"):
            return
        vector = node.ty.dtype.lanes > 1
        if name.startswith("tirx.call_llvm"):
            intrinsic = codegen.llvm_get_intrinsic_name(int(arguments.pop(0)))
            self._add(_kind(intrinsic) if vector else "scalar", vector)
        elif not name.endswith("reinterpret"):
            self._add("arithmetic" if vector else "scalar", vector)
        for argument in arguments:
            visitor.visit(argument)

    def _operation(self, node: Any, visitor: Any) -> None:
        vector = node.ty.dtype.lanes > 1
        self._add("arithmetic" if vector else "scalar", vector)
        visitor.default_visit(node)


def _kind(intrinsic: str) -> str:
    if any(part in intrinsic for part in _PERMUTES):
        return "permutes"
    return "dots" if any(part in intrinsic for part in _DOTS) else "arithmetic"
