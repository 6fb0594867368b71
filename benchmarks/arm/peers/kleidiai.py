"""KleidiAI's micro-kernels with int8 activations: 2 bits of any codebook, 4 and 8 bits uniform.

A name says what is packed together: ``qai8dxp4x8`` 4 rows x 8 inputs of the activations,
``qsi4cxp8x8`` 8 outputs x 8 inputs of 4-bit weights, and behind it the tile of rows x outputs (x
inputs) that is computed at once.
"""

from __future__ import annotations

from benchmarks.arm.peers.library import Kernel, Library

_FOLDER = "kai/ukernels/matmul"
_PACKING = (
    "kai_lhs_quant_pack_qai8dxp_f32",
    "kai_rhs_pack_nxk_qsi4cxp_qs4cxs1s0",
    "kai_rhs_pack_nxk_qsi8cxp_qsi8cx_neon",
    "kai_rhs_pack_nxk_qsu2cxp4x4bf32sf32_qsu2cx_neon",
)
_WEIGHTS = {2: "qsu2cxp", 4: "qsi4cxp", 8: "qsi8cxp"}
_ONE, _MANY = (1, 1), (2, 1024)

# Bits, name, whether its loop is in a file of assembly.
_DOTPROD = (
    (2, "qai8dxp1x4_qsu2cxp4x4bf32sf32_1x4_neon_dotprod", True),
    (2, "qai8dxp4x4_qsu2cxp4x4bf32sf32_8x4_neon_dotprod", True),
    (4, "qai8dxp1x4_qsi4cxp4x4_1x4_neon_dotprod", False),
    (4, "qai8dxp1x8_qsi4cxp4x8_1x4x32_neon_dotprod", False),
    (4, "qai8dxp1x8_qsi4cxp8x8_1x8x32_neon_dotprod", False),
    (4, "qai8dxp4x4_qsi4cxp8x4_8x8x32_neon_dotprod", False),
    (4, "qai8dxp4x8_qsi4cxp4x4_16x4x32_neon_dotprod", True),
    (8, "qai8dxp1x4_qsi8cxp4x4_1x4_neon_dotprod", True),
    (8, "qai8dxp1x8_qsi8cxp4x8_1x4_neon_dotprod", False),
    (8, "qai8dxp4x4_qsi8cxp4x4_16x4_neon_dotprod", False),
)
_I8MM = (
    (4, "qai8dxp4x8_qsi4cxp4x8_4x4x32_neon_i8mm", False),
    (4, "qai8dxp4x8_qsi4cxp4x8_8x4x32_neon_i8mm", False),
    (4, "qai8dxp4x8_qsi4cxp8x8_4x8x32_neon_i8mm", False),
    (4, "qai8dxp4x8_qsi4cxp8x8_8x8x32_neon_i8mm", True),
    (8, "qai8dxp4x8_qsi8cxp4x8_16x4_neon_i8mm", True),
)


def _library(feature: str, cpu: str, names: tuple[tuple[int, str, bool], ...]) -> Library:
    kernels, header = [], []
    sources = [f"{_FOLDER}/pack/{name}.c" for name in _PACKING]
    for bits, short, in_assembly in names:
        name = f"matmul_clamp_f32_{short}"
        path = f"{_FOLDER}/matmul_clamp_f32_qai8dxp_{_WEIGHTS[bits]}/kai_{name}"
        sources += [f"{path}.c", f"{path}_asm.S"] if in_assembly else [f"{path}.c"]
        header += [f'#include "{path}.h"', f"KERNEL({bits}, {name}{', table' * (bits == 2)})"]
        rows = _ONE if short.startswith("qai8dxp1x") else _MANY
        label = short.replace("bf32sf32", "").replace("_neon", "")
        kernels.append(Kernel("KleidiAI", name, bits, bits == 2, "int8", rows, feature, label))
    return Library(
        "KleidiAI", "kleidiai", feature, cpu, tuple(kernels), "kleidiai.c", tuple(sources),
        header="\n".join(header) + "\n",
    )  # fmt: skip


LIBRARIES = (
    _library("dotprod", "generic+v8_2a+dotprod", _DOTPROD),
    _library("i8mm", "generic+v8_2a+dotprod+i8mm", _I8MM),
)
