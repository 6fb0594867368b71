#!/bin/bash
# torchao 0.18.0 with torch 2.13.0: codes of torchao's codebook quantisation may not be uint8, the dtype that
# codes of up to 8 bits are packed in. quant.dequantize_codebook indexes its table with them, and to PyTorch an
# index of uint8 is a mask, not numbers.
# Seen: uint8 codes raise IndexError (the shape of the mask ...); the same codes as int32 or int64 give the
# weight.
# Who writes codes for this operator, or imports them, widens them first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    torch==2.13.0 torchao==0.18.0 numpy==2.4.6
cd "$folder" && venv/bin/python -W ignore - <<'PYTHON' 2> >(grep -A9 Traceback >&2)
import torch
import torchao.prototype.quantization.codebook_coreml

codes = torch.arange(8 * 64).view(8, 64) % 16
table = torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 1, 16, 1).expand(1, 2, 16, 1)
for dtype in torch.uint8, torch.int32, torch.int64:
    try:
        weight = torch.ops.quant.dequantize_codebook(codes.to(dtype), table, 4, [-1, 32])
        right = torch.allclose(weight.double(), table[0, 0, :, 0][codes].double(), atol=1e-6)
        seen = f"{tuple(weight.shape)}, {'the weight' if right else 'another weight'}"
    except Exception as failure:
        seen = f"{type(failure).__name__}: {str(failure)[:40]}"
    print(f"{dtype}: {seen}")
    assert seen.startswith("IndexError" if dtype == torch.uint8 else "(8, 64), the weight")
PYTHON
