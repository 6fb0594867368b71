#!/bin/bash
# apache-tvm 0.27.0.post1: a product and a sum that stand apart in TIR are one fused multiply-add in the code
# for every CPU that has one, rounded once where TIR, and NumPy, round twice. One and the same function so
# computes other bits for x86-64 than for x86-64-v3.
# Seen: y[i] = a[i] * b[i] + c[i] of 4096 normal float32: for x86-64 all as NumPy has it, for x86-64-v3 24%
# differ, and all are as the sum in float64, rounded once.
# Who wants kernels that agree bit for bit from CPU to CPU puts llvm.arithmetic.fence around the product.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 numpy==2.4.6
cd "$folder" && cat >multiply_add.py <<'PYTHON'
import numpy as np
import tvm
from tvm.script import tirx as T


@T.prim_func(s_tir=True)
def multiply_add(
    a: T.Buffer((4096,), "float32"),
    b: T.Buffer((4096,), "float32"),
    c: T.Buffer((4096,), "float32"),
    y: T.Buffer((4096,), "float32"),
):
    for i in range(4096):
        y[i] = a[i] * b[i] + c[i]


rng = np.random.default_rng(0)
a, b, c = (rng.standard_normal(4096).astype(np.float32) for _ in range(3))
twice = a * b + c
once = (a.astype(np.float64) * b + c).astype(np.float32)
with open("/proc/cpuinfo") as cpuinfo:
    assert " fma " in cpuinfo.read(), "this takes an x86-64 CPU with FMA"
for cpu, wanted in {"x86-64": twice, "x86-64-v3": once}.items():
    module = tvm.IRModule({"run": multiply_add.with_attr("global_symbol", "run")})
    built = tvm.compile(module, target=tvm.target.Target({"kind": "llvm", "mcpu": cpu}))
    y = tvm.runtime.tensor(np.zeros(4096, np.float32))
    built["run"](*map(tvm.runtime.tensor, (a, b, c)), y)
    print(f"{cpu}: {(y.numpy() != twice).mean():.0%} differ from rounding twice,"
          f" {(y.numpy() != once).mean():.0%} from rounding once")
    assert np.array_equal(y.numpy(), wanted)
assert not np.array_equal(once, twice)
PYTHON
venv/bin/python multiply_add.py
