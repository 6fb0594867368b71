"""Files of weights by name, as others write them and as ``gq-tvm import`` does."""

from __future__ import annotations

from gq_tvm.weight_files.packed import write_weights
from gq_tvm.weight_files.read import Weights, read_weights

__all__ = ["Weights", "read_weights", "write_weights"]
