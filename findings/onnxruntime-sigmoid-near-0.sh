#!/bin/bash
# onnxruntime 1.32.0, CPU: Sigmoid is a rational function with an absolute error of 1e-7. Near 0 its
# values are not even in order, and from -18 down they are exactly 0: whoever takes the logarithm of
# a probability, or compares small ones by their ratio, gets infinities and noise. NumPy and PyTorch
# give each value to float32's relative precision.
# Seen: sigmoid(-14) 7.7e-07 for 8.3e-07, sigmoid(-16) 6.0e-08 for 1.1e-07, sigmoid(-17) 8.9e-08,
# sigmoid(-18) 0 for 1.5e-08.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

graph = helper.make_graph(
    [helper.make_node("Sigmoid", ["x"], ["y"])], "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
onnx.checker.check_model(model)
session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
)
x = np.float32([-14, -16, -17, -18, -20])
(y,) = session.run(None, {"x": x})
right = 1 / (1 + np.exp(-x.astype(np.float64)))
for at, got, exact in zip(x, y, right):
    print(f"sigmoid({at:.0f}) {got:.2g}, exactly {exact:.2g}")
assert (np.abs(y - right) < 2e-7).all()
assert np.abs(y[:3] / right[:3] - 1).max() > 0.3
assert not y[3:].any() and (right[3:] > np.finfo(np.float32).tiny).all()
PYTHON
