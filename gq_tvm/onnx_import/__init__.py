"""ONNX files become exported programs: a graph is a PyTorch module, its nodes layers of it."""

from __future__ import annotations

from gq_tvm.onnx_import.export import Options, read

__all__ = ["Options", "read"]
