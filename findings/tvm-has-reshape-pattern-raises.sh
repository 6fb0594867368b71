#!/bin/bash
# apache-tvm 0.27.0.post1: relax.analysis.has_reshape_pattern, which by its documentation answers False
# wherever it cannot prove that a kernel is a reshape, raises an InternalError for the transposition that
# LegalizeOps makes of permute_dims where the size of an axis is a sum of a symbol and a number (frames + 2,
# as behind any padding or convolution). With the symbol alone or a number it answers. A pass that asks it
# has to take the error for a no.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 numpy==2.4.6
cd "$folder" && cat >pattern.py <<'PYTHON'
import tvm
from tvm import relax, tirx


def answer(change):
    """What is said of the transposition of [2, size, 5] to [2, 5, size]."""
    size = change(tirx.Var("frames", "int64"))
    x = relax.Var("x", relax.TensorType([2, size, 5], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.permute_dims(x, [0, 2, 1]))
        builder.emit_func_output(out)
    module = relax.transform.LegalizeOps()(builder.get())
    (kernel,) = [one for one in module.functions.values() if isinstance(one, tirx.PrimFunc)]
    try:
        return str(bool(relax.analysis.has_reshape_pattern(kernel)))
    except tvm.error.InternalError as failure:
        assert "is not divisible by" in str(failure)
        return "InternalError"


found = {
    "7": answer(lambda frames: 7),
    "frames": answer(lambda frames: frames),
    "frames + 2": answer(lambda frames: frames + 2),
}
print(*(f"{size}: {said}" for size, said in found.items()), sep="\n")
assert list(found.values()) == ["False", "False", "InternalError"], found
PYTHON
venv/bin/python pattern.py
