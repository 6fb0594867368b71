"""Exported programs in float as modules whose layers can be quantised, and back."""

from __future__ import annotations

from gq_tvm.exported.inputs import read_inputs
from gq_tvm.exported.module import as_module
from gq_tvm.exported.programs import as_programs

__all__ = ["as_module", "as_programs", "read_inputs"]
