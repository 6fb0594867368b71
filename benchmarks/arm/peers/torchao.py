"""torchao's kernels: unpack, look up in 16 int8 numbers, SDOT; and one with a table of floats.

They take any number of rows, one after the other. Of those with int8 activations, ``lut`` takes any
codebook of up to 4 bits and ``uniform`` equally spaced weights of up to 8.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.arm.peers.library import Kernel, Library

_FOLDER = "torchao/csrc/cpu/torch_free_kernels/aarch64"
_SOURCES = tuple(
    f"{_FOLDER}/{name}.cpp"
    for name in ("reduction/compute_sum", "reduction/find_min_and_max", "quantization/quantize")
)


def _kernels(
    kind: str, most_bits: int, activation: str, feature: str, tile: str
) -> Iterator[Kernel]:
    for bits in range(1, most_bits + 1):
        yield Kernel(
            "torchao", f"{kind}_{bits}", bits, kind != "uniform", activation, (1, 1024), feature,
            f"{tile} {kind}",
        )  # fmt: skip


def _library(feature: str, cpu: str, *kernels: Kernel) -> Library:
    return Library(
        "torchao", "ao", feature, cpu, kernels, "torchao.cc", _SOURCES, options=("-std=c++20",)
    )


LIBRARIES = (
    _library("neon", "generic", *_kernels("float", 4, "fp32", "neon", "1x4x32")),
    _library(
        "dotprod",
        "generic+v8_4a+dotprod",
        *_kernels("lut", 4, "int8", "dotprod", "1x8x16"),
        *_kernels("uniform", 8, "int8", "dotprod", "1x8x16"),
    ),
)
