#!/bin/bash
# gguf 0.19.0: Q4_0 blocks have signed scales. The codes run from -8 to 7 and the scale is taken so
# that the weight of the largest magnitude falls on -8: where that weight is positive the scale is
# negative. About half of all blocks of ordinary weights are so.
# Seen: 47% of 128 blocks of normal noise. A reader that takes a logarithm or a square root of a
# scale, or treats a scale of 0 or less as damage, fails on every real file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check gguf==0.19.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import gguf
import numpy as np

weights = np.random.default_rng(0).standard_normal((1, 4096)).astype(np.float32)
blocks = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_0).reshape(-1, 18)
scales = blocks[:, :2].copy().view(np.float16)[:, 0]
largest = weights.reshape(-1, 32)
largest = np.take_along_axis(largest, abs(largest).argmax(1)[:, None], 1)[:, 0]
print(f"negative scales: {(scales < 0).mean():.0%} of {len(scales)} blocks")
assert 0.3 < (scales < 0).mean() < 0.7
assert (np.sign(scales) == -np.sign(largest)).all()
PYTHON
