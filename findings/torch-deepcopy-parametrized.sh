#!/bin/bash
# torch 2.13.0: a module under a parametrization (here weight_norm) and its deep copy share one class, made
# for the original, and the class holds the property `weight`. Taking the parametrization off the copy
# takes the property off the class: the original, which nobody touched, has no weight any more.
# Seen: the classes are the same object; after remove_parametrizations(copy) the original raises
# AttributeError: 'ParametrizedLinear' object has no attribute 'weight'.
# Whoever folds weight norm in a copy of a user's model has to give the copy a class of its own first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import copy

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

original = parametrizations.weight_norm(nn.Linear(3, 3))
copied = copy.deepcopy(original)
original(torch.zeros(1, 3))
one_class = type(original) is type(copied)
parametrize.remove_parametrizations(copied, "weight")
try:
    original(torch.zeros(1, 3))
    raise SystemExit("the original still works")
except AttributeError as error:
    print("one class:", one_class, "- the original:", error)
assert one_class
PYTHON
