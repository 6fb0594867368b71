#!/bin/bash
# onnxruntime 1.32.0: a row of an LSTM whose sequence length is 0 ends with states of zero, not with
# the initial states that were given for it. A loop over no steps, as NumPy, PyTorch or a streaming
# caller would write it, leaves the state as it was.
# Seen: Y_h and Y_c are 0 for the row of length 0, with initial states of 0.5 and 0.25.
# Whoever batches streams of which some have nothing to say has to keep their states itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
steps, batch, inputs, hidden = 3, 2, 3, 4
state = [1, batch, hidden]
node = helper.make_node(
    "LSTM", ["x", "w", "r", "", "lengths", "h", "c"], ["", "h_n", "c_n"], hidden_size=hidden
)
graph = helper.make_graph(
    [node], "graph",
    [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps, batch, inputs]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, [batch]),
        helper.make_tensor_value_info("h", TensorProto.FLOAT, state),
        helper.make_tensor_value_info("c", TensorProto.FLOAT, state),
    ],
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, state) for name in ("h_n", "c_n")],
    [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in {"w": (1, 4 * hidden, inputs), "r": (1, 4 * hidden, hidden)}.items()
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.checker.check_model(model)
session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
)
h, c = np.full(state, 0.5, np.float32), np.full(state, 0.25, np.float32)
x = np.zeros((steps, batch, inputs), np.float32)
last_h, last_c = session.run(None, {"x": x, "lengths": np.int32([steps, 0]), "h": h, "c": c})
print("row of length 0: h", last_h[0, 1], "c", last_c[0, 1])
assert not last_h[0, 1].any() and not last_c[0, 1].any()
assert last_h[0, 0].any() and last_c[0, 0].any()
PYTHON
