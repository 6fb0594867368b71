#!/bin/bash
# gguf 0.19.0: the scale byte 255 of an MXFP4 block, NaN by the OCP Microscaling specification (E8M0),
# is read as 2^127 (held halved, as the table of values is doubled): damaged blocks become finite huge
# numbers or infinities. ml_dtypes 0.6.0 reads the same byte as NaN.
# Seen: weights of 1.7e38 and inf from gguf, nan from ml_dtypes.
# A reader of MXFP4 has to look at the byte itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check gguf==0.19.0 ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import gguf
import ml_dtypes
import numpy as np

block = np.full((1, 17), 0x21, np.uint8)  # codes 1 and 2: 0.5 and 1 times the scale
block[0, 0] = 255
with np.errstate(over="ignore"):
    weights = gguf.quants.dequantize(block, gguf.GGMLQuantizationType.MXFP4)
scale = block[0, :1].view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
print("gguf:", np.unique(weights), "ml_dtypes:", scale)
assert not np.isnan(weights).any() and weights.min() == np.float32(2.0**127)
assert np.isnan(scale).all()
PYTHON
