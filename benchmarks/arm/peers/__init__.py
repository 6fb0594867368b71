"""torchao's and KleidiAI's kernels for 64-bit ARM, built from their sources.

Each is a function of a library that gq-tvm's own kernel runner calls, as it calls gq-tvm's kernels
(``torchao.cc``, ``kleidiai.c``). Nothing of theirs is part of this project: `Library.build` takes a
folder that holds their repositories, ``ao`` and ``kleidiai``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.arm.candidate import INPUTS, OUTPUTS, Call, Candidate
from benchmarks.arm.peers import kleidiai, torchao
from benchmarks.arm.peers.library import Kernel, Library
from gq_tvm.runtime.devices import kernel_runner
from gq_tvm.targets import Target

LIBRARIES = (*torchao.LIBRARIES, *kleidiai.LIBRARIES)

# Activations rounded to 8 bits cost 0.8 % of y; a wrong layout costs all of it.
_ERROR = 0.02
_LARGEST = 14  # entry of an int8 table
_OVERHEAD = 64  # bytes that packed weights may take beside a byte each, for an output


def candidates(
    target: Target, rows: int, libraries: Mapping[Library, Path], command: Sequence[str]
) -> Iterator[Candidate]:
    """What there is for so many rows on `target`.

    Args:
        target: The core.
        rows: Rows of the activations.
        libraries: What `Library.build` wrote, of those there are.
        command: The kernel runner's command line, on an emulated core that has every feature:
            kernels pack their weights by their own functions.
    """
    for library, path in libraries.items():
        for kernel in library.kernels:
            if kernel.runs(target, rows):
                yield Candidate(
                    kernel.system, kernel.label, kernel.bits, kernel.activation,
                    "any" if kernel.any_codebook else "uniform", "", False,
                    partial(_prepare, kernel, rows, path, command),
                )  # fmt: skip


def _prepare(
    kernel: Kernel, rows: int, library: Path, command: Sequence[str], _folder: Path
) -> Call:
    rng, entries = np.random.default_rng(kernel.bits), 2**kernel.bits
    table: NDArray
    indices = rng.integers(0, entries, (OUTPUTS, INPUTS), dtype=np.uint8, endpoint=False)
    if not kernel.any_codebook:
        table = (np.arange(entries) - entries // 2).astype(np.int8)
    elif kernel.activation == "fp32":
        table = rng.standard_normal(entries).astype(np.float32)
    else:  # in no order; KleidiAI's packing adds four entries in 8 bits
        table = rng.permutation(np.linspace(-_LARGEST, _LARGEST, entries)).astype(np.int8)
    scales = rng.uniform(0.5, 1, OUTPUTS).astype(np.float32)
    x = rng.standard_normal((rows, INPUTS)).astype(np.float32)
    room, size = np.zeros(OUTPUTS * (INPUTS + _OVERHEAD), np.uint8), np.zeros(1, np.int64)
    packing = [indices, table, scales, room, size]
    *_, packed, size = kernel_runner.call(command, library, f"pack_{kernel.name}", packing)
    packed = packed[: int(size[0])]
    expected = x @ (table.astype(np.float32)[indices] * scales[:, None]).T

    def wrong(y: NDArray) -> str:
        error = float(np.linalg.norm(y - expected) / np.linalg.norm(expected))
        return "" if error <= _ERROR else f"wrong result: relative L2 error {error:.2g}"

    y = np.zeros((rows, OUTPUTS), np.float32)
    return Call(library, kernel.name, [x, packed, table, y], packed.nbytes + table.nbytes, wrong)
