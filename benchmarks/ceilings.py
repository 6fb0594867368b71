"""The machine's ceilings: bytes a second from each level of memory, operations a second."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from benchmarks.native import library

# Bytes read again and again, by the level they lie in; below the sizes of common CPUs.
LEVELS = {"L1": 24 << 10, "L2": 384 << 10, "L3": 4 << 20, "DRAM": 256 << 20}
# Names begin so in native/ceilings.c, whatever the instructions are.
FP32, INT8, LOOKUP_DOT, BINARY = "fp32", "int8 dot", "look-up then dot", "1 x 1 bit"


def measure(threads: int, say: Callable[[str], object], rounds: int = 75) -> dict[str, Any]:
    """Measure with ``threads`` threads at once.

    Returns:
        ``clock`` GHz, ``bytes`` GB/s by level, ``operations`` G/s by kind (a multiplication with
        an addition counts as two).
    """
    native = library("ceilings")
    native.ceiling_name.restype = ctypes.c_char_p
    native.read_rate.argtypes = [ctypes.c_size_t, ctypes.c_int, ctypes.c_int]
    for function in (native.read_rate, native.ceiling_rate, native.clock_rate):
        function.restype = ctypes.c_double
    bandwidth, operations = {}, {}
    for level, size in LEVELS.items():
        bandwidth[level] = round(1e-9 * native.read_rate(size, threads, rounds), 1)
        say(f"reading from {level}: {bandwidth[level]} GB/s")
    for number in range(native.ceiling_count()):
        if name := native.ceiling_name(number).decode():
            operations[name] = round(1e-9 * native.ceiling_rate(number, threads, rounds), 1)
            say(f"{name}: {operations[name]} G/s")
    clock = round(1e-9 * native.clock_rate(rounds), 2)
    return {"clock": clock, "bytes": bandwidth, "operations": operations}


def kind(operations: dict[str, float], name: str) -> float | None:
    """The ceiling whose name begins with ``name``, or None where the machine has none."""
    return next((rate for key, rate in operations.items() if key.startswith(name)), None)
