#!/bin/bash
# onnx 1.23.2: ReferenceEvaluator, the executable definition of ONNX's operators, computes Softmax of opsets
# before 13 not as their specification says: that flattens the input to two dimensions at `axis` and
# normalises over all that follows; the evaluator normalises the one axis, as from opset 13 on.
# Seen: opset 11, axis 1, of [2, 3, 8]: the evaluator's sums over the last two axes are 8, ONNX Runtime's 1.
# Who tests an importer of old files against it tests Softmax against ONNX Runtime or by hand.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def both(kind, shape, opset, **attributes):
    node = helper.make_node(kind, ["x"], ["y"], **attributes)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return ReferenceEvaluator(model).run(None, {"x": x})[0], session.run(None, {"x": x})[0]


reference, runtime = both("Softmax", [2, 3, 8], 11, axis=1)
sums = [one.sum(axis=(1, 2)).round(3).tolist() for one in (reference, runtime)]
print("Softmax 11, axis 1, sums over axes 1 and 2: evaluator", sums[0], "ONNX Runtime", sums[1])
assert sums == [[8.0, 8.0], [1.0, 1.0]]
PYTHON
