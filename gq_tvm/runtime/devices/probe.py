"""Asking a device on the far side of an RPC connection what its CPU can do.

A library of one function is compiled for it, sent and called: it works with every TVM RPC server
and needs nothing installed on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.targets import native
from gq_tvm.toolchain.linker import export

# Order of the attempts: a device reached by RPC is most often an ARM board.
TRIPLES = {"aarch64": "aarch64-linux-gnu", "x86_64": "x86_64-linux-gnu"}
SIZE = 16384  # bytes the probe fills; of /proc/cpuinfo the first processor is enough
_WORDS = 8 * len(native.HWCAPS)


def build(machine: str, path: str) -> None:
    """Write the library whose function ``probe(uint8 [SIZE])`` writes what `read` reads."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("probe")
        T.func_attr({"global_symbol": "probe"})
        answer = T.arg("answer", T.buffer((SIZE,), "uint8"))
        words = T.decl_buffer((SIZE // 8,), "uint64", data=answer.data)
        for word, kind in enumerate(native.HWCAPS):
            T.buffer_store(words, T.call_extern("uint64", "getauxval", T.int64(kind)), [word])
        file = T.call_extern("int32", "open", "/proc/cpuinfo", 0)
        text = T.address_of(answer[_WORDS])
        T.evaluate(T.call_extern("int64", "read", file, text, T.int64(SIZE - _WORDS)))
    target = tvm.target.Target({"kind": "llvm", "mtriple": TRIPLES[machine]})
    executable = tvm.compile(tvm.IRModule({"probe": builder.get()}), target=target)
    export(executable, path, TRIPLES[machine])


@dataclass(frozen=True)
class Cpu:
    """What a probe found.

    Attributes:
        machine: ``"x86_64"`` or ``"aarch64"``.
        features: By the names `Target.features` uses.
        name: What the CPU is called.
        emulated: It is a CPU in a program: what it takes says nothing about a real one.
    """

    machine: str
    features: frozenset[str]
    name: str
    emulated: bool


def read(machine: str, answer: np.ndarray) -> Cpu:
    """Return what ``probe`` wrote about the CPU it ran on."""
    words = answer[:_WORDS].view(np.uint64).tolist()
    text = answer[_WORDS:].tobytes().partition(b"\0")[0].decode(errors="replace").splitlines()
    arm = machine == "aarch64"
    features = native.arm_features(words) if arm else native.x86_features(text)
    # QEMU up to 8.1 shows ARM programs the x86 machine's file.
    emulated = arm and bool(native.x86_features(text))
    return Cpu(machine, features, native.cpu_name(text), emulated)
