#!/bin/bash
# apache-tvm 0.27.0.post1: a cast of 16 float16 to float32 in TIR is, for a target with AVX-512, not LLVM's
# fpext but the intrinsic llvm.x86.avx512.mask.vcvtph2ps.512: the LLVM IR that TVM gives out for the one
# CPU is of no use for another. The cast of 8, the cast back and the one for x86-64-v3 are portable.
# Who wants IR that any CPU takes casts 8 lanes at a time, or in a loop that TIR does not vectorise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 numpy==2.4.6
cd "$folder" && cat >casts.py <<'PYTHON'
import tvm
from tvm.script import tirx as T

V3, V4 = "x86-64-v3", "x86-64-v4"


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


casts = {
    "16 to float32, x86-64-v4": cast(widen_16, V4),
    "16 to float32, x86-64-v3": cast(widen_16, V3),
    "8 to float32, x86-64-v4": cast(widen_8, V4),
    "16 to float16, x86-64-v4": cast(narrow_16, V4),
}
print(*(f"{case}: {found}" for case, found in casts.items()), sep="\n")
assert list(casts.values()) == [["llvm.x86.avx512.mask.vcvtph2ps.512"], ["fpext"], ["fpext"], ["fptrunc"]]
PYTHON
venv/bin/python casts.py
