"""Asking a device on the far side of an RPC connection what its CPU can do.

A library of one function is compiled for it, sent and called: it works with every TVM RPC server
and needs nothing installed on the device.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.targets import native
from gq_tvm.targets.linker import linker

# Order of the attempts: a device reached by RPC is most often an ARM board.
TRIPLES = {"aarch64": "aarch64-linux-gnu", "x86_64": "x86_64-linux-gnu"}
SIZE = 16384  # bytes the probe fills; of /proc/cpuinfo the first processor is enough


def build(machine: str, path: str) -> None:
    """Write the library whose function ``probe(uint8 [SIZE])`` reports the CPU it runs on."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("probe")
        T.func_attr({"global_symbol": "probe"})
        answer = T.arg("answer", T.buffer((SIZE,), "uint8"))
        if machine == "aarch64":
            words = T.decl_buffer((SIZE // 8,), "uint64", data=answer.data)
            for word, kind in enumerate(native.HWCAPS):
                T.buffer_store(words, T.call_extern("uint64", "getauxval", T.int64(kind)), [word])
        else:
            file = T.call_extern("int32", "open", "/proc/cpuinfo", 0)
            T.evaluate(T.call_extern("int64", "read", file, answer.data, T.int64(SIZE)))
    target = tvm.target.Target({"kind": "llvm", "mtriple": TRIPLES[machine]})
    executable = tvm.compile(tvm.IRModule({"probe": builder.get()}), target=target)
    executable.export_library(path, fcompile=linker(TRIPLES[machine]))


def features(machine: str, answer: np.ndarray) -> frozenset[str]:
    """Return the CPU features in what ``probe`` wrote, by the names `Target.features` uses."""
    if machine == "aarch64":
        return native.arm_features(answer[:16].view(np.uint64).tolist())
    text = answer.tobytes().partition(b"\0")[0].decode(errors="replace")
    return native.x86_features(text.splitlines())
