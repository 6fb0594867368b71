"""Weights that came as floats and hold few values: the codebooks they are."""

from __future__ import annotations

from gq_tvm.ops.palettes.find import find

__all__ = ["find"]
