#!/bin/bash
# torch 2.13.0: torch.export counts the buffers of the root module that are None. A model that keeps three
# optional buffers empty, as register_buffer allows, and uses the fourth cannot be exported.
# Seen: IndexError: list index out of range, without a word of the model; the same with the empty buffers
# in a submodule, or registered behind the one in use, exports.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import torch
from torch import nn


class Model(nn.Module):
    """Adds a buffer; three optional ones are empty."""

    def __init__(self, before, inner):
        super().__init__()
        if not before:
            self.register_buffer("used", torch.ones(2))
        self.inner = nn.Module()
        for i in range(3):
            (self.inner if inner else self).register_buffer(f"empty_{i}", None)
        if before:
            self.register_buffer("used", torch.ones(2))

    def forward(self, x):
        return x + self.used


def exported(**where):
    try:
        torch.export.export(Model(**where), (torch.zeros(2),))
        return "exported"
    except IndexError as failure:
        return f"IndexError: {failure}"


for before in (True, False):
    for inner in (True, False):
        print(f"before={before} inner={inner}: {exported(before=before, inner=inner)}")
assert exported(before=True, inner=False).startswith("IndexError")
assert exported(before=True, inner=True) == exported(before=False, inner=False) == "exported"
PYTHON
