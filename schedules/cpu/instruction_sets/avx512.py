"""AVX-512 with VBMI, VNNI and VPOPCNTDQ (every CPU with the first two has the third).

``vpermb`` looks 64 bytes up in one register by the lowest 6 bits of a byte, ``vpermi2b`` 128 by
the lowest 7. A table can be laid out to read the index from any of those bits and to ignore the
others: no index is masked, and few are shifted (shifts share the pipes of the look-ups, see
`_CODES`). ``vpdpbusd`` multiplies unsigned by signed bytes: centroids are stored with an offset of
128. (Intel SDM vol. 2, VPERMB, VPERMI2B, VPDPBUSD, VPOPCNT; port usage measured on Zen 4.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.codes import Code, Piece, direct, moved
from gq_tvm.schedules.cpu.instruction_sets.base import (
    Expr,
    Gather,
    InstructionSet,
    Loader,
    typed,
    zip_lanes,
)

_BYTES = 64
_FLOATS = 16
_SELECT = 0xCA  # truth table of vpternlogd for "first operand ? second : third"


def _code(reads: tuple[int, ...], *pieces: tuple[int, int, int]) -> Code:
    """A code of (vector, shift, mask) pieces."""
    return Code(tuple(Piece(*piece) for piece in pieces), reads)


_LOW6 = range(6)
# What vpermb cannot see of a packed vector is its bits 6 and 7: they are shifted down by two, or
# joined to bits of another vector and shifted with them.
_CODES: dict[int, Sequence[Code]] = {
    1: [*(direct(0, bit) for bit in _LOW6), moved(0, 2, 4), moved(0, 2, 5)],
    2: [
        code
        for v in (0, 1)
        for code in (direct(v, 0, 1), direct(v, 2, 3), direct(v, 4, 5), moved(v, 2, 4, 5))
    ],
    # Vector 2 holds one index in its bits 0-2, one in 3, 6, 7, and a bit each (5 and 4) of two
    # whose other bits are the tops of vectors 0 and 1.
    3: [
        *(code for v in (0, 1) for code in (direct(v, 0, 1, 2), direct(v, 3, 4, 5))),
        direct(2, 0, 1, 2),
        _code((3, 4, 5), (0, 2, 0x30), (2, 2, 0x0F)),
        _code((2, 4, 5), (1, 2, 0x30), (2, 2, 0x0F)),
        moved(2, 2, 1, 4, 5),
    ],
    # Vectors 0-3 hold an index each below 3 bits of another, whose other 2 are in vector 4.
    5: [
        *(direct(v, 0, 1, 2, 3, 4) for v in range(4)),
        *(_code((0, 1, 3, 4, 5), (v, 2, 0x38), (4, 2 * v, 0x07)) for v in range(4)),
    ],
    # Three vectors hold an index each, and two bits of a fourth.
    6: [
        code
        for v in (0, 3)
        for code in (
            *(direct(v + i, *_LOW6) for i in range(3)),
            _code(tuple(_LOW6), (v, 2, 0x30), (v + 1, 4, 0x0C), (v + 2, 6, 0x03)),
        )
    ],
    # Seven vectors hold an index each, and a bit of the eighth.
    7: [
        *(direct(v, *range(7)) for v in range(7)),
        _code(tuple(range(7)), *((v, 7 - v, 1 << v) for v in range(7))),
    ],
}


class Avx512(InstructionSet):
    """512-bit vectors, byte permutes over 64 and 128 entries, 4-way int8 dot products."""

    name = "avx512"
    vector_bytes = _BYTES
    tile_rows: ClassVar[dict[str, int]] = {"int8": 4, "fp32": 4}
    centroid_offset = 128
    table_entries = 64
    multiplies_vectors = True
    counter = "int32"
    most_counted = 2**26  # 32 bits each

    def join_bits(self, mask: int, one: Expr, other: Expr) -> Expr:
        # By name: out of ands and ors LLVM makes two instructions, having simplified the masks.
        chosen = typed(self.constant_bytes(mask), "int32", _FLOATS)
        a, b = typed(one, "int32", _FLOATS), typed(other, "int32", _FLOATS)
        joined = T.call_llvm_pure_intrin(
            "int32x16", "llvm.x86.avx512.pternlog.d.512", chosen, a, b, T.int32(_SELECT)
        )
        return typed(joined, "uint8", _BYTES)

    def codes(self, bits: int) -> Sequence[Code]:
        return _CODES.get(bits) or super().codes(bits)

    def byte_table(self, values: np.ndarray, reads: Sequence[int]) -> np.ndarray:
        at = np.arange(2 * _BYTES if len(reads) == 7 else _BYTES)
        return values[sum((at >> place & 1) << bit for bit, place in enumerate(reads))]

    def load_byte_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        return [T.bind(load(i * _BYTES, _BYTES)) for i in range(2 if bits == 7 else 1)]

    def look_up_bytes(self, bits: int, table: Sequence[Expr], index: Expr) -> Expr:
        if bits < 7:
            return T.call_llvm_pure_intrin(
                "uint8x64", "llvm.x86.avx512.permvar.qi.512", table[0], index
            )
        return T.call_llvm_pure_intrin(
            "uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", table[0], index, table[1]
        )

    def dot(
        self, sums: Sequence[Expr], weights: Sequence[Expr], activations: Sequence[Expr]
    ) -> Sequence[Expr]:
        total = sums[0]
        for weight, activation in zip(weights, activations, strict=True):
            total = self.dot_vectors(total, weight, T.broadcast(activation, _FLOATS))
        return [total]

    def dot_vectors(self, total: Expr, unsigned: Expr, signed: Expr) -> Expr:
        # LLVM 22 types the operands as bytes, unlike the releases TVM's own intrinsic fits.
        return T.call_llvm_pure_intrin(
            "int32x16",
            "llvm.x86.avx512.vpdpbusd.512",
            total,
            unsigned,
            typed(signed, "int8", _BYTES),
        )

    def count_bits(self, vector: Expr) -> Expr:
        return T.call_llvm_pure_intrin("int32x16", "llvm.ctpop.v16i32", vector)

    def fold_counts(self, counters: Expr) -> Expr:
        return counters

    def float_codes(self, bits: int) -> Sequence[Code]:
        return _CODES[bits] if bits in (6, 7) else super().float_codes(bits)

    def float_order(self, bits: int) -> str:
        return "quarter" if bits > 5 else "output"

    def float_table(self, values: np.ndarray) -> np.ndarray:
        if len(values) > 32:
            return values.astype("<f4").view(np.uint8).reshape(-1, 4).T.reshape(-1)
        return np.tile(values, max(1, _FLOATS // len(values)))

    def load_float_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        if bits > 5:
            return [T.bind(load(i * _BYTES, _BYTES)) for i in range(2 ** (bits - 4))]
        return [T.bind(load(i * _FLOATS, _FLOATS)) for i in range(max(1, 2**bits // _FLOATS))]

    def look_up_floats(
        self, bits: int, table: Sequence[Expr], gather: Gather, index: Expr
    ) -> Sequence[Expr]:
        if bits > 5:
            return _float_bytes(bits, table, index)
        words = typed(index, "uint32", _FLOATS)
        looked_up = []
        for depth in range(4):
            code = T.bind(
                typed(T.shift_right(words, T.broadcast(T.uint32(8 * depth), _FLOATS)), "int32", 16)
            )
            name = "permvar.sf.512" if bits <= 4 else "vpermi2var.ps.512"
            operands = (table[0], code) if bits <= 4 else (table[0], code, table[1])
            looked_up.append(
                T.call_llvm_pure_intrin("float32x16", f"llvm.x86.avx512.{name}", *operands)
            )
        return looked_up


def _float_bytes(bits: int, table: Sequence[Expr], index: Expr) -> Sequence[Expr]:
    """Look floats up as their four bytes, and zip these together.

    Zips stay inside 128 bits; with the bytes in "quarter" order they leave a depth a vector.
    """
    index = T.bind(index)
    size = len(table) // 4
    planes = [T.bind(_bytes(table[p * size : (p + 1) * size], index)) for p in range(4)]
    looked_up = []
    for half in (0, 1):
        low, high = (
            T.bind(typed(zip_lanes(a, b, half, _BYTES, 16), "uint16", 32))
            for a, b in (planes[:2], planes[2:])
        )
        looked_up += [
            typed(zip_lanes(low, high, part, 32, 8), "float32", _FLOATS) for part in (0, 1)
        ]
    return looked_up


def _bytes(table: Sequence[Expr], index: Expr) -> Expr:
    """Look bytes up in 1, 2 or 4 vectors of 64."""
    if len(table) == 1:
        return T.call_llvm_pure_intrin(
            "uint8x64", "llvm.x86.avx512.permvar.qi.512", table[0], index
        )
    found = [
        T.call_llvm_pure_intrin("uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", low, index, high)
        for low, high in zip(table[::2], table[1::2], strict=True)
    ]
    if len(found) == 1:
        return found[0]
    top = typed(index, "int8", _BYTES) < T.broadcast(T.int8(0), _BYTES)
    return tirx.Select(top, T.bind(found[1]), T.bind(found[0]))
