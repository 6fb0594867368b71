"""Exported programs become Relax modules with codebook operators."""

from __future__ import annotations

from gq_tvm.frontend.reading.program import Program, Translated, read, translate, unused_inputs

__all__ = ["Program", "Translated", "read", "translate", "unused_inputs"]
