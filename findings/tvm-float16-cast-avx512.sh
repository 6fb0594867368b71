#!/bin/bash
# apache-tvm 0.27.0.post1: a cast of 16 float16 to float32 in TIR is, for a target with AVX-512, not LLVM's
# fpext but the intrinsic llvm.x86.avx512.mask.vcvtph2ps.512: the LLVM IR that TVM gives out for the one
# CPU cannot be compiled for another. The cast of 8, the cast back and the one for x86-64-v3 are portable.
# Seen: the IR made for x86-64-v3, its name replaced by x86-64-v4, is compiled (by the LLVM 22 of llvmlite
# 0.50.0); the other way round LLVM stops: "Do not know how to split the result of this operator!".
# Who wants IR that any CPU takes casts 8 lanes at a time, or in a loop that TIR does not vectorise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 llvmlite==0.50.0 numpy==2.4.6
cd "$folder" && cat >casts.py <<'PYTHON'
import subprocess
import sys

import tvm
from tvm.script import tirx as T

V3, V4 = "x86-64-v3", "x86-64-v4"
COMPILE = """
import sys
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
module = llvm.parse_assembly(sys.stdin.read())
llvm.Target.from_triple(module.triple).create_target_machine(cpu=sys.argv[1]).emit_assembly(module)
"""


@T.prim_func(s_tir=True)
def widen_16(x: T.Buffer((16,), "float16"), y: T.Buffer((16,), "float32")):
    for i in T.vectorized(16):
        y[i] = T.cast(x[i], "float32")


@T.prim_func(s_tir=True)
def widen_8(x: T.Buffer((8,), "float16"), y: T.Buffer((8,), "float32")):
    for i in T.vectorized(8):
        y[i] = T.cast(x[i], "float32")


@T.prim_func(s_tir=True)
def narrow_16(x: T.Buffer((16,), "float32"), y: T.Buffer((16,), "float16")):
    for i in T.vectorized(16):
        y[i] = T.cast(x[i], "float16")


def source(function, cpu):
    """The LLVM IR of a function for a CPU."""
    module = tvm.IRModule({"run": function.with_attr("global_symbol", "run")})
    return tvm.compile(module, target={"kind": "llvm", "mcpu": cpu}).mod.inspect_source("ll")


def cast(function, cpu):
    """What the cast has become."""
    names = "fpext <", "fptrunc <", "llvm.x86.avx512.mask.vcvtph2ps.512("
    return [name.rstrip("<( ") for name in names if name in source(function, cpu)]


def compiled(made_for, cpu):
    """LLVM's failure at compiling, for a CPU, the IR of 16 casts made for another; none where it can."""
    text = source(widen_16, made_for).replace(made_for, cpu)
    done = subprocess.run([sys.executable, "-c", COMPILE, cpu], input=text, capture_output=True, text=True)
    failures = [line for line in done.stderr.splitlines() if "ERROR" in line]
    print(f"made for {made_for}, compiled for {cpu}:", failures or "works")
    assert bool(failures) == bool(done.returncode)
    return bool(failures)


casts = {
    "16 to float32, x86-64-v4": cast(widen_16, V4),
    "16 to float32, x86-64-v3": cast(widen_16, V3),
    "8 to float32, x86-64-v4": cast(widen_8, V4),
    "16 to float16, x86-64-v4": cast(narrow_16, V4),
}
print(*(f"{case}: {found}" for case, found in casts.items()), sep="\n")
assert list(casts.values()) == [["llvm.x86.avx512.mask.vcvtph2ps.512"], ["fpext"], ["fpext"], ["fptrunc"]]
assert not compiled(V3, V4) and not compiled(V4, V4) and compiled(V4, V3)
PYTHON
venv/bin/python casts.py
