"""Whole models at their published sizes, at 4 bits, against ONNX Runtime's and PyTorch's floats."""
