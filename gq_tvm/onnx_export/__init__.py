"""Models with weights in codebooks become ONNX files.

PyTorch's exporter (``torch.onnx``) writes what is PyTorch's, as it knows hundreds of operators and
what versions of ONNX lack. It is not given recurrent layers or codebooks: of recurrent layers it
loses sizes known at run time, of projected ones the weights, and it would write indices as bytes or
expand them. These stay whole, each one node, and become calls of functions that `onnx_functions`
writes. So nothing of an export hangs on what the process exported before.
"""

from __future__ import annotations

from gq_tvm.onnx_export.export import export_onnx

__all__ = ["export_onnx"]
